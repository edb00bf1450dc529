"""What the forward map of a finite element problem returns: distributions of solutions.

Intervals have the shape that errors were found to have (`ErrorShape`). Everything beyond the mean
coefficients is computed when it is asked for, and kept.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import scipy.sparse as sp
import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from pddlvm.basics.checks import broadcast_batch, check_kind, check_shape
from pddlvm.basics.errors import InputError
from pddlvm.basics.random import generator_of, normal_like
from pddlvm.basics.unchanged import Unchanged
from pddlvm.fem.mixed import field_of
from pddlvm.galerkin.bounds import Certifier, ErrorBounds
from pddlvm.galerkin.quantities import PrimalDual
from pddlvm.latent.error_shape import ErrorShape
from pddlvm.latent.one_quantity import OneQuantity, along, certificates, known_of
from pddlvm.latent.prediction import OneField, symmetric_interval, unflatten
from pddlvm.latent.quantity_law import QuantityLaw
from pddlvm.latent.uncertainty import Uncertainty, unseen
from pddlvm.linalg.derivatives import root
from pddlvm.linalg.low_rank import LowRank, columns_of
from pddlvm.parameters.identity import is_like
from pddlvm.reduced.representation import Representation
from pddlvm.reduced.residual import ReducedModel
from pddlvm.sensors.observation import LinearObservation
from pddlvm.sensors.quantity import Quantity, check_quantity

__all__ = ["Forward"]

_RELATIVE_FLOOR = 1e-7


@dataclass(frozen=True)
class Forward:
    """q(u | z) = N(V mean_c + L a(z), S (V diag(var_c) V^T + diag(var_rest)) S).

    S is the spread of each field of u, one where there is one field.

    Draws and densities are those of this Gaussian. Errors of single values need not be Gaussian:
    `interval` has their distribution, std T(g) with g ~ N(0, 1), as the calibration found it.

    Attributes:
        c: mean coefficients, (..., n_modes); all results have its dtype and device.
        level: 0 of the map, 1 after corrections.
    """

    c: Tensor
    level: int
    _calibrated: Unchanged[Uncertainty]
    _reduced: Unchanged[ReducedModel]
    _source: Unchanged[ReducedModel]
    _augmented: Tensor
    _variances: Callable[[], tuple[Tensor, Tensor]]
    _residual_norm: Callable[[], Tensor]
    _bounds: Callable[[Callable[[], Tensor]], ErrorBounds | None]
    _stability: Callable[[], Tensor]
    _primal_dual: Callable[[Quantity], PrimalDual]
    _certifier: Callable[[], Certifier]
    _law: Callable[[Quantity], QuantityLaw]
    _z: Tensor

    @property
    def representation(self) -> Representation:
        """V and L."""
        return self._reduced().representation

    @property
    def _shown(self) -> Representation:
        """Those of the mean, which may be of more digits, on the CPU."""
        self._reduced()
        return self._source().representation

    @cached_property
    def shape(self) -> ErrorShape:
        """T, for all degrees of freedom, or of several fields for each."""
        return self._calibrated().forward_shape(self.level)

    @cached_property
    def spread(self) -> Tensor:
        """S, (n_dofs,) or (1,)."""
        return self._calibrated().spread(self.level).to(self.c)

    @cached_property
    def mean(self) -> Tensor:
        """Mean solution, (..., n_dofs)."""
        shown = self._shown
        found = shown.solution(self._augmented, self.c.dtype).to(self.c.device)
        if shown.n_lifts == 1:
            return found
        # Boundary values that follow z have no error bar, and so all digits.
        values = unflatten(shown.boundary_values(self._z).to(found), found.shape[:-1])
        return found.index_copy(-1, shown.fixed.to(found.device), values)

    def at(self, observation: LinearObservation) -> Tensor:
        """Means of what sensors see, (..., n), of the rows that they touch: no field is formed.

        Args:
            observation: linear sensors of this problem.

        Raises:
            InputError: of another problem, or not linear.
        """
        check_kind(LinearObservation, observation=observation)
        shown = self._shown
        if not is_like(shown.problem, observation.problem):
            raise InputError(
                f"the observation is of problem {observation.problem.name!r}, the answer of "
                f"{shown.problem.name!r} or of one with another mesh or other fields"
            )
        shown.check_range(self._augmented, self.c.dtype)
        rows, offset = (x.to(self._augmented.device) for x in shown.seen(observation.matrix))
        found = shown.units.u * (self._augmented.double() @ rows.T) + offset
        return found.to(self.c)

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation, (..., n_dofs); zero on the Dirichlet boundary.

        The root mean square of the error, as the calibration found it, and of the rounding of the
        mean: corrected means may be right to more digits than single precision has.
        """
        std = self.spread * self.representation.std(*self._both_variances, self.c)
        # A value is off by up to half of its last digit, evenly.
        rounding = torch.finfo(std.dtype).eps / math.sqrt(12) * self.mean.abs()
        fixed = self.representation.fixed.to(rounding.device)
        rounding = rounding.index_fill(-1, fixed, 0.0)
        if std.requires_grad:
            return root(std.square() + rounding.square())
        return torch.hypot(std, rounding)

    @cached_property
    def residual_norm(self) -> Tensor:
        """Certificate |r| / |u| of the mean, in the norms of K0^{-1} and K0, (...,).

        Where K(z) is close to K0 this is the relative error of the mean in the energy norm.
        """
        return self._residual_norm()

    @property
    def error_bound(self) -> Tensor | None:
        """Upper bound of |u - mean| in the norm of the model, (...,).

        u is the finite element solution, the norm `model.norm`; where the operator is positive, be
        it for constants that a mean value excludes, `problem.energy_norm`. The bound is rigorous,
        of this mean with its rounding, in the units of the problem and float64. None where there is
        none: the problem is not linear, or neither coercive nor a saddle point nor a sum of few
        parts; infinite for single ones of several z.
        """
        found = self._error_bounds
        return None if found is None else self._shaped(found.upper)

    @property
    def error_interval(self) -> tuple[Tensor, Tensor] | None:
        """Lower and upper bound of the same, (...,) each, or None."""
        found = self._error_bounds
        return None if found is None else (self._shaped(found.lower), self._shaped(found.upper))

    @cached_property
    def stability(self) -> Tensor:
        """How far K(z) is from singular, relative to K0, (...,), float64.

        Where there is an `error_bound`, a rigorous lower bound of the least eigenvalue of K(z)
        against K0, or of its inf-sup constant in X. Else an estimate, and no bound: the least
        singular value of W^T K V, W = V where the operator itself is the norm.
        """
        found = self._error_bounds
        return self._shaped(self._stability() if found is None else found.coercivity)

    def field(self, name: str) -> OneField:
        """The same of one field of a `fem.MixedSpace`, by its name; "u" where there is one alone.

        Raises:
            ProblemError: there is no such field.
        """
        return OneField(self, field_of(self.representation.problem.space, name)[0])

    def of(self, quantity: Quantity) -> OneQuantity:
        """What is asked of the solution, with an error bar of its own.

        Linear quantities of linear problems are far better than those of the mean: the first answer
        prepares adjoint solutions, in about the time of the basis.

        Raises:
            InputError: a quantity of another problem.
        """
        self._reduced()
        check_quantity(self.representation.problem, quantity)
        means = self.mean.reshape(-1, self.mean.shape[-1]).to("cpu", torch.float64)
        if not quantity.is_linear:
            value, dual = partial(quantity, means, self._z), None
        else:
            dual = self._primal_dual(quantity)
            value = partial(dual.value, means, self._z)

        def known(value: Tensor) -> tuple[Tensor, Tensor]:
            rho = certificates(self.residual_norm)
            if dual is None or not dual.has_adjoint:
                with unseen():
                    size = along(quantity, means, self._z, self._variance_along)
            else:
                size = dual.rest(means, self._z) * rho * means.norm(dim=1, keepdim=True)
            xi = self.representation.problem.prior.standardise(self._z)
            return known_of(xi, rho, size, value)

        def bound(given: Tensor) -> Tensor | None:
            self._refuse_gradient()
            return None if dual is None else dual.bound(means, self._z, given, self._certifier())

        law = partial(self._law, quantity)
        return OneQuantity(quantity, value, known, law, bound, self.c)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval of each value, (..., n_dofs) each.

        Args:
            level: probability with which it holds the solution, between 0 and 1.
        """
        return symmetric_interval(self.mean, self.std, self.shape, level)

    def sample(self, shape: int | tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Solutions, (*shape, ..., n_dofs)."""
        var_c, var_rest = self._both_variances
        shape, generator = check_shape(shape), None if seed is None else generator_of(seed)
        units = self.representation.units
        weights = var_c.sqrt() * normal_like(var_c, shape, generator)
        error = weights @ self.representation.vectors.T
        error = error + var_rest.sqrt() * normal_like(var_rest, shape, generator)
        return self.mean + self.spread * (units.u * error.to(self.c))

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density of the free degrees of freedom of u, (...,)."""
        u = self.representation.problem.check_solution(u)
        batch = broadcast_batch(u=u, z=self.c)
        if not batch.numel():  # `torch.distributions` knows no empty batches
            return self.c.new_zeros(batch)
        var_c, var_rest = (v.double() for v in self._both_variances)
        free = torch.from_numpy(self.representation.problem.free_dofs).to(var_c.device)
        units = self.representation.units
        # Relative to U, as the variances are.
        mean = (self._augmented.double() @ self._shown.rows.double()).to(var_c)
        mean, offset = mean[..., free], self.representation.offset[free]
        floor = (_RELATIVE_FLOOR * mean.square().mean(-1, keepdim=True).sqrt()).square()
        spread = self.spread.to(var_c).expand(var_rest.shape[-1])[free]
        factor = self.representation.vectors.double()[free] * var_c.sqrt()[..., None, :]
        rest = spread.square() * var_rest[..., free] + floor
        density = LowRankMultivariateNormal(mean, spread[:, None] * factor, rest)
        relative = (u.to(mean)[..., free] - offset) / units.u
        log_prob = density.log_prob(relative) - len(free) * math.log(units.u)
        return log_prob.to(self.c)

    def covariance(self, rows: Tensor) -> Tensor:
        """Covariance of linear functionals, rows (k, n_dofs) -> (..., k, k)."""
        rows = self.representation.units.u * rows * self.spread.to(rows)
        var_c, var_rest = (v.to(rows) for v in self._both_variances)
        shapes = rows @ self.representation.vectors.to(rows)
        smooth = (shapes * var_c[..., None, :]) @ shapes.T
        return smooth + (rows * var_rest[..., None, :]) @ rows.T

    def error_of(self, rows: sp.csr_matrix) -> LowRank:
        """The same by its parts, for sparse rows and batches (batch, n_dofs), float64, CPU."""
        var_c, var_rest = (v.double().cpu() for v in self._both_variances)
        spread = self.spread.double().cpu().expand(rows.shape[1]).numpy()
        scaled = rows @ sp.diags(self.representation.units.u * spread)
        rows, touched = columns_of(sp.csr_matrix(scaled))
        shapes = torch.from_numpy(
            rows @ self.representation.vectors[touched].double().cpu().numpy()
        )
        return LowRank(shapes * var_c.sqrt()[:, None, :], rows, var_rest[:, touched])

    @cached_property
    def _error_bounds(self) -> ErrorBounds | None:
        self._refuse_gradient()
        found = self._bounds(lambda: self.mean)
        if found is None or not ((found.upper < torch.inf).any() or not found.upper.numel()):
            return None
        return found

    def _refuse_gradient(self) -> None:
        if self._z.requires_grad:
            raise InputError("z requires a gradient, and error_bound has none; give z.detach()")

    def _variance_along(self, slope: Tensor) -> Tensor:
        """Of slope . u, slope (batch or 1, n_dofs), (batch,), float64 on the CPU."""
        var_c, var_rest = (v.reshape(-1, v.shape[-1]).to(slope) for v in self._both_variances)
        scaled = self.representation.units.u * self.spread.to(slope) * slope
        shapes = scaled @ self.representation.vectors.to(slope)
        return (shapes.square() * var_c).sum(-1) + (scaled.square() * var_rest).sum(-1)

    def _shaped(self, values: Tensor) -> Tensor:
        return values.reshape(self.c.shape[:-1]).to(self.c.device)

    @cached_property
    def _both_variances(self) -> tuple[Tensor, Tensor]:
        return self._variances()
