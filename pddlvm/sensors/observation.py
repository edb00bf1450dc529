"""What is measured of a solution, and with which noise: y = H u + e.

    LinearObservation(problem, matrix, noise)     any matrix on the dofs, sparse or dense
    PointObservation(problem, points, noise)      values of u at points of the mesh or the box
    FunctionObservation(problem, f, n, noise)     any differentiable function of u

Flux and strain sensors, averages over patches and masks are linear: `gradient_matrix`,
`average_matrix` and `mask_matrix` make their rows. Values that are NaN were not measured.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from math import prod
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pddlvm.basics.checks import (
    array_of,
    broadcast_batch,
    check_kind,
    check_vectors,
    numbers_of,
)
from pddlvm.basics.errors import InputError
from pddlvm.basics.explained import explained
from pddlvm.basics.random import generator_of
from pddlvm.fem.where import Patch
from pddlvm.linalg.operators import SparseOperator
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.sensors.model_error import ModelError
from pddlvm.sensors.noise import Gaussian, Noise, check_sensors

__all__ = [
    "FunctionObservation",
    "LinearObservation",
    "Observation",
    "PointObservation",
    "average_matrix",
    "gradient_matrix",
    "integral_matrix",
    "mask_matrix",
    "rows_of",
]

_LARGEST = 1e15
"""Of data in standard deviations of the noise: in float64 the noise of larger ones is lost."""


class Observation(ABC):
    """y = h(u) + e. Final classes: see the module's docstring.

    Args:
        problem: whose solutions are observed.
        n: length of y.
        noise: a standard deviation (number or one per sensor), a covariance (n, n), or a `Noise`.
    """

    def __init__(self, problem: ParametricProblem, n: int, noise: "float | Tensor | Noise") -> None:
        check_kind(ParametricProblem, problem=problem)
        check_sensors(n)
        self.problem = problem
        self.n = n
        self.noise = noise if isinstance(noise, Noise) else Gaussian(noise, n)
        if self.noise.n != n:
            raise InputError(f"the noise is that of {self.noise.n} sensors, and there are {n}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The observation itself: it is immutable."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.problem.name!r}, {self.n} sensors, {self.noise!r})"

    @abstractmethod
    def apply(self, u: Tensor) -> Tensor:
        """h(u), (..., n_dofs) -> (..., n); differentiable, dtype and device of u."""

    def of(self, problem: ParametricProblem) -> "Observation":
        """The same sensors, for a problem that differs by its parameter fields at most.

        A loaded model has the fields that were saved: its z means something else than that of the
        problem made anew, where eigenvectors of equal eigenvalues were computed differently.
        """
        if problem is self.problem:
            return self
        other = copy(self)
        other.problem = problem
        return other

    def simulate(self, u: Tensor, *, seed: int | None = None) -> Tensor:
        """Noisy data of solutions, (..., n_dofs) -> (..., n)."""
        u = self.problem.check_solution(u)
        generator = None if seed is None else generator_of(seed)
        clean = self.apply(u)
        return clean + self.noise.sample(tuple(clean.shape[:-1]), generator).to(clean)

    def log_prob(self, y: Tensor, u: Tensor) -> Tensor:
        """log p(y | u), (...,), of the values of y that are not NaN."""
        y, u = self.check(y), self.problem.check_solution(u)
        broadcast_batch(y=y, u=u.flatten(-len(self.problem.solution_shape)))
        return self.noise.log_prob(y.to(u) - self.apply(u))

    def check(self, y: "Tensor | ArrayLike", *, allow_missing: bool = True) -> Tensor:
        """Return data as a tensor, or raise an InputError that says what is wrong with them."""
        y = check_vectors(y, "y", self.n, f"have {self.n} values on its last axis, one per sensor")
        if (bad := torch.isinf(y)).any():
            raise InputError(
                f"{_where(bad)} has infinite values; mark values that were not measured by NaN"
            )
        std = self.noise.variance().sqrt()
        size = (y.detach().double().cpu() / std).nan_to_num().abs()
        if (bad := size > _LARGEST).any():
            raise InputError(
                f"{_where(bad)} has a value of {float(size.max()):.0e} standard deviations of the "
                f"noise, expected {_LARGEST:.0e} at most; check the units of y and of noise_std"
            )
        missing = torch.isnan(y)
        if missing.any() and not allow_missing:
            raise InputError(
                f"{_where(missing)} has missing values (NaN), which this method cannot do without"
            )
        if (bad := missing.all(-1, keepdim=True)).any():
            raise InputError(f"{_where(bad)} has no value at all (only NaN); leave it out")
        return y


def _where(bad: Tensor) -> str:
    """y, or the first data set of a batch (..., n) that has something bad, and how many have."""
    if bad.ndim == 1:
        return "y"
    rows = bad.any(-1).nonzero().tolist()
    others = "" if len(rows) == 1 else f" (as {len(rows) - 1} more of its data sets)"
    return f"y[{', '.join(map(str, rows[0]))}]{others}"


def rows_of(problem: ParametricProblem, matrix: Any) -> sp.csr_matrix:
    """A copy of H (n, n_dofs), or of one row (n_dofs,), sparse or dense; or an InputError."""
    check_kind(ParametricProblem, problem=problem)
    if not sp.issparse(matrix):
        matrix = np.atleast_2d(numbers_of(matrix, "matrix"))
    if matrix.ndim != 2 or matrix.dtype.kind not in "iufb":
        raise InputError(f"matrix must be (n, {problem.n_dofs}) real numbers, got {matrix!r}")
    rows = sp.csr_matrix(matrix, dtype=np.float64, copy=True)
    n_values = prod(problem.solution_shape)
    if rows.shape[1] != n_values:
        per, advice = "degree of freedom", ""
        if len(problem.solution_shape) > 1:
            per, advice = "value", "; rows of one state read times by problem.seen_at(rows, times)"
        raise InputError(
            f"the matrix must have {n_values} columns, one per {per}, got shape "
            f"{rows.shape}{advice}"
        )
    if not np.isfinite(rows.data).all():
        raise InputError("the matrix has values that are not finite")
    return rows


class LinearObservation(Observation):
    """y = H u + e.

    Args:
        problem: whose solutions are observed.
        matrix: H, (n, n_dofs), sparse (SciPy) or dense (NumPy, torch); of a problem in time
            (n, n_times n_dofs), all degrees of freedom of a time after each other.
        noise_std: see `Observation`.

    Raises:
        InputError: a matrix of another size, or with values that are not finite.
    """

    def __init__(
        self, problem: ParametricProblem, matrix: Any, noise_std: "float | Tensor | Noise"
    ) -> None:
        rows = rows_of(problem, matrix)
        super().__init__(problem, rows.shape[0], noise_std)
        self.matrix = rows
        self._operators: dict[tuple[torch.dtype, torch.device], SparseOperator] = {}

    def apply(self, u: Tensor) -> Tensor:  # noqa: D102
        u = check_vectors(u, "u", self.problem.n_dofs, f"have {self.problem.n_dofs} values")
        u = u.flatten(-len(self.problem.solution_shape))
        key = (u.dtype, u.device)
        if key not in self._operators:
            self._operators[key] = SparseOperator(self.matrix, u.dtype).to(u.device)
        result: Tensor = self._operators[key](u)
        return result


class PointObservation(LinearObservation):
    """Values of u at points: every component of a vector, the displacement of a shell.

    Args:
        problem: whose solutions are observed.
        points: (n_points, dim), in the mesh or in the box; a list of numbers in 1D. On a shell the
            nearest points of the surface are taken. A point that is outside of a mesh by rounding
            (5e-4 of its diagonal, a table with four digits), or by the distance between a curve
            and the chords of the mesh, stands for the closest point of the mesh.
        noise_std: see `Observation`; there is one sensor per point and component.
        field: of a solution that has several (`fem.MixedSpace`), the one that is seen.
        times: of a problem in time, when: (n_times,), by default at all steps; between these u is
            linear in time. The data are n_points n_times, all points of a time after each other.
        model_error: what the model lacks, a field that is added to the data beside the noise.

    Attributes:
        times: of the data, (n_times,), of a problem in time; else None.

    Raises:
        InputError: a point outside, named, with its distance; a time outside, or times of a problem
            that has none.
        ProblemError: there is no such field.
    """

    def __init__(
        self,
        problem: ParametricProblem,
        points: "ArrayLike | Tensor",
        noise_std: "float | Tensor | Noise",
        field: str = "u",
        *,
        times: "ArrayLike | Tensor | None" = None,
        model_error: ModelError | None = None,
    ) -> None:
        check_kind(ParametricProblem, problem=problem)
        check_kind(ModelError | None, model_error=model_error)
        self.points = problem.as_points(points).copy()
        # Before the search for their cells.
        check_sensors(len(self.points))
        matrix = problem.seen_at(problem.evaluation(self.points, field), times)
        self.times = problem.times_seen(times)
        if model_error is not None:
            if self.times is not None:
                raise InputError(
                    "a model error is a field in space, and these sensors measure at several "
                    "times; make the noise yourself: model_error.at(places, noise_std), with time "
                    "as one more coordinate of the places"
                )
            n_components = matrix.shape[0] // len(self.points)
            noise_std = model_error.at(self.points, noise_std, n_components)
        super().__init__(problem, matrix, noise_std)


class FunctionObservation(Observation):
    """y = f(u) + e.

    Args:
        problem: whose solutions are observed.
        function: differentiable torch function (..., n_dofs) -> (..., n).
        n: number of values.
        noise_std: see `Observation`.

    Raises:
        InputError: a function that does not give such values, or a problem in time on a mesh.
    """

    def __init__(
        self,
        problem: ParametricProblem,
        function: Callable[[Tensor], Tensor],
        n: int,
        noise_std: "float | Tensor | Noise",
    ) -> None:
        check_sensors(n)
        check_kind(Callable, function=function)  # type: ignore[arg-type]
        check_kind(ParametricProblem, problem=problem)
        if len(problem.solution_shape) > 1:
            raise InputError(
                f"problem {problem.name!r} is one in time, whose data are linear in u so far: take "
                "PointObservation(problem, points, noise_std, times=...), or a LinearObservation"
            )
        super().__init__(problem, n, noise_std)
        self.function = function
        try:
            found = function(torch.zeros(2, problem.n_dofs, dtype=torch.float64))
        except Exception as error:
            raise InputError(
                f"the function cannot be evaluated at u (2, {problem.n_dofs}), float64 "
                f"({explained(error)})"
            ) from error
        if not isinstance(found, Tensor) or found.shape != (2, n):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"the function must map (2, {problem.n_dofs}) to (2, {n}), it returns {shape}"
            )

    def apply(self, u: Tensor) -> Tensor:  # noqa: D102
        u = check_vectors(u, "u", self.problem.n_dofs, f"have {self.problem.n_dofs} values")
        return self.function(u)


def gradient_matrix(
    problem: ParametricProblem, points: "ArrayLike | Tensor", field: str = "u"
) -> sp.csr_matrix:
    """Rows that give grad u at points of the mesh: (n_points * n_components * dim, n_dofs).

    Args:
        problem: of finite elements, not a shell.
        points: (n_points, dim), in the mesh.
        field: of a solution that has several, the one whose gradient is asked for.
    """
    check_kind(ParametricProblem, problem=problem)
    return problem.gradients(points, field)


def average_matrix(
    problem: ParametricProblem, patches: Sequence[Patch] = (None,), field: str = "u"
) -> sp.csr_matrix:
    """Rows that give the mean of u over patches, (n_patches * n_components, n_dofs).

    Args:
        problem: of finite elements, not a shell.
        patches: names of subdomains, or functions that say which points x (n, dim) belong to one,
            (n,) booleans: `lambda x: np.hypot(x[:, 0] - 0.3, x[:, 1] - 0.5) < 0.1`. These are
            evaluated at the points of the quadrature, a few in each cell. None is the whole domain.
        field: of a solution that has several, the one whose means are asked for.

    Raises:
        InputError: another problem, an unknown name, or a patch without points.
    """
    check_kind(ParametricProblem, problem=problem)
    return problem.averages(patches, field)


def integral_matrix(
    problem: ParametricProblem, patches: Sequence[Patch] = (None,), field: str = "u"
) -> sp.csr_matrix:
    """Rows that give the integral of u over patches: those of `average_matrix` times their size."""
    check_kind(ParametricProblem, problem=problem)
    return problem.averages(patches, field, is_mean=False)


def mask_matrix(problem: ParametricProblem, seen: "ArrayLike | Tensor") -> sp.csr_matrix:
    """Rows of the identity: the degrees of freedom (n_dofs booleans, or numbers) that are seen."""
    index = array_of(seen, "seen")
    if index.ndim != 1 or index.dtype.kind not in "biu":
        raise InputError(f"seen must be booleans, or numbers of degrees of freedom, got {seen!r}")
    if index.dtype == bool and len(index) != problem.n_dofs:
        raise InputError(f"seen must have {problem.n_dofs} booleans, got {len(index)}")
    index = np.flatnonzero(index) if index.dtype == bool else index
    if index.size == 0 or index.min() < 0 or index.max() >= problem.n_dofs:
        raise InputError(f"the mask must select some of the {problem.n_dofs} degrees of freedom")
    return sp.identity(problem.n_dofs, format="csr")[index]
