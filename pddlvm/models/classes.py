"""Models as users have them: the class that fits a problem, with inference and files.

`LatentVariableModel(problem, ...)` makes a `GalerkinModel` of a problem in weak form, a
`TrajectoryModel` of one in time on a mesh, and a `CollocationModel` of one in strong form.
"""

from collections.abc import Iterator
from functools import singledispatch
from pathlib import Path
from typing import Any, Self, overload

import torch
from meshio import Mesh
from numpy.typing import ArrayLike
from torch import Tensor, nn

from pddlvm.basics.checks import check_kind, check_path
from pddlvm.basics.errors import InputError
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
from pddlvm.latent.core import Stage, supplied
from pddlvm.latent.quantity_laws import solved_draws
from pddlvm.latent.saved import restore_state, with_saved_fields
from pddlvm.models.inferring import InferringModel
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.reduced.bases import Basis
from pddlvm.reduced.reduction import Reduction
from pddlvm.results.elements import element_mesh, element_meshes_over_time
from pddlvm.results.grid import mesh_of_grid, meshes_over_time
from pddlvm.sensors.observation import Observation
from pddlvm.strong.points import PointSampler
from pddlvm.strong.problem import CollocationProblem
from pddlvm.trajectory import calibration as trajectory_calibration
from pddlvm.trajectory import content as trajectory_content
from pddlvm.trajectory.model import TrajectoryMaps
from pddlvm.trajectory.reduction import TrajectoryReduction
from pddlvm.trajectory.surrogate import TrajectorySurrogate
from pddlvm.transient.problem import TransientProblem
from pddlvm.weak.problem import Problem

__all__ = [
    "CollocationModel",
    "GalerkinModel",
    "LatentVariableModel",
    "TrajectoryModel",
    "load",
]

_N_SOLVED = 128
"""Reference solutions for quantities in strong form, of a fraction of a second each."""


class LatentVariableModel(InferringModel):
    """Forward and inverse maps of a problem, with their uncertainty.

    `LatentVariableModel(problem, ...)` makes the model that fits the problem, see there for the
    arguments: of a `Problem` a `GalerkinModel` (basis, covariance, objective, reduction), of a
    `TransientProblem` a `TrajectoryModel` (n_shapes, n_modes, tolerance, reduction), of a
    `CollocationProblem` a `CollocationModel` (points, tolerance, causal, n_functions); of all
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
        problem: TransientProblem,
        *,
        n_shapes: int | None = None,
        n_modes: int | None = None,
        tolerance: float = 1e-3,
        forward_network: nn.Module | None = None,
        inverse_network: nn.Module | None = None,
        reduction: TrajectoryReduction | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        progress: bool = False,
    ) -> "TrajectoryModel": ...

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


class TrajectoryModel(TrajectoryMaps, LatentVariableModel):
    """Forward and inverse maps of a problem in time on a mesh, with their uncertainty.

    Args:
        problem: in time.
        n_shapes: of the spatial basis; by default as many as leave 8e-5 of reduced trajectories.
        n_modes: of space and time; by default as many as leave 2.5e-4 of them.
        tolerance: eps, the standard deviation of the residual relative to the solution.
        forward_network: module xi (batch, d) -> mean, log variance (batch, n_modes); own modules
            need n_modes.
        inverse_network: module features -> mean, log variance (batch, d).
        reduction: a prepared `TrajectoryReduction` to share between models of the same problem.
        seed: of the basis and of the initial weights.
        dtype: of the maps; float32 by default.
        progress: say on stderr what is prepared.
    """

    @with_gradients
    def calibrate(self, n_samples: int | None = None, *, seed: int = 1) -> None:
        """Fit the reported standard deviations to the errors of both maps on fresh prior draws.

        No PDE is solved: the errors come from reduced marches and the factors of the reference
        march. `train` ends with it.

        Args:
            n_samples: prior draws, at least 64; by default 256, of nonlinear problems 128.
            seed: of the draws.
        """
        trajectory_calibration.calibrate(self, n_samples, seed)

    @classmethod
    def remade(cls, problem: Any, content: dict[str, Any], *networks: nn.Module | None) -> Self:  # noqa: D102
        return cls(problem, **trajectory_content.arguments(content, problem, *networks))

    def mesh_of(self, z: Tensor, n_samples: int, seed: int) -> Mesh:  # noqa: D102
        *_, (_, mesh) = self.series_of(z, n_samples, seed)
        return mesh

    def series_of(  # noqa: D102
        self, z: Tensor, n_samples: int, seed: int, times: "ArrayLike | Tensor | None" = None
    ) -> Iterator[tuple[float, Mesh]]:
        return element_meshes_over_time(self, z, n_samples, seed, times)

    def content(self) -> dict[str, Any]:  # noqa: D102
        return trajectory_content.content_of(self)

    def _surrogate(self, observation: Observation, corrections: int) -> TrajectorySurrogate:
        return TrajectorySurrogate(self, observation, corrections)


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
        self, z: Tensor, n_samples: int, seed: int, times: "ArrayLike | Tensor | None" = None
    ) -> Iterator[tuple[float, Mesh]]:
        if self.problem.box.names[-1] != "t":
            return super().series_of(z, n_samples, seed)
        return meshes_over_time(self, z, n_samples, seed)

    def content(self) -> dict[str, Any]:  # noqa: D102
        return collocation_content.content_of(self)

    def mean_and_std(self, z: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        found = self.forward(z, extrapolate=True)
        return found.mean, found.std

    def solved_draws(self, corrections: int) -> tuple[Tensor, Tensor]:  # noqa: D102
        if corrections:
            raise InputError(
                "error bars of quantities in strong form are those of corrections=0: what a "
                "correction leaves is the error of the nodes, which reference solutions have too; "
                "take .mean, or the .std of the solution"
            )
        return solved_draws(self.problem, _N_SOLVED)

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


@_class_for.register
def _(problem: TransientProblem) -> type[LatentVariableModel]:
    return TrajectoryModel


@_class_for.register
def _(problem: CollocationProblem) -> type[LatentVariableModel]:
    return CollocationModel
