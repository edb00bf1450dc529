"""Models as users have them: the class that fits a problem, with inference and files.

`LatentVariableModel(problem, ...)` makes a `GalerkinModel` of a problem in weak form, and a
`CollocationModel` of one in strong form.
"""

from collections.abc import Callable, Iterator
from functools import cached_property, singledispatch
from pathlib import Path
from typing import Any, Self, overload

import torch
from meshio import Mesh
from torch import Tensor, nn

from pddlvm.amortized.amortized import Amortized
from pddlvm.amortized.families import Family
from pddlvm.amortized.kept import ANYTHING, KeptDensity, checksum
from pddlvm.amortized.stored import load_amortized
from pddlvm.amortized.train import amortize
from pddlvm.basics.by_object import ByObject
from pddlvm.basics.checks import check_kind, check_path
from pddlvm.basics.errors import ProblemError
from pddlvm.basics.files import decoding, read_content
from pddlvm.basics.grad_mode import out_of_inference, with_gradients
from pddlvm.basics.random import seeded
from pddlvm.collocation import calibration as collocation_calibration
from pddlvm.collocation import content as collocation_content
from pddlvm.collocation.likelihood import Causal
from pddlvm.collocation.model import CollocationMaps
from pddlvm.collocation.stages import stages
from pddlvm.collocation.surrogate import CollocationSurrogate
from pddlvm.galerkin import calibration as galerkin_calibration
from pddlvm.galerkin import content as galerkin_content
from pddlvm.galerkin.covariances import Covariance
from pddlvm.galerkin.model import GalerkinMaps, Objective
from pddlvm.galerkin.surrogate import GalerkinSurrogate
from pddlvm.inference.density import Density
from pddlvm.inference.methods import Method, infer
from pddlvm.inference.posterior import Posterior
from pddlvm.inference.whole_field import inverse_of_noisy
from pddlvm.latent.core import LatentModel, Stage, supplied
from pddlvm.latent.inverse import Inverse
from pddlvm.latent.saved import restore_state, save, with_saved_fields
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.reduced.bases import Basis
from pddlvm.reduced.reduction import Reduction
from pddlvm.results.elements import element_mesh
from pddlvm.results.grid import mesh_of_grid, meshes_over_time
from pddlvm.results.vtu import write_pvd, write_vtu
from pddlvm.sensors.observation import Observation
from pddlvm.strong.points import PointSampler
from pddlvm.strong.problem import CollocationProblem
from pddlvm.training.fit import Budget
from pddlvm.transient.problem import TransientProblem
from pddlvm.weak.problem import Problem

__all__ = ["CollocationModel", "GalerkinModel", "LatentVariableModel", "load"]


