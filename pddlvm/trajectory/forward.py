"""What the forward map of a problem in time returns: distributions of trajectories.

    u(t, x) ~ N(lift + V c(t), (V Phi(t)) diag(var_a) (V Phi(t))^T + diag(scale^2 shape(t, x)))

Nothing has the size of a trajectory on the mesh until it is asked for, and then of the times that
were asked for alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.checks import (
    broadcast_batch,
    check_finite,
    check_shape,
    check_vectors,
)
from pddlvm.basics.errors import InputError
from pddlvm.basics.random import generator_of, normal_like
from pddlvm.basics.unchanged import Unchanged
from pddlvm.fem.mixed import field_of
from pddlvm.latent.error_shape import ErrorShape
from pddlvm.latent.one_quantity import OneQuantity, along, certificates, known_of
from pddlvm.latent.prediction import OneField, symmetric_interval
from pddlvm.latent.quantity_law import QuantityLaw
from pddlvm.latent.uncertainty import unseen
from pddlvm.linalg.derivatives import root
from pddlvm.linalg.low_rank import LowRank
from pddlvm.sensors.quantity import Quantity, check_quantity
from pddlvm.trajectory.functionals import Functionals, KeptFunctionals
from pddlvm.trajectory.modes import Modes
from pddlvm.trajectory.uncertainty import TrajectoryUncertainty

__all__ = ["TrajectoryForward"]

_FLOOR = 1e-7


@dataclass(frozen=True)
class TrajectoryForward:
    """q(u | z).

    Draws and densities are those of the Gaussian; `interval` has the distribution of single errors
    as the calibration found it. All have a derivative by a z that requires a gradient.

    Attributes:
        times: of the values, (n_times,).
        coefficients: a, (..., p), where they were found: with two corrections those of the first.
        level: corrections.
    """

    times: NDArray[np.float64]
    coefficients: Tensor
    level: int
    _like: Tensor
    _z: Tensor
    _a: Tensor
    _modes: Modes
    _marched: Callable[[], Tensor] | None
    _at: sp.csr_matrix
    _kept: KeptFunctionals
    _uncertainty: Unchanged[TrajectoryUncertainty]
    _variances: Callable[[], tuple[Tensor, Tensor]]
    _certificate: Callable[[Tensor], Tensor]
    _law: Callable[[Quantity], QuantityLaw]

    @cached_property
    def shape(self) -> ErrorShape:
        """That of single errors."""
        return self._uncertainty().forward_shape(self.level)

    @cached_property
    def spread(self) -> Tensor:
        """What multiplies the errors of each field, (n_dofs,) or (1,)."""
        return self._uncertainty().spread(self.level).double().cpu()

    @cached_property
    def mean(self) -> Tensor:
        """Mean trajectory, (..., n_times, n_dofs)."""
        return self._shaped(self._mean)

    @cached_property
    def std(self) -> Tensor:
        """Root mean square of its error, (..., n_times, n_dofs); zero on the Dirichlet boundary."""
        var_a, scale = self._both
        found = self._nothing(len(var_a))
        for k, (shapes, rest) in enumerate(zip(self._shapes_at, self._rest_at, strict=True)):
            found[:, k] = scale[:, None] ** 2 * rest
            found[:, k, self._free] += var_a @ (self._v @ shapes).square().T
        return self._shaped(self.spread * root(found))

    @cached_property
    def residual_norm(self) -> Tensor:
        """Certificate |A0^{-1} R| / |u| of the mean, in L2 of space and time, (...,).

        The size of its error where A(z) is close to A0, seen in more shapes than the model has.
        """
        return self._certificate(self._states).reshape(self._like.shape[:-1]).to(self._like)

    @property
    def error_bound(self) -> None:
        """None: there are no rigorous bounds in time, and `residual_norm` is an estimate."""

    @property
    def error_interval(self) -> None:
        """None, as `error_bound`."""

    def of(self, quantity: Quantity) -> OneQuantity:
        """What is asked of whole trajectories, at the times of the problem, with a law of its own.

        Values are those of the mean, without adjoint solutions or bounds.

        Raises:
            InputError: a quantity of another problem, or an answer at other times than the steps.
        """
        problem = self._modes.steps.problem
        check_quantity(problem, quantity)
        if len(self.times) != problem.n_times or (self.times != problem.times).any():
            raise InputError(
                f"the quantity {quantity.name!r} reads all steps, and this answer is at "
                f"{len(self.times)} times of its own; ask model.forward(z).of(quantity)"
            )

        def value() -> Tensor:
            if quantity.is_linear:
                return self._values(self._functionals(quantity.matrix))
            return quantity(self._mean, self._z)

        def known(value: Tensor) -> tuple[Tensor, Tensor]:
            with unseen():
                if quantity.is_linear:
                    error = self._error(self._functionals(quantity.matrix))
                    size = root(error.diagonal().clamp(min=0))
                else:
                    size = along(quantity, self._mean, self._z, self._variance_along)
            xi = problem.prior.standardise(self._z)
            return known_of(xi, certificates(self.residual_norm), size, value)

        law = partial(self._law, quantity)
        return OneQuantity(quantity, value, known, law, lambda given: None, self._like)

    def field(self, name: str) -> OneField:
        """The same of one field of a `fem.MixedSpace`, by its name; "u" where there is one alone.

        Raises:
            ProblemError: there is no such field.
        """
        return OneField(self, field_of(self._modes.steps.problem.space, name)[0])

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval of each value, (..., n_times, n_dofs) each.

        Args:
            level: probability with which it holds the solution, between 0 and 1.
        """
        return symmetric_interval(self.mean, self.std, self.shape, level)

    def sample(self, shape: int | tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Trajectories, (*shape, ..., n_times, n_dofs)."""
        var_a, scale = self._both
        size, generator = check_shape(shape), None if seed is None else generator_of(seed)
        weights = var_a.sqrt() * normal_like(var_a, size, generator)
        found = []
        for shapes, rest in zip(self._shapes_at, self._rest_at, strict=True):
            std = scale[:, None] * rest.sqrt()
            one = std * normal_like(std, size, generator)
            one[..., self._free] += weights @ (self._v @ shapes).T
            found.append(self.spread * one)
        error = torch.stack(found, dim=-2)
        return self._shaped(self._mean + error, size)

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density of the free degrees of freedom of u at the times, (...,).

        Args:
            u: (..., n_times, n_dofs), at the times of this answer.

        Raises:
            InputError: a u of another shape, or with values that are not finite.
        """
        var_a, scale = self._both
        u, batch = self._checked(u)
        total, p = u.new_zeros(len(u)), var_a.shape[1]
        mean, scale, var_a = (self._spread(x, batch) for x in (self._mean, scale, var_a))
        capacity = torch.eye(p, dtype=torch.float64).repeat(len(var_a), 1, 1)
        right = u.new_zeros(len(var_a), p)
        own = self._spread_at(self._free)
        floor = (_FLOOR * mean.square().mean((1, 2)).sqrt()).square()[:, None]
        for k, (shapes, rest) in enumerate(zip(self._shapes_at, self._rest_at, strict=True)):
            d = (scale[:, None] * own) ** 2 * rest[self._free] + floor
            r = (u - mean)[:, k, self._free]
            w = own[:, None] * (self._v @ shapes)
            scaled = w[None] / d[..., None]
            capacity += var_a.sqrt()[:, :, None] * (w.T @ scaled) * var_a.sqrt()[:, None]
            right += var_a.sqrt() * torch.einsum("np,bn->bp", w, r / d)
            total -= 0.5 * ((r * r / d).sum(-1) + d.log().sum(-1))
            total -= 0.5 * len(self._free) * math.log(2 * math.pi)
        factor = torch.linalg.cholesky(capacity)
        gain = torch.cholesky_solve(right[..., None], factor)[..., 0]
        total += 0.5 * (right * gain).sum(-1) - factor.diagonal(dim1=1, dim2=2).log().sum(-1)
        return total.reshape(batch).to(self._like)

    def values(self, rows: sp.csr_matrix) -> Tensor:
        """Means of linear functionals of u at all times, rows (n, n_times n_dofs) -> (..., n)."""
        found = self._values(self._functionals(rows))
        return found.reshape(*self._like.shape[:-1], found.shape[-1]).to(self._like)

    def covariance(self, rows: Tensor) -> Tensor:
        """Covariance of linear functionals of u at the times, (k, n_times n_dofs) -> (..., k, k).

        Raises:
            InputError: rows of another length.
        """
        n = len(self.times) * self._modes.steps.problem.n_dofs
        rows = check_vectors(rows, "rows", n, f"have {n} values, n_times n_dofs of this answer")
        found = self.error_of(sp.csr_matrix(rows.detach().double().cpu().numpy())).dense()
        return found.reshape(*self._like.shape[:-1], *found.shape[1:]).to(self._like)

    def error_of(self, rows: sp.csr_matrix) -> LowRank:
        """The same by its parts, for sparse rows and batches, float64 on the CPU."""
        return self._error(self._functionals(rows))

    def _functionals(self, rows: sp.csr_matrix) -> Functionals:
        return self._kept.of(self.times, self._at, rows)

    def _values(self, functionals: Functionals) -> Tensor:
        """Means, (batch, n)."""
        if self._marched is None:
            values = functionals.values(self._a)
        else:
            values = functionals.values_of_states(self._states)
        return values if self._lifts is None else values + functionals.lifted(self._lifts)

    def _error(self, functionals: Functionals) -> LowRank:
        return functionals.error(self._uncertainty(), self.level, *self._both)

    def _variance_along(self, slope: Tensor) -> Tensor:
        """Of slope . u, slope (batch or 1, n_times, n_dofs), (batch,)."""
        var_a, scale = self._both
        slope, own = self.spread * slope, 0.0
        seen = slope.new_zeros(len(slope), var_a.shape[1])
        for k, (shapes, rest) in enumerate(zip(self._shapes_at, self._rest_at, strict=True)):
            seen += slope[:, k, self._free] @ (self._v @ shapes)
            own = own + slope[:, k].square() @ rest
        return (seen.square() * var_a).sum(-1) + scale**2 * own

    def _checked(self, u: Tensor) -> tuple[Tensor, torch.Size]:
        """Of each pair of u and z a row, (batch, n_times, n_dofs), and the shape of the batch."""
        n_times, n_dofs = self._mean.shape[1:]
        has = f"have {n_times} times and {n_dofs} degrees of freedom on its last two axes"
        u = check_finite(check_vectors(u, "u", n_dofs, has), "u")
        if u.ndim < 2 or u.shape[-2] != n_times:
            raise InputError(f"u must {has}, got shape {tuple(u.shape)}")
        batch = broadcast_batch(u=u[..., 0], z=self._like)
        u = u.detach().to("cpu", torch.float64).expand(*batch, n_times, n_dofs)
        return u.reshape(math.prod(batch), n_times, n_dofs), batch

    def _spread(self, x: Tensor, batch: torch.Size) -> Tensor:
        """Of each z -> of each pair of u and z."""
        own = x.shape[1:]
        whole = x.reshape((*self._like.shape[:-1], *own)).expand((*batch, *own))
        return whole.reshape((math.prod(batch), *own))

    # --- pieces --------------------------------------------------------------------------------

    @cached_property
    def _states(self) -> Tensor:
        """c at the steps, (batch, N, m)."""
        return self._modes.expand(self._a) if self._marched is None else self._marched()

    @cached_property
    def _mean(self) -> Tensor:
        c, at = self._states, self._dense_at
        found = self._nothing(len(c))
        found[..., self._free] = (at @ c) @ self._v.T
        lifts = self._lifts
        if lifts is not None:
            found += (at @ lifts) @ self._modes.steps.lifts
        return found

    @cached_property
    def _lifts(self) -> Tensor | None:
        """b at the steps, (batch, N, R); None where there are no Dirichlet values but zero."""
        steps = self._modes.steps
        if not len(steps.lifts):
            return None
        return steps.boundary(steps.drive(self._z))

    def _spread_at(self, dof: Tensor) -> Tensor:
        return self.spread.expand(self._modes.steps.problem.n_dofs)[dof]

    @cached_property
    def _dense_at(self) -> Tensor:
        """From the steps to the times, (n_times, N)."""
        return torch.from_numpy(self._at.toarray())

    @property
    def _v(self) -> Tensor:
        return self._modes.steps.v

    @cached_property
    def _free(self) -> Tensor:
        return torch.from_numpy(self._modes.steps.problem.steady.free_dofs)

    @property
    def _shapes_at(self) -> Tensor:
        """Phi at the times, (n_times, m, p)."""
        return torch.tensordot(self._dense_at, self._modes.phi, dims=1)

    @property
    def _rest(self) -> Tensor:
        return self._uncertainty().rest_shape[self.level]

    @property
    def _rest_at(self) -> Tensor:
        """Shape of the rest at the times, (n_times, n_dofs)."""
        groups = self._uncertainty().group.cpu()
        return self._dense_at @ self._rest.double().cpu()[groups]

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        return self._variances()

    def _nothing(self, n: int) -> Tensor:
        n_dofs = self._modes.steps.problem.n_dofs
        return torch.zeros(n, len(self.times), n_dofs, dtype=torch.float64)

    def _shaped(self, u: Tensor, before: tuple[int, ...] = ()) -> Tensor:
        return u.reshape(*before, *self._like.shape[:-1], *u.shape[-2:]).to(self._like)
