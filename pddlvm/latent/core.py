"""The deep latent variable model: forward map, inverse map, and the likelihood that binds them.

    model:  u ~ improper uniform,   z ~ p(z | u) (inverse map),   residual r^ observed as 0
    guide:  z ~ p(z) (prior),       u ~ q(u | z) (forward map)

(Vadeboncoeur et al., arXiv 2208.04856, section 3.) u is represented by its coefficients c in a
basis, z by its standard coordinates xi. By default u is detached before it enters the inverse map:
log p(z | u) rewards a forward map without spread, and would destroy its uncertainty.

What the basis is depends on the problem: a reduced finite element basis for one in weak form,
learnt functions of space and time for one in strong form.
"""

from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Self, TypeVar

import pyro
import torch
from meshio import Mesh
from numpy.typing import ArrayLike
from torch import Tensor, nn

from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import InputError
from pddlvm.basics.unchanged import Unchanged
from pddlvm.latent.inverse import Inverse
from pddlvm.latent.prediction import Prediction
from pddlvm.latent.quantity_law import QuantityLaw
from pddlvm.latent.quantity_laws import QuantityLaws, n_draws_of, solved_draws
from pddlvm.latent.rows import Rows
from pddlvm.latent.seen import SeenValues
from pddlvm.latent.sites import (
    AnyCoefficients,
    Draws,
    InferredParameters,
    KnownBlocks,
    Likelihood,
    RowsOfNormal,
    StandardPrior,
    ZeroResidual,
)
from pddlvm.latent.surrogate import ModelSurrogate
from pddlvm.latent.uncertainty import Uncertainty
from pddlvm.parameters.identity import is_like
from pddlvm.sensors.observation import Observation
from pddlvm.sensors.quantity import Quantity

__all__ = ["LatentModel", "Stage", "supplied"]

_KNOWN_FRACTION = 0.3
_N_SHAPES, _SMALL_SHAPE = 256, 1e-5

Method = TypeVar("Method", bound=Callable[..., Any])


