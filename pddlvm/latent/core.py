"""The deep latent variable model: forward map, inverse map, and the likelihood that binds them.

    model:  u ~ improper uniform,   z ~ p(z | u) (inverse map),   residual r^ observed as 0
    guide:  z ~ p(z) (prior),       u ~ q(u | z) (forward map)

(Vadeboncoeur et al., arXiv 2208.04856, section 3.) u is represented by its coefficients c in a
basis, z by its standard coordinates xi. By default u is detached before it enters the inverse map:
log p(z | u) rewards a forward map without spread, and would destroy its uncertainty.

What the basis is depends on the problem: a reduced finite element basis for a `Problem`
(`GalerkinModel`), learnt functions of space and time for a `CollocationProblem`
(`CollocationModel`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pddlvm.basics.by_object import ByObject
from pddlvm.basics.errors import InputError
from pddlvm.kept import ANYTHING, KeptDensity, checksum
from pddlvm.latent.inverse import Inverse
from pddlvm.latent.sites import InferredParameters, StandardPrior, ZeroResidual
from pddlvm.latent.uncertainty import Uncertainty

if TYPE_CHECKING:
    from pddlvm.collocation.likelihood import Causal
    from pddlvm.collocation.model import CollocationModel
    from pddlvm.collocation.predictions import FieldForward
    from pddlvm.covariances import Covariance
    from pddlvm.forward import Forward
    from pddlvm.inference.amortized import Amortized
    from pddlvm.inference.families import Family
    from pddlvm.inference.infer import Method
    from pddlvm.inference.posterior import Posterior
    from pddlvm.model import GalerkinModel, Objective
    from pddlvm.parameters.problem import ParametricProblem
    from pddlvm.reduced.bases import Basis
    from pddlvm.reduced.reduction import Reduction
    from pddlvm.sensors.observation import Observation
    from pddlvm.strong.points import PointSampler
    from pddlvm.strong.problem import CollocationProblem
    from pddlvm.weak.problem import Problem

__all__ = ["LatentVariableModel", "Stage"]

_KNOWN_FRACTION = 0.3


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        name: what it trains, for figures.
        share: of the training time.
        networks: what it trains.
        loss: batch size, generator -> the negative ELBO per draw, or a part of it.
        prepare: called once before its first step.
    """

    name: str
    share: float
    networks: tuple[nn.Module, ...]
    loss: Callable[[int, torch.Generator], Tensor]
    prepare: Callable[[], None]


