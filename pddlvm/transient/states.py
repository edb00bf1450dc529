"""Values and velocities at the start: numbers, functions of x and fields, or vectors.

u_0 = initial(x_i; z) at the nodes x_i
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pddlvm.basics.checks import argument_names, check_finite, check_vectors
from pddlvm.basics.errors import ProblemError
from pddlvm.basics.explained import explained
from pddlvm.basics.owned import owned
from pddlvm.fem import FunctionSpace, MixedSpace
from pddlvm.fem.mixed import field_of
from pddlvm.weak.boundary import BoundaryValues
from pddlvm.weak.problem import Problem

__all__ = ["Given", "StateAtStart"]

Given = float | Callable[..., Any] | Tensor | ArrayLike | Mapping[str, Any]


@dataclass(frozen=True)
class _Everywhere:
    """Values of a field at all of its nodes; see `Dirichlet`, which is one of a boundary."""

    value: float | Callable[..., Any]
    field: str

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the parameter fields that the value reads."""
        return argument_names(self.value, "lambda x: ...")[1:] if callable(self.value) else ()

    def dofs_of(self, space: FunctionSpace) -> NDArray[np.int64]:
        """All degrees of freedom of the field."""
        dofs, _ = field_of(space, self.field)
        return np.arange(dofs.start, dofs.stop)

    def trace_of(self, space: FunctionSpace) -> None:
        """None: fluxes inside of a mesh are no values."""


class StateAtStart:
    """A state that depends on z.

    Args:
        problem: the steady one, at whose nodes it is.
        given: a number; a function of one point x and of fields, a number or (c,) of a vector; all
            values, (n_dofs,). Of several fields a mapping of their names to such, or all values.
        what: it is, for messages.

    Attributes:
        given: what was given.
        field_names: names of the parameter fields that it reads.

    Raises:
        ProblemError: none of these, a field that is not there, or no number.
    """

    def __init__(self, problem: Problem, given: Given, what: str) -> None:
        self.given = given = owned(given)
        self._problem, self._what = problem, f"{what} of problem {problem.name!r}"
        self._whole: Tensor | None = None
        self._parts: list[BoundaryValues] = []
        self.field_names: tuple[str, ...] = ()
        if isinstance(given, Tensor | np.ndarray | list | tuple):
            has = f"have {problem.n_dofs} values, one for each degree of freedom"
            found = check_finite(check_vectors(given, what, problem.n_dofs, has), what)
            self._whole = found.detach().to("cpu", torch.float64).reshape(-1)
            if len(self._whole) != problem.n_dofs:
                raise ProblemError(
                    f"{self._what} must {has}, got shape {tuple(found.shape)}: one state alone"
                )
            return
        space = problem.space
        if not isinstance(given, Mapping):
            if isinstance(space, MixedSpace) and (callable(given) or given != 0):
                names = list(space.field_names)
                raise ProblemError(
                    f"{self._what} must say which field it is of, "
                    f'{{"{names[0]}": ...}}; the fields are {names}'
                )
            given = {} if isinstance(space, MixedSpace) else {"u": given}
        for field, value in given.items():
            self._parts.append(self._part(_Everywhere(value, field)))

    def __call__(self, z: Tensor) -> Tensor:
        """Its values, (batch, n_dofs), float64; z of the steady problem, (batch, d)."""
        n = self._problem.n_dofs
        if self._whole is not None:
            return self._whole.expand(len(z), n).clone()
        u = torch.zeros(len(z), n, dtype=torch.float64)
        blocks = self._problem.prior.split(z)
        for part in self._parts:
            u[:, part.dofs] = part(blocks, len(z))
        return u

    def _part(self, one: _Everywhere) -> BoundaryValues:
        problem, value = self._problem, one.value
        if not callable(value):
            try:
                one = _Everywhere(float(value), one.field)
            except (TypeError, ValueError) as error:
                raise ProblemError(
                    f"{self._what} must be a number, a function of x and fields, or "
                    f"{problem.n_dofs} values, got {value!r}"
                ) from error
        what = self._what.partition(" of ")[0].removeprefix("the ")
        part = BoundaryValues(one, problem.space, problem.fields, torch.float64, what)
        self.field_names += one.field_names
        z = problem.prior.unstandardise(torch.zeros(1, problem.n_parameters, dtype=torch.float64))
        try:
            values = part(problem.prior.split(z), 1)
        except Exception as error:
            raise ProblemError(
                f"{self._what} cannot be evaluated ({explained(error)}); it must be a torch "
                "function of one point x and of fields that returns one number, or one for each "
                "component of a vector"
            ) from error
        if not torch.isfinite(values).all():
            raise ProblemError(f"{self._what} is not finite at the centre of the prior")
        return part