def supplied(method: Method) -> Method:
    """An abstract method, but to type checkers: users call a subclass, which makes another one."""
    method.__isabstractmethod__ = True  # type: ignore[attr-defined]
    return method


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        name: what it trains, for figures.
        share: of the training time.
        networks: what it trains.
        draw: rows of a batch, generator -> by name what a step draws on the CPU, where the model
            is; of the same shapes in each step.
        loss: rows, what was drawn for them -> their share of the negative ELBO per draw, or of a
            part of it: over the processes that have rows of the batch, a sum.
        prepare: called once before its first step.
    """

    name: str
    share: float
    networks: tuple[nn.Module, ...]
    draw: Callable[[Rows, torch.Generator], dict[str, Tensor]]
    loss: Callable[[Rows, dict[str, Tensor]], Tensor]
    prepare: Callable[[], None]


class LatentModel(nn.Module, ABC):
    """Forward and inverse maps of a problem, with their uncertainty; see `LatentVariableModel`.

    Attributes:
        problem: the parametric PDE.
        objective: "detached" or "coupled".
        seed: of the initial weights.
        uncorrected: arguments of `inverse` that leave it to the neural map.
        cheap_corrections: of `forward` that cost next to nothing.
        calibration_share: part of the training time that is kept for the calibration at the end.
    """

    problem: Any
    objective: str
    seed: int
    uncorrected: ClassVar[dict[str, Any]] = {}
    cheap_corrections = 0
    calibration_share: float
    sigma_residual: Tensor
    forward_map: nn.Module
    inverse_map: nn.Module
    uncertainty: Uncertainty
    likelihood: Likelihood

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        moved = fn(self.sigma_residual)
        if moved.dtype not in (torch.float32, torch.float64) or moved.is_meta:
            raise InputError(
                "a model works in float32 or float64, on a device that holds values, not in "
                f"{moved.dtype} on {moved.device.type!r}; use .float(), .double() or .to('cuda')"
            )
        return super()._apply(fn, recurse)

    @property
    def is_calibrated(self) -> bool:
        """Are the reported standard deviations fitted to errors?"""
        return bool(self.uncertainty.is_calibrated)

    @property
    def has_known(self) -> bool:
        """Can some blocks of z be known to the inverse map, and others not?"""
        return len(self.problem.prior.blocks) > 1

    # --- the probabilistic program -------------------------------------------------------------

    def model(self, batch: int | Rows, generator: torch.Generator | None = None) -> None:
        """u ~ improper uniform, z ~ inverse map, residual observed at zero."""
        like, prior, rows = self.sigma_residual, self.problem.prior, Rows.given(batch)
        n = len(rows)
        with pyro.plate("draws", n):
            c = pyro.sample("c", AnyCoefficients(n, self.n_modes))
            read = c if self.objective == "coupled" else c.detach()
            known = self._sample_known(rows, generator)
            xi = pyro.sample("xi", InferredParameters(self.read, prior, read, known))
            residual = ZeroResidual(self.likelihood, prior, c, xi)
            pyro.sample("residual", residual, obs=like.new_zeros(n))

    def guide(self, batch: int | Rows, generator: torch.Generator | None = None) -> None:
        """z ~ prior, u ~ forward map."""
        rows = Rows.given(batch)
        with pyro.plate("draws", len(rows)):
            xi = pyro.sample("xi", self._prior_of(rows, generator))
            self._sample_known(rows, generator)
            mean, log_variance = self.forward_map(xi)
            pyro.sample("c", RowsOfNormal(mean, (0.5 * log_variance).exp(), rows).to_event(1))

    @property
    def draws(self) -> Draws:
        """Where the guide draws xi from."""
        draws: Draws = self.problem.prior
        return draws

    def draw_sites(self, rows: Rows, generator: torch.Generator | None) -> dict[str, Tensor]:
        """What the guide draws from the caller's generator, by site."""
        found = {"xi": self._prior_of(rows, generator).sample()}
        return found | ({"known": self.draw_known(rows, generator)} if self.has_known else {})

    def _prior_of(self, rows: Rows, generator: torch.Generator | None) -> StandardPrior:
        like = self.sigma_residual
        return StandardPrior(self.problem.prior, self.draws, rows, generator, like)

    def _sample_known(self, rows: Rows, generator: torch.Generator | None) -> Tensor | None:
        """The site that says which parameters are known, where some can be."""
        if not self.has_known:
            return None
        drawn = partial(self.draw_known, rows, generator)
        known: Tensor = pyro.sample("known", KnownBlocks(len(rows), self.problem.prior.size, drawn))
        return known

    def draw_known(self, batch: int | Rows, generator: torch.Generator | None) -> Tensor:
        """Random blocks as known, (batch, d) of 0 and 1; none where there is one block only."""
        blocks, rows = self.problem.prior.blocks, Rows.given(batch)
        fraction = _KNOWN_FRACTION if self.has_known else 0.0
        draws = rows.of(torch.rand(rows.total, len(blocks), generator=generator)) < fraction
        sizes = torch.tensor([block.size for block in blocks.values()])
        return draws.repeat_interleave(sizes, dim=1).to(self.sigma_residual)

    # --- what the two kinds of model supply ----------------------------------------------------

    @property
    @supplied
    def n_modes(self) -> int:
        """Length of c."""
        raise NotImplementedError

    @property
    @supplied
    def batch_size(self) -> int:
        """Prior draws per training step, unless told otherwise."""
        raise NotImplementedError

    @supplied
    def read(
        self, c: Tensor, z: Tensor, xi_known: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The inverse map: mean and log variance of xi, from the u of coefficients c at z."""
        raise NotImplementedError

    @supplied
    def forward(self, z: Tensor, corrections: int = 0) -> Prediction:
        """Predict solutions, with uncertainty."""
        raise NotImplementedError

    @supplied
    def norm(self, u: Tensor) -> Tensor:
        """The norm that errors of solutions are measured in, (..., n_dofs) -> (...,)."""
        raise NotImplementedError

    @supplied
    def mean_and_std(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Those of `forward`, by operations on z that can be traced, z not checked."""
        raise NotImplementedError

    @supplied
    def inverse(
        self,
        u: Tensor,
        z_known: dict[str, Tensor] | None = None,
        *,
        noise_std: float | Tensor | None = None,
    ) -> Inverse:
        """Infer parameters from full solutions, with uncertainty."""
        raise NotImplementedError

    @supplied
    def _inverse_of_noisy(
        self, u: Tensor, noise_std: float | Tensor, z_known: dict[str, Tensor] | None
    ) -> Inverse:
        """`inverse` of solutions with noise."""
        raise NotImplementedError

    @supplied
    def invert(self, u: Tensor, xi_known: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of xi by the inverse map alone, (batch, d) each."""
        raise NotImplementedError

    @supplied
    def stages(self, calibrate: bool) -> tuple[Stage, ...]:
        """The parts of the training, in their order; does a calibration follow?"""
        raise NotImplementedError

    @supplied
    def calibrate(self, n_samples: int | None = None, *, seed: int = 1) -> None:
        """Fit the reported standard deviations to the errors of both maps on fresh draws."""
        raise NotImplementedError

    @supplied
    def mesh_of(self, z: Tensor, n_samples: int, seed: int) -> Mesh:
        """Mean, std, draws and parameter fields at one z (d,), for files."""
        raise NotImplementedError

    @supplied
    def content(self) -> dict[str, Any]:
        """What the constructor needs to make it again, for a file."""
        raise NotImplementedError

    @supplied
    def _surrogate(self, observation: Observation, corrections: int) -> ModelSurrogate:
        """See `surrogate`."""
        raise NotImplementedError

    # --- using it ------------------------------------------------------------------------------

    def surrogate(self, observation: Observation, *, corrections: int = 0) -> ModelSurrogate:
        """What it predicts of data.

        Args:
            observation: sensors and noise.
            corrections: Newton steps in the basis, where it has them.

        Raises:
            InputError: the observation belongs to another problem.
        """
        check_kind(Observation, observation=observation)
        if not is_like(self.problem, observation.problem):
            raise InputError(
                f"the observation is of problem {observation.problem.name!r}, the model of "
                f"{self.problem.name!r} or of one with another mesh, other fields or other "
                "physics; make the observation of model.problem"
            )
        return self._surrogate(observation, corrections)

    @cached_property
    def quantity_law(self) -> QuantityLaws:
        """Laws of quantities, (quantity, corrections) -> law."""
        return QuantityLaws(self)

    def solved_draws(self, corrections: int) -> tuple[Tensor, Tensor]:
        """Draws z (n, d) and solutions u, by which quantities are judged after corrections."""
        return solved_draws(self.problem, n_draws_of(self.problem))

    def law_of(self, corrections: int) -> Callable[[Quantity], QuantityLaw]:
        """The same for an answer that is given now, so long as the map is what it is."""
        same = Unchanged(self.forward_map)

        def law(quantity: Quantity) -> QuantityLaw:
            same()
            return self.quantity_law(quantity, corrections)

        return law

    def check_known(
        self, z_known: dict[str, Tensor] | None, batch: torch.Size, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Standard coordinates of known blocks and their mask, (n_batch, d) each."""
        check_kind(Mapping | None, z_known=z_known)
        found = self.problem.prior.known(z_known or {}, batch, like)
        if z_known and not self.has_known:
            raise InputError("z_known would leave nothing to infer: there is one block only")
        return found

    def shapes(self, std: Tensor) -> Tensor:
        """Orthonormal shapes of solutions divided by std, (n_dofs, n), float64 on the CPU."""
        u = self.forward(self.problem.prior.sample((_N_SHAPES,), seed=0)).mean / std
        _, sizes, shapes = torch.linalg.svd(u.double().cpu(), full_matrices=False)
        return shapes[sizes > _SMALL_SHAPE * sizes[0]].T

    def seen_values(self, z: Tensor, u: Tensor, corrections: int) -> SeenValues:
        """What `forward` says beside reference solutions u of parameters z (n, d)."""
        found: Any = self.forward(z, corrections=corrections)
        free = torch.from_numpy(self.problem.free_dofs)
        error = found.mean - u
        return SeenValues(
            mean=found.mean,
            std=found.std,
            true=u,
            interval=found.interval,
            fields={
                name: free[(dofs.start <= free) & (free < dofs.stop)]
                for name, dofs in self.problem.fields_of_u.items()
            },
            relative=error.norm(dim=1) / u.norm(dim=1),
            relative_norm=self.norm(error) / self.norm(u),
            answer=found,
        )

    def quick_answer(self, z: Tensor) -> tuple[Tensor, ...]:
        """What is timed: mean and std of u; of trajectories their coefficients."""
        found = self.forward(z)
        return found.mean, found.std

    def series_of(
        self, z: Tensor, n_samples: int, seed: int, times: "ArrayLike | Tensor | None" = None
    ) -> Iterator[tuple[float, Mesh]]:
        """`mesh_of` in parts, with their times; one part where there is no time.

        Times can be asked for where the problem has steps in time.
        """
        yield 0.0, self.mesh_of(z, n_samples, seed)

    def relative_bars(self, z: Tensor) -> Tensor | None:
        """Error bars of the map relative to solutions, (batch,), where a residual may not see all.

        A residual on a mesh does, in its norm.
        """
        return None

    @property
    def inverse_verdict(self) -> str:
        """On the inverse map, as it was found by a calibration; one that searches has none."""
        return "accept"

    def after_loading(self) -> None:
        """Bring up to date what is not in the state."""

    def training_state(self) -> dict[str, Any]:
        """What the rest of a stage of the training depends on, beside the state of the module."""
        return {}

    def restore_training(self, state: dict[str, Any]) -> None:
        """Take up what `training_state` gave."""

    def finite_parts(self, xi: Tensor) -> dict[str, Tensor]:
        """Parts of the objective by name, evaluated at xi: to say which one is not finite."""
        mean, log_variance = self.forward_map(xi)
        z = self.problem.prior.unstandardise(xi.double())
        return {
            "the forward map": mean + log_variance,
            "the residual likelihood": self.likelihood(mean, z, xi),
        }