class LatentVariableModel(nn.Module):
    """Forward and inverse maps of a problem, with their uncertainty.

    `LatentVariableModel(problem, ...)` makes the model that fits the problem, see there for the
    arguments: of a `Problem` a `GalerkinModel` (basis, covariance, objective, reduction), of a
    `CollocationProblem` a `CollocationModel` (points, tolerance, causal, n_functions); of both
    forward_network, inverse_network, seed, dtype.
    """

    problem: Any
    objective: str
    seed: int
    sigma_residual: Tensor
    forward_map: nn.Module
    inverse_map: nn.Module
    uncertainty: Uncertainty
    likelihood: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(c, z, xi) -> log p(r^ = 0 | c, z) up to a constant, (batch,)."""

    @overload
    def __new__(
        cls,
        problem: "Problem",
        *,
        basis: "Basis | None" = None,
        covariance: "Covariance | None" = None,
        objective: "Objective" = "detached",
        forward_network: nn.Module | None = None,
        inverse_network: nn.Module | None = None,
        reduction: "Reduction | None" = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "GalerkinModel": ...

    @overload
    def __new__(
        cls,
        problem: "CollocationProblem",
        *,
        points: "PointSampler" = ...,
        tolerance: float = 1e-2,
        causal: "Causal | None" = None,
        n_functions: int = 128,
        forward_network: nn.Module | None = None,
        inverse_network: nn.Module | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "CollocationModel": ...

    @overload
    def __new__(
        cls,
        problem: "ParametricProblem",
        *,
        forward_network: nn.Module | None = None,
        inverse_network: nn.Module | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "LatentVariableModel": ...

    def __new__(cls, *arguments: Any, **options: Any) -> "LatentVariableModel":
        """The final class that fits the problem, as `pathlib.Path` does for paths."""
        if cls is not LatentVariableModel:
            return super().__new__(cls)
        from pddlvm.collocation.model import CollocationModel
        from pddlvm.model import GalerkinModel
        from pddlvm.strong.problem import CollocationProblem

        problem = options.get("problem", arguments[0] if arguments else None)
        in_strong_form = isinstance(problem, CollocationProblem)
        return super().__new__(CollocationModel if in_strong_form else GalerkinModel)

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

    def model(self, batch: int, generator: torch.Generator | None = None) -> None:
        """u ~ improper uniform, z ~ inverse map, residual observed at zero."""
        like, prior = self.sigma_residual, self.problem.prior
        with pyro.plate("draws", batch):
            c = pyro.sample(
                "c",
                dist.ImproperUniform(
                    constraints.real_vector, torch.Size([batch]), torch.Size([self.n_modes])
                ),
            )
            read = c if self.objective == "coupled" else c.detach()
            known = self.draw_known(batch, generator) if self.has_known else None
            xi = pyro.sample("xi", InferredParameters(self.read, prior, read, known))
            residual = ZeroResidual(self.likelihood, prior, c, xi)
            pyro.sample("residual", residual, obs=like.new_zeros(batch))

    def guide(self, batch: int, generator: torch.Generator | None = None) -> None:
        """z ~ prior, u ~ forward map."""
        prior = StandardPrior(self.problem.prior, batch, generator, self.sigma_residual)
        with pyro.plate("draws", batch):
            xi = pyro.sample("xi", prior)
            mean, log_variance = self.forward_map(xi)
            pyro.sample(
                "c", dist.Normal(mean, (0.5 * log_variance).exp(), validate_args=False).to_event(1)
            )

    def draw_known(self, batch: int, generator: torch.Generator | None) -> Tensor:
        """Random blocks as known, (batch, d) of 0 and 1; none where there is one block only."""
        blocks = self.problem.prior.blocks
        fraction = _KNOWN_FRACTION if self.has_known else 0.0
        draws = torch.rand(batch, len(blocks), generator=generator) < fraction
        sizes = torch.tensor([block.size for block in blocks.values()])
        return draws.repeat_interleave(sizes, dim=1).to(self.sigma_residual)

    # --- what the two kinds of model supply ----------------------------------------------------
    # Not marked as abstract: users call this class, and type checkers would refuse it.

    @property
    def n_modes(self) -> int:
        """Length of c."""
        raise NotImplementedError

    @property
    def calibration_share(self) -> float:
        """Part of the training time that is kept for the calibration at the end."""
        raise NotImplementedError

    @property
    def batch_size(self) -> int:
        """Prior draws per training step, unless told otherwise."""
        raise NotImplementedError

    def read(
        self, c: Tensor, z: Tensor, xi_known: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The inverse map: mean and log variance of xi, from the u of coefficients c at z."""
        raise NotImplementedError

    def forward(self, z: Tensor, corrections: int = 0) -> "Forward | FieldForward":
        """Predict solutions, with uncertainty."""
        raise NotImplementedError

    def inverse(
        self,
        u: Tensor,
        z_known: dict[str, Tensor] | None = None,
        *,
        noise_std: float | Tensor | None = None,
    ) -> Inverse:
        """Infer parameters from full solutions, with uncertainty."""
        raise NotImplementedError

    def stages(self, calibrate: bool) -> tuple[Stage, ...]:
        """The parts of the training, in their order; does a calibration follow?"""
        raise NotImplementedError

    def calibrate(self, n_samples: int | None = None, *, seed: int = 1) -> None:
        """Fit the reported standard deviations to the errors of both maps on fresh draws."""
        raise NotImplementedError

    # --- using it ------------------------------------------------------------------------------

    def check_known(
        self, z_known: dict[str, Tensor] | None, batch: torch.Size, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Standard coordinates of known blocks and their mask, (n_batch, d) each."""
        if z_known and not self.has_known:
            raise InputError("z_known would leave nothing to infer: there is one block only")
        return self.problem.prior.known(z_known or {}, batch, like)

    def infer(
        self,
        y: Tensor,
        observation: "Observation",
        method: "Method" = "laplace",
        *,
        n_samples: int = 1000,
        n_chains: int = 4,
        seed: int = 0,
    ) -> "Posterior":
        """Posterior of the parameters from noisy, partial data.

        Args:
            y: data, (..., n); NaN where nothing was measured.
            observation: sensors and noise, of the problem of this model.
            method:
                "laplace": Gauss-Newton on the corrected map, then a Gaussian: milliseconds.
                "amortized": a network that was trained for these sensors by `amortize`, or is, on
                    first use; then any data take a millisecond.
                "variational": the best Gaussian, by the ELBO on the corrected map.
                "nuts": no-U-turn sampling of the corrected map.
                "exact": Markov chains on the finite element likelihood.
            n_samples: draws of "nuts" and "exact", all chains together.
            n_chains: Markov chains of "nuts" and "exact".
            seed: of everything random.

        Returns:
            `.mean`, `.std`, `.sample`, `.quantiles`, `.log_prob`, `.solution()`, `.diagnostics`,
            `.check()`, `.to_arviz()`.

        Raises:
            InputError: data of the wrong length, an observation of another problem, no such method.
            ConvergenceError: predictions are not finite where the data lead, or nowhere.
        """
        from pddlvm.inference.infer import infer

        return infer(
            self, y, observation, method, n_samples=n_samples, n_chains=n_chains, seed=seed
        )

    def amortize(
        self,
        observation: "Observation",
        family: "Callable[[int, int], Family] | None" = None,
        *,
        max_seconds: float | None = None,
        max_steps: int | None = None,
        seed: int = 0,
    ) -> "Amortized":
        """Train a density of z given data of these sensors, without solving the PDE.

        The result serves `infer(..., method="amortized")`. Asked again with the same limits and
        seed, or with those by default, it is returned as it is, unless the model has changed since.

        Args:
            observation: sensors and noise.
            family: `Flow` by default; `Full`, `Diagonal` are faster. Given, it is trained anew.
            max_seconds: wall-clock limit of the training, a minute where no limit is given.
            max_steps: limit on all optimiser steps, at least one a part; alone it is repeatable.
            seed: of the weights and draws.

        Raises:
            InputError, ConvergenceError, NonFiniteError: an observation of another problem, a limit
                of nothing; predictions, or the training, are not finite.
        """
        from pddlvm.inference.amortized import amortize
        from pddlvm.inference.fitting import Budget

        budget = Budget.of(max_seconds, max_steps, default=60.0)
        asked, weights = (max_seconds, max_steps, seed), checksum(self)
        kept = self.amortized.get(observation)
        if family is not None or kept is None or not kept.serves(weights, asked):
            density = amortize(self, observation, family, budget, seed)
            kept = self.amortized[observation] = KeptDensity(density, weights, asked)
        return kept.density

    def load_amortized(self, path: str | Path, observation: "Observation") -> "Amortized":
        """Read what `Amortized.save` wrote; `infer(..., method="amortized")` takes it from then on.

        Args:
            path: the file.
            observation: sensors and noise that it was trained for.

        Raises:
            RunFileError: no such file, damaged, or trained for another model, sensors or noise.
            InputError: an observation of another problem.
        """
        from pddlvm.inference.stored import load_amortized

        kept = KeptDensity(load_amortized(self, path, observation), checksum(self), ANYTHING)
        self.amortized[observation] = kept
        return kept.density

    @cached_property
    def amortized(self) -> "ByObject[Observation, KeptDensity]":
        """What `amortize` trained, by observation, and what it was made of."""
        return ByObject()

    def save(self, path: str | Path) -> None:
        """Write the model to a file that `pddlvm.load` reads; replaces it in one step."""
        from pddlvm.serialization import save

        save(self, path)

    def after_loading(self) -> None:
        """Bring up to date what is not in the state."""

    def training_state(self) -> dict[str, Any]:
        """What the rest of a stage of the training depends on, beside the state of the module."""
        return {}

    def restore_training(self, state: dict[str, Any]) -> None:
        """Take up what `training_state` gave."""

    def to_vtu(self, path: str | Path, z: Tensor, *, n_samples: int = 0, seed: int = 0) -> None:
        """Write mean, std, draws and parameter fields to a file; see `pddlvm.output.write_vtu`."""
        from pddlvm.output import write_vtu

        write_vtu(self, path, z, n_samples=n_samples, seed=seed)

    def to_pvd(self, path: str | Path, z: Tensor, *, n_samples: int = 0, seed: int = 0) -> None:
        """Write a parameter sweep, or the time series of one z; see `pddlvm.output.write_pvd`."""
        from pddlvm.output import write_pvd

        write_pvd(self, path, z, n_samples=n_samples, seed=seed)

    def finite_parts(self, xi: Tensor) -> dict[str, Tensor]:
        """Parts of the objective by name, evaluated at xi: to say which one is not finite."""
        mean, log_variance = self.forward_map(xi)
        z = self.problem.prior.unstandardise(xi.double())
        return {
            "the forward map": mean + log_variance,
            "the residual likelihood": self.likelihood(mean, z, xi),
        }
