"""What every parametric PDE has, however it is discretised: fields with a prior, and solutions.

z ~ p(z)  ->  fields  ->  u(z), n_dofs numbers
"""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pddlvm.basics.by_object import ByObject
from pddlvm.basics.checks import (
    check_backward,
    check_finite,
    check_vectors,
    is_recorded,
    numbers_of,
)
from pddlvm.basics.errors import InputError, ProblemError
from pddlvm.basics.grad_mode import out_of_inference
from pddlvm.basics.parallel import Watch, each
from pddlvm.fem.where import Patch, Where
from pddlvm.parameters.fields import Field, Fields
from pddlvm.parameters.given import given_fields
from pddlvm.parameters.sensitivities import Sensitivities, recorded_solve
from pddlvm.parameters.space import Block, ParameterSpace

__all__ = ["LARGE", "ParametricProblem", "check_problem"]

LARGE = 20_000
"""Degrees of freedom from which on what is looked at draw by draw takes seconds each."""


class ParametricProblem(ABC):
    """A parametric PDE, either a `Problem` or a `CollocationProblem`.

    Args:
        name: for messages, plots and saved runs.
        fields: name -> field (with parameters and prior) or number (known).
        taken: names that no field can have, and what they mean.
    """

    def __init__(self, name: str, fields: Fields, taken: Mapping[str, str]) -> None:
        self.name = name
        self.fields = given_fields(fields, taken)
        self.random_fields = {k: f for k, f in self.fields.items() if isinstance(f, Field)}
        self.prior = ParameterSpace(
            {k: Block(f.size, f.prior, f.names) for k, f in self.random_fields.items()}
        )

    @property
    def n_parameters(self) -> int:
        """d, the length of z."""
        return self.prior.size

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """One name per parameter."""
        return self.prior.names

    @property
    @abstractmethod
    def n_dofs(self) -> int:
        """Length of a solution, at one time."""

    @property
    def solution_shape(self) -> tuple[int, ...]:
        """Last axes of a solution: (n_dofs,), in time (n_times, n_dofs)."""
        return (self.n_dofs,)

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of coordinates of a point."""

    # --- its identity, see `pddlvm.parameters.identity` -------------------------------------------

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of what must be equal in two problems that are the same."""

    @property
    @abstractmethod
    def probe(self) -> Tensor:
        """Summaries of what all functions and fields give at random z and states, (n_rows, 4)."""

    @property
    @abstractmethod
    def shape_sizes(self) -> dict[str, Tensor]:
        """Field -> norms of its shapes, (size,): eigenvectors of equal eigenvalues have equal."""

    @cached_property
    def compared(self) -> "ByObject[ParametricProblem, bool]":
        """Which other problems are the same."""
        return ByObject()

    @abstractmethod
    def with_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> Self:
        """The same problem with its fields defined by saved tensors (see `Field.state`)."""

    # --- copies --------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The problem itself: it is immutable."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """It is made anew of its arguments.

        Raises:
            InputError: a function of it cannot be pickled.
        """
        for what, part in self._pickled_parts.items():
            try:
                pickle.dumps(part)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise InputError(
                    f"problem {self.name!r} cannot be pickled: {what} ({error}); "
                    "use a function at the top of a module; functools.partial can hold its first "
                    "arguments"
                ) from error
        return self._made_by

    @property
    @abstractmethod
    def _made_by(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """A callable and its arguments."""

    @property
    @abstractmethod
    def _pickled_parts(self) -> dict[str, Any]:
        """What may hold functions of the user, by its name in messages."""

    # --- what users ask for --------------------------------------------------------------------

    @out_of_inference
    def solve(self, z: Tensor) -> Tensor:
        """Reference solutions, (..., d) -> (..., *solution_shape), float64 on the CPU.

        Side by side on the workers of `joblib.parallel_config`, with the same numbers. Where z
        requires a gradient, of finite elements, they are solved here with their factors kept: a
        gradient is an adjoint solution each, backwards, and once.

        Raises:
            InputError, SupportError: z is no parameter vector of the prior, or is inside of a
                torch.func transform.
            ConvergenceError: Newton's iteration failed; the message names the sample.
            ProblemError: loads do not balance, and a mean value is constrained.
            WorkerError: a worker process died.
        """
        z = self.prior.check(check_backward(z, "z"))
        flat = z.to("cpu", torch.float64).reshape(-1, self.n_parameters)
        if is_recorded(z):
            u = recorded_solve(self.sensitivities(), flat)
            return u.reshape(*z.shape[:-1], *self.solution_shape)
        flat = flat.detach()
        starts = range(0, len(flat), self._at_once)
        parts = [(first, flat[first : first + self._at_once]) for first in starts]
        shape = self.solution_shape
        u = torch.cat([flat.new_zeros(0, *shape), *each(_solve, self, parts, what=_named)])
        return u.reshape(*z.shape[:-1], *shape)

    def sensitivities(self) -> Sensitivities:
        """Reference solutions with their derivatives by z.

        Raises:
            ProblemError: the problem is not one of finite elements.
        """
        raise ProblemError(
            f"problem {self.name!r} is in strong form: its reference solutions have no derivatives "
            "by z, and it has no finite element likelihood, with which method 'exact' and "
            "Posterior.check() compare; use method 'nuts', or the gradient of model.forward(z)"
        )

    @out_of_inference
    def parameter_field(self, z: Tensor, name: str | None = None) -> Tensor:
        """A parameter field, (..., n); by default the first one. See `field_values` for where."""
        name = next(iter(self.random_fields)) if name is None else name
        return self.field_values(self.prior.check(z), name)

    def check_solution(self, u: "Tensor | ArrayLike", name: str = "u") -> Tensor:
        """Return u as a tensor, or raise an InputError that says what is wrong with it."""
        u = check_finite(check_vectors(u, name, self.n_dofs, self._solution_has), name)
        shape = self.solution_shape
        if tuple(u.shape[-len(shape) :]) != shape:
            raise InputError(f"{name} must {self._solution_has}, got shape {tuple(u.shape)}")
        return u

    @abstractmethod
    def field_values(self, z: Tensor, name: str) -> Tensor:
        """`parameter_field` without checking the support of z."""

    @abstractmethod
    def field_points(self, name: str) -> NDArray[np.float64]:
        """Where the values of `field_values` stand, (n, dim), or (n, 1) along one coordinate.

        Raises:
            InputError: no such field, or one that is a number wherever one looks.
        """

    @property
    def fields_of_u(self) -> dict[str, slice]:
        """Where each field of the solution is on its last axis, by name."""
        return {"u": slice(0, self.n_dofs)}

    @abstractmethod
    def inferred(self, z: Tensor) -> Tensor:
        """What inverse errors are measured in."""

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the coordinates of a point."""
        return ("x", "y", "z")[: self.dim]

    def evaluation(self, points: "ArrayLike | Tensor", field: str = "u") -> sp.csr_matrix:
        """Matrix from u to its values at points, row after row all components of a point.

        Args:
            points: (n_points, dim), or a list of numbers in 1D.
            field: of a solution that has several, the one whose values are asked for.

        Raises:
            InputError: another shape, or a point outside of the domain.
            ProblemError: there is no such field.
        """
        return self._evaluation(self.as_points(points), field)

    def gradients(self, points: "ArrayLike | Tensor", field: str = "u") -> sp.csr_matrix:
        """Matrix from u, or one of its fields, to its gradient at points.

        It is (n_points * n_components * dim, n_dofs).

        Raises:
            InputError: as `evaluation`, or the problem is not one of finite elements.
        """
        raise InputError(
            "gradient_matrix needs a finite element problem; in strong form take differences of "
            "the nodes of the grid, by LinearObservation"
        )

    def averages(
        self, patches: Sequence[Patch], field: str = "u", is_mean: bool = True
    ) -> sp.csr_matrix:
        """Matrix from u, or one of its fields, to its means or integrals over patches.

        It is (n_patches * n_components, n_dofs).

        Raises:
            InputError: see `pddlvm.average_matrix`.
        """
        raise InputError(
            "average_matrix needs Lagrange elements; in strong form give the weights of your mean "
            "to LinearObservation"
        )

    def forces(self, u: Tensor, z: Tensor) -> Tensor:
        """r(u, z) on all degrees of freedom, (batch, n_dofs): where u is held, what holds it.

        Raises:
            InputError: the problem is not a steady one of finite elements.
        """
        raise self._without_forces

    def held_on(self, where: Where, field: str = "u") -> sp.csr_matrix:
        """Rows that add what holds each component of a field on a boundary, (n_components, n_dofs).

        Raises:
            InputError: nothing holds it there; or as `forces`.
        """
        raise self._without_forces

    @property
    def _without_forces(self) -> InputError:
        return InputError(
            f"fluxes through boundaries and compliances are of steady finite element problems, and "
            f"problem {self.name!r} is none; give a function of u, or rows of your own, to Quantity"
        )

    def seen_at(self, matrix: sp.csr_matrix, times: "ArrayLike | Tensor | None") -> sp.csr_matrix:
        """Rows that read u at one time, (n, n_dofs), for times (n_times,): on whole solutions.

        Raises:
            InputError: the problem has no steps in time; times outside.
        """
        if times is None:
            return matrix
        raise InputError(
            f"problem {self.name!r} has no steps in time, and no times to observe it at; leave "
            "times out, or make a TransientProblem of it"
        )

    def times_seen(self, times: "ArrayLike | Tensor | None") -> NDArray[np.float64] | None:
        """The times of sensors, (n_times,), of a problem with steps in time; all by default."""
        return None

    def as_points(self, points: "ArrayLike | Tensor") -> NDArray[np.float64]:
        """Points of the domain as an array (n_points, dim).

        Raises:
            InputError: another shape, or values that are not finite.
        """
        values = numbers_of(points, "points")
        dim = self.dim
        values = values[:, None] if values.ndim == 1 and dim == 1 else values
        if values.ndim != 2 or values.shape[1] != dim or not len(values):
            hint = ""
            if values.shape[:1] == (dim,):
                one = "a list of it, [[...]], is one point"
                hint = f"; try {values.T.shape}, the transpose" if values.ndim == 2 else f"; {one}"
            raise InputError(f"points must have shape (n_points, {dim}), got {values.shape}{hint}")
        if not np.isfinite(values).all():
            raise InputError("points has values that are not finite")
        return values

    @abstractmethod
    def _evaluation(self, points: NDArray[np.float64], field: str) -> sp.csr_matrix: ...

    @property
    @abstractmethod
    def _solution_has(self) -> str:
        """What the last axis of a solution must have, for messages."""

    @property
    @abstractmethod
    def _at_once(self) -> int:
        """How many samples are solved together, whoever does it: numbers depend on it."""

    @abstractmethod
    def _solve(self, z: Tensor, first: int) -> Tensor:
        """Reference solutions, (n, d) -> (n, *solution_shape), float64 on the CPU; from `first`."""

    @property
    def _field_signatures(self) -> dict[str, str]:
        return {k: f.signature for k, f in self.random_fields.items()}

    @property
    def _named_fields(self) -> dict[str, Any]:
        return {f"field {k!r}": f for k, f in self.fields.items()}

    def _fields_with(self, states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Field | float]:
        """The fields as saved tensors define them (see `Field.state`)."""
        return {
            k: f.with_state(states.get(k, {})) if isinstance(f, Field) else f
            for k, f in self.fields.items()
        }

    def _check_read(self, read: Collection[str], hint: str = "") -> None:
        unread = sorted(set(self.fields) - set(read))
        if unread:
            raise ProblemError(
                f"problem {self.name!r} has fields that no function reads: {unread}; name them "
                f"as arguments of a function of the problem, or leave them out{hint}"
            )

    def _check_field(self, name: str) -> None:
        if not isinstance(name, str) or name not in self.random_fields:
            raise InputError(f"no parameter field {name!r}; there are {list(self.random_fields)}")


def _solve(problem: ParametricProblem, part: tuple[int, Tensor], watch: Watch) -> Tensor:
    first, z = part
    return problem._solve(z, first)


def _named(part: tuple[int, Tensor]) -> str:
    first, z = part
    return f"the reference solutions of samples {first} to {first + len(z) - 1}"


def check_problem(value: object, what: str) -> ParametricProblem:
    """Return a problem, or raise a ProblemError that says what is none."""
    if not isinstance(value, ParametricProblem):
        raise ProblemError(
            f"{what} must be a problem, pddlvm.Problem(...) for one, got {type(value).__name__}"
        )
    return value