class LatentVariableModel(LatentModel):
    """Forward and inverse maps of a problem, with their uncertainty.

    `LatentVariableModel(problem, ...)` makes the model that fits the problem, see there for the
    arguments: of a `Problem` a `GalerkinModel` (basis, covariance, objective, reduction), of a
    `CollocationProblem` a `CollocationModel` (points, tolerance, causal, n_functions); of both
    forward_network, inverse_network, seed, dtype, progress.
    """

    @overload
    def __new__(
        cls,
        problem: Problem,
        *,
        basis: Basis | None = None,
        covariance: Covariance | None = None,
        objective: Objective = "detached",
        forward_network: nn.Module | None = None,
        inverse_network: nn.Module | None = None,
        reduction: Reduction | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        progress: bool = False,
    ) -> "GalerkinModel": ...

    @overload
    def __new__(
        cls,
        problem: CollocationProblem,
        *,
        points: PointSampler = ...,
        tolerance: float = 1e-2,
        causal: Causal | None = None,
        n_functions: int = 128,
        forward_network: nn.Module | None = None,
        inverse_network: nn.Module | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        progress: bool = False,
    ) -> "CollocationModel": ...

    @overload
    def __new__(
        cls,
        problem: ParametricProblem,
        *,
        forward_network: nn.Module | None = None,
        inverse_network: nn.Module | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        progress: bool = False,
    ) -> "LatentVariableModel": ...

    def __new__(cls, *arguments: Any, **options: Any) -> "LatentVariableModel":
        """The final class that fits the problem, as `pathlib.Path` does for paths."""
        if cls is not LatentVariableModel:
            return super().__new__(cls)
        problem = options.get("problem", arguments[0] if arguments else None)
        return super().__new__(_class_for(problem))

    @classmethod
    @supplied
    def remade(cls, problem: Any, content: dict[str, Any], *networks: nn.Module | None) -> Self:
        """The model of a file, with own networks if it was made with them, but for its state."""
        raise NotImplementedError

    @with_gradients
    def infer(
        self,
        y: Tensor,
        observation: Observation,
        method: Method = "laplace",
        *,
        n_samples: int = 1000,
        n_chains: int = 4,
        seed: int = 0,
        progress: bool = False,
    ) -> Posterior:
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
            progress: show a progress bar, as `train` does; of "exact" by data sets.

        Returns:
            `.mean`, `.std`, `.sample`, `.quantiles`, `.log_prob`, `.solution()`, `.diagnostics`,
            `.check()`, `.to_arviz()`.

        Raises:
            InputError: data of the wrong length, an observation of another problem, no such method.
            ConvergenceError: predictions are not finite where the data lead, or nowhere.
        """
        return infer(
            self,
            y,
            observation,
            method,
            self._by_network,
            n_samples=n_samples,
            n_chains=n_chains,
            seed=seed,
            progress=progress,
        )

    def _by_network(self, observation: Observation, y: Tensor) -> Density:
        return self.amortize(observation).resampled(y)

    @with_gradients
    def amortize(
        self,
        observation: Observation,
        family: Callable[[int, int], Family] | None = None,
        *,
        max_seconds: float | None = None,
        max_steps: int | None = None,
        seed: int = 0,
    ) -> Amortized:
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
        check_kind(Observation, observation=observation)
        check_kind(Callable | None, family=family)  # type: ignore[arg-type]
        budget = Budget.of(max_seconds, max_steps, default=60.0)
        asked, weights = (max_seconds, max_steps, seed), checksum(self)
        kept = self.amortized.get(observation)
        if family is not None or kept is None or not kept.serves(weights, asked):
            density = amortize(self, observation, family, budget, seed)
            kept = self.amortized[observation] = KeptDensity(density, weights, asked)
        return kept.density

    def load_amortized(self, path: str | Path, observation: Observation) -> Amortized:
        """Read what `Amortized.save` wrote; `infer(..., method="amortized")` takes it from then on.

        Args:
            path: the file.
            observation: sensors and noise that it was trained for.

        Raises:
            RunFileError: no such file, damaged, or trained for another model, sensors or noise.
            InputError: an observation of another problem.
        """
        check_kind(Observation, observation=observation)
        kept = KeptDensity(load_amortized(self, path, observation), checksum(self), ANYTHING)
        self.amortized[observation] = kept
        return kept.density

    @cached_property
    def amortized(self) -> ByObject[Observation, KeptDensity]:
        """What `amortize` trained, by observation, and what it was made of."""
        return ByObject()

    def save(self, path: str | Path) -> None:
        """Write the model to a file that `pddlvm.load` reads; replaces it in one step."""
        save(self, path)

    def to_vtu(self, path: str | Path, z: Tensor, *, n_samples: int = 0, seed: int = 0) -> None:
        """Write mean, std, draws and fields to a file; see `pddlvm.results.vtu.write_vtu`."""
        write_vtu(self, path, z, n_samples=n_samples, seed=seed)

    def to_pvd(self, path: str | Path, z: Tensor, *, n_samples: int = 0, seed: int = 0) -> None:
        """Write a sweep, or the time series of one z; see `pddlvm.results.vtu.write_pvd`."""
        write_pvd(self, path, z, n_samples=n_samples, seed=seed)

    def _inverse_of_noisy(
        self, u: Tensor, noise_std: float | Tensor, z_known: dict[str, Tensor] | None
    ) -> Inverse:
        return inverse_of_noisy(self, u, noise_std, z_known)


class GalerkinModel(GalerkinMaps, LatentVariableModel):
    """Forward and inverse maps of a finite element problem, with their uncertainty.

    Args:
        problem: the parametric PDE.
        basis: representation of the solution, default `ResidualEnriched()`.
        covariance: of the residual; default `EnergyNorm()` if the problem has a potential or a
            secant, else `Whitened()`; `Natural()` (linear) or `Dual()` without a positive operator.
        objective: "detached" (default), or "coupled" for the paper's objective, in which the
            inverse term also trains the forward map.
        forward_network: module xi (batch, d) -> mean, log variance (batch, n_modes); own modules
            need a basis whose size is known, e.g. `EnergyModes(n)`.
        inverse_network: module features -> mean, log variance (batch, d).
        reduction: a prepared `Reduction` to share between models of the same problem.
        seed: of the basis and of the initial weights.
        dtype: of the maps; float32 by default.
        progress: say on stderr what is prepared.
    """

    @with_gradients
    def calibrate(self, n_samples: int | None = None, *, seed: int = 1) -> None:
        """Fit the reported standard deviations to the errors of both maps on fresh prior draws.

        No PDE is solved: the errors come from reduced corrections and a few iterations with the
        factors of K0. `train` ends with it.

        Args:
            n_samples: prior draws; by default 1024, fewer on large meshes.
            seed: of the draws.
        """
        galerkin_calibration.calibrate(self, n_samples, seed)

    @classmethod
    def remade(cls, problem: Any, content: dict[str, Any], *networks: nn.Module | None) -> Self:  # noqa: D102
        model = cls(problem, **galerkin_content.arguments(content, problem, *networks))
        galerkin_content.restore_exact(model, content)
        return model

    def mesh_of(self, z: Tensor, n_samples: int, seed: int) -> Mesh:  # noqa: D102
        return element_mesh(self, z, n_samples, seed)

    def content(self) -> dict[str, Any]:  # noqa: D102
        return galerkin_content.content_of(self)

    def _surrogate(self, observation: Observation, corrections: int) -> GalerkinSurrogate:
        return GalerkinSurrogate(self, observation, corrections)


class CollocationModel(CollocationMaps, LatentVariableModel):
    """Forward and inverse maps of a problem in strong form, with their uncertainty.

    Args:
        problem: the parametric PDE.
        points: where the residual is taken.
        tolerance: eps, the standard deviation of the residual relative to that of the lift.
        causal: weights that follow the time; none by default.
        n_functions: length of c.
        forward_network: module xi (batch, d) -> mean, log variance (batch, n_functions).
        inverse_network: module u (batch, *grid), extra -> mean, log variance (batch, d), by
            default a `PrincipalGaussian`; a `GridGaussian` is convolutional.
        seed: of the initial weights.
        dtype: of the maps; float32 by default.
        progress: say on stderr what is prepared.
    """

    def stages(self, calibrate: bool) -> tuple[Stage, ...]:  # noqa: D102
        return stages(self, calibrate)

    @with_gradients
    def calibrate(self, n_samples: int | None = None, *, seed: int = 1) -> None:
        """Fit the reported standard deviations to the errors of both maps on fresh prior draws.

        The error of a mean solves the linearised PDE driven by its residual, on the space-time
        nodes. `train` ends with it.

        Args:
            n_samples: prior draws, at least 32; 512 by default.
            seed: of the draws.
        """
        collocation_calibration.calibrate(self, n_samples, seed)

    @classmethod
    def remade(cls, problem: Any, content: dict[str, Any], *networks: nn.Module | None) -> Self:  # noqa: D102
        return cls(problem, **collocation_content.arguments(content, *networks))

    def mesh_of(self, z: Tensor, n_samples: int, seed: int) -> Mesh:  # noqa: D102
        return mesh_of_grid(self, z, n_samples, seed)

    def series_of(  # noqa: D102
        self, z: Tensor, n_samples: int, seed: int
    ) -> Iterator[tuple[float, Mesh]]:
        if self.problem.box.names[-1] != "t":
            return super().series_of(z, n_samples, seed)
        return meshes_over_time(self, z, n_samples, seed)

    def content(self) -> dict[str, Any]:  # noqa: D102
        return collocation_content.content_of(self)

    def mean_and_std(self, z: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        found = self.forward(z, extrapolate=True)
        return found.mean, found.std

    def _surrogate(self, observation: Observation, corrections: int) -> CollocationSurrogate:
        return CollocationSurrogate(self, observation)


@out_of_inference
def load(
    path: str | Path,
    problem: ParametricProblem,
    *,
    forward_network: nn.Module | None = None,
    inverse_network: nn.Module | None = None,
) -> LatentVariableModel:
    """Read a model that was saved for this problem; predictions are bit-equal to those saved.

    Args:
        path: the file.
        problem: the same problem, made anew. The returned model's own `.problem` has the saved
            parameter fields: use that one where z comes from the model.
        forward_network: own module, if the model was made with one.
        inverse_network: the same for the inverse map.

    Raises:
        RunFileError: no such file, not a saved model, or saved from another problem.
    """
    check_kind(ParametricProblem, problem=problem)
    content = read_content(check_path(path))
    # Networks are made with random weights before theirs are read.
    with (
        decoding(f"{str(path)!r} is damaged, incomplete, or of another version of pddlvm"),
        seeded(0),
    ):
        own = with_saved_fields(problem, content, path)
        model = _class_for(own).remade(own, content, forward_network, inverse_network)
        restore_state(model, content)
        return model


@singledispatch
def _class_for(problem: object) -> type[LatentVariableModel]:
    """The final class that fits a problem; the default says what is wrong with anything else."""
    return GalerkinModel


_class_for.register(CollocationProblem, lambda problem: CollocationModel)


@_class_for.register
def _(problem: TransientProblem) -> type[LatentVariableModel]:
    raise ProblemError(f"there is no model of problems in time yet, and {problem.name!r} is one")
