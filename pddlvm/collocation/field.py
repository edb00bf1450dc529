"""What the forward map of a collocation model returns: a random field."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import scipy.sparse as sp
import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from pddlvm.basics.checks import broadcast_batch, check_shape, check_vectors
from pddlvm.basics.errors import InputError
from pddlvm.basics.random import generator_of, normal_like
from pddlvm.latent.error_shape import ErrorShape
from pddlvm.latent.one_quantity import OneQuantity, along, certificates, known_of
from pddlvm.latent.prediction import OneField, symmetric_interval
from pddlvm.latent.quantity_law import QuantityLaw
from pddlvm.latent.uncertainty import unseen
from pddlvm.linalg.low_rank import LowRank, columns_of
from pddlvm.linalg.operators import SparseOperator
from pddlvm.sensors.quantity import Quantity, check_quantity
from pddlvm.strong.problem import CollocationProblem
from pddlvm.strong.unknowns import Unknowns

__all__ = ["Asked", "FieldForward", "Spread"]

_NUGGET = 0.05


@dataclass(frozen=True)
class Spread:
    """Covariance of u at points: modes diag(var_c) modes^T + diag(rest^2).

    Attributes:
        modes: error modes at the points, (n_samples or 1, n_points, n_modes).
        var_c: their variances, (n_samples, n_modes).
        rest: standard deviation of what is left, (n_samples, n_points).
    """

    modes: Tensor
    var_c: Tensor
    rest: Tensor

    def to(self, device: torch.device) -> "Spread":
        """The same on a device, in float64."""
        return Spread(
            *(part.to(device, torch.float64) for part in (self.modes, self.var_c, self.rest))
        )


@dataclass(frozen=True)
class Asked:
    """What was asked of a model.

    Attributes:
        problem: in strong form.
        z: (batch, d), float64 on the CPU.
        is_grid: on the grid of the problem?
        law: of quantities.
    """

    problem: CollocationProblem
    z: Tensor
    is_grid: bool
    law: Callable[[Quantity], QuantityLaw]


@dataclass(frozen=True)
class FieldForward:
    """q(u | z) at points of the box: on the grid of the problem, or where it was asked for.

    Attributes:
        mean: (..., n_points), of several unknowns (..., n_unknowns n_points).
        points: (n_points, k).
        unknowns: of several the mean has the values of one after the other.
        residual_norm: root mean square residual of the mean, relative to that of the lift, (...,).
        shape: distribution of error / std, that of all points; of several unknowns one for each.
    """

    mean: Tensor
    points: Tensor
    residual_norm: Tensor
    shape: ErrorShape
    unknowns: Unknowns
    _std: Callable[[], Tensor]
    _spread: Callable[[], Spread]
    _asked: Asked

    def __repr__(self) -> str:
        return f"FieldForward(mean {tuple(self.mean.shape)} at {len(self.points)} points)"

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation, (..., n_points); zero on hard faces."""
        return self._std().reshape(self.mean.shape).to(self.mean)

    def field(self, name: str) -> OneField:
        """The same of one unknown, by its name; "u" where there is one alone.

        Raises:
            ProblemError: there is no such unknown.
        """
        self.unknowns.number(name)
        return OneField(self, self.unknowns.slices(len(self.points))[name])

    def of(self, quantity: Quantity) -> OneQuantity:
        """What is asked of the values on the grid, with a law of its own; without bounds.

        Raises:
            InputError: a quantity of another problem, or an answer at points of its own.
        """
        asked = self._asked
        check_quantity(asked.problem, quantity)
        if not asked.is_grid:
            raise InputError(
                f"the quantity {quantity.name!r} reads the grid of the problem, and this answer is "
                "at points of its own; ask model.forward(z).of(quantity)"
            )
        u = self.mean.reshape(-1, self.mean.shape[-1]).to("cpu", torch.float64)

        def known(value: Tensor) -> tuple[Tensor, Tensor]:
            with unseen():
                size = along(quantity, u, asked.z, self._variance_along)
            xi = asked.problem.prior.standardise(asked.z)
            return known_of(xi, certificates(self.residual_norm), size, value)

        value, law = partial(quantity, u, asked.z), partial(asked.law, quantity)
        return OneQuantity(quantity, value, known, law, lambda given: None, self.mean)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central interval of each value, (..., n_points) each.

        Args:
            level: probability with which it holds the solution, between 0 and 1.
        """
        shape = self.shape
        if self.unknowns.n > 1:
            shape = ErrorShape(shape.values.repeat_interleave(len(self.points), 0))
        return symmetric_interval(self.mean, self.std, shape, level)

    def sample(self, shape: int | tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Fields, (*shape, ..., n_points)."""
        spread = self.spread
        flat = self.mean.reshape(-1, self.mean.shape[-1])
        shape, generator = check_shape(shape), None if seed is None else generator_of(seed)
        weights = spread.var_c.sqrt() * normal_like(spread.var_c, shape, generator)
        smooth = torch.einsum("bpk,...bk->...bp", spread.modes, weights)
        u = flat + smooth + spread.rest * normal_like(spread.rest, shape, generator)
        return u.reshape(*shape, *self.mean.shape).to(self.mean)

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density of u at the points with spread, (...,).

        With a nugget of a twentieth of std, for what the error modes do not span.
        """
        n = self.mean.shape[-1]
        u = check_vectors(u, "u", n, f"have the values at {n} points on its last axis")
        batch = broadcast_batch(u=u, z=self.mean)
        if not batch.numel():  # `torch.distributions` knows no empty batches
            return self.mean.new_zeros(batch)
        spread = self.spread
        flat = self.mean.reshape(-1, n).double()
        std = self.std.reshape(flat.shape).double()
        free = (std > 0).all(0)
        factor = (spread.modes.double() * spread.var_c.double().sqrt()[:, None, :])[:, free]
        variance = (spread.rest.double().square() + (_NUGGET * std).square())[:, free]
        density = LowRankMultivariateNormal(flat[:, free], factor, variance)
        values = u.to(flat).reshape(-1, *flat.shape)[..., free]
        return density.log_prob(values).reshape(u.shape[:-1]).to(self.mean)

    def covariance(self, rows: Tensor) -> Tensor:
        """Covariance of linear functionals, rows (k, n_points) -> (..., k, k)."""
        spread = self.spread
        shapes = rows @ spread.modes.to(rows)
        smooth = (shapes * spread.var_c.to(rows)[:, None, :]) @ shapes.mT
        found = smooth + (rows * spread.rest.to(rows).square()[:, None, :]) @ rows.T
        return found.reshape(*self.mean.shape[:-1], *found.shape[-2:])

    def error_of(self, rows: sp.csr_matrix) -> LowRank:
        """The same by its parts, for sparse rows and batches (batch, n_points), float64, CPU."""
        spread = self.spread.to(torch.device("cpu"))
        rows, touched = columns_of(rows)
        modes = spread.modes[:, touched] * spread.var_c.sqrt()[:, None, :]
        shapes: Tensor = SparseOperator(rows)(modes.mT).mT
        return LowRank(shapes, rows, spread.rest[:, touched].square())

    def _variance_along(self, slope: Tensor) -> Tensor:
        """Of slope . u, slope (batch or 1, n_points), (batch,)."""
        spread = self.spread.to(torch.device("cpu"))
        # Of linear quantities one slope, and modes that may be the same for all z.
        seen = (slope[:, None] @ spread.modes)[:, 0]
        return (seen.square() * spread.var_c).sum(-1) + (slope * spread.rest).square().sum(-1)

    @cached_property
    def spread(self) -> Spread:
        """The covariance, by its parts."""
        return self._spread()
