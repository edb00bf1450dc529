"""What is asked of a solution, q(u, z): an average, a flux, a compliance, a maximum.

    q(u) = L u          a matrix; values of models are corrected by adjoints and have a bound
    q(u), q(u, z)       any differentiable function of torch

Unlike an observation it has no noise: it is a property of u itself, and models answer it with an
error of its own, which is not that of u.
"""

import inspect
from collections.abc import Callable
from math import prod
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.basics.checks import (
    broadcast_batch,
    check_count,
    check_finite,
    check_kind,
)
from pddlvm.basics.errors import InputError
from pddlvm.basics.explained import explained
from pddlvm.basics.grad_mode import with_gradients
from pddlvm.linalg.operators import SparseOperator
from pddlvm.parameters.identity import is_like
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.sensors.observation import LinearObservation, rows_of

__all__ = ["Quantity", "check_quantity"]

_SEED, _N_PROBES = 161803, 2


class Quantity:
    """Numbers that solutions are asked for: `quantity(u)`, or `quantity(u, z)`. Immutable.

    Args:
        problem: whose solutions are asked.
        functional: a matrix L, (n, n_dofs), or one row (n_dofs,), sparse or dense, such as
            `average_matrix`, `integral_matrix` and `gradient_matrix` make; or a
            `LinearObservation`, whose matrix is taken. Or a differentiable torch function of
            solutions u (batch, n_dofs), or of u and z (batch, d), that returns (batch, n); u of a
            problem in time is (batch, n_times, n_dofs). It is called once, of random numbers, to
            see what it returns.
        name: for messages and tables.
        n: how many numbers; by default as many as there are.

    Raises:
        InputError: a matrix of another size, without a row, or with values that are not finite; a
            function that returns another shape, has no derivative by u, or values that are not
            finite; an observation of another problem.
    """

    def __init__(
        self,
        problem: ParametricProblem,
        functional: Any,
        name: str = "quantity",
        *,
        n: int | None = None,
    ) -> None:
        check_kind(ParametricProblem, problem=problem)
        check_kind(str, name=name)
        if n is not None:
            check_count(1, n=n)
        self.problem, self.name = problem, name
        self.reads_z, self._function = False, None
        self._matrix: sp.csr_matrix | None = None
        if callable(functional):
            self.reads_z, self._function = _reads_z(functional), functional
            self.n: int = self._probed(n)
            return
        if isinstance(functional, LinearObservation):
            if not is_like(problem, functional.problem):
                raise InputError(
                    f"the observation is of problem {functional.problem.name!r}, the quantity "
                    f"{name!r} of {problem.name!r} or of one with another mesh or other fields"
                )
            functional = functional.matrix
        self._matrix = rows_of(problem, functional)
        self.n = self._matrix.shape[0]
        if not self.n:
            raise InputError(f"the quantity {name!r} has no row")
        if n not in (None, self.n):
            raise InputError(f"the quantity {name!r} has {self.n} rows, and n is {n}")

    def __repr__(self) -> str:
        return f"Quantity({self.name!r}, {self.n} of {self.problem.name!r})"

    @property
    def is_linear(self) -> bool:
        """Was it given as a matrix?"""
        return self._matrix is not None

    @property
    def matrix(self) -> sp.csr_matrix:
        """L, (n, n_dofs), of a problem in time (n, n_times n_dofs).

        Raises:
            InputError: the quantity was given as a function.
        """
        if self._matrix is None:
            raise InputError(
                f"the quantity {self.name!r} is a function, and no matrix; ask .is_linear first"
            )
        return self._matrix

    def __call__(self, u: Tensor, z: Tensor | None = None) -> Tensor:
        """q(u, z), (..., n_dofs) and (..., d) -> (..., n); of trajectories (..., n_times, n_dofs).

        Differentiable; dtype and device of u.

        Args:
            u: solutions.
            z: their parameters, where the quantity was made of a function of u and z.

        Raises:
            InputError: u or z of another shape, or values that are not finite.
        """
        u = self.problem.check_solution(u)
        shape = self.problem.solution_shape
        if self._matrix is not None:
            operator = SparseOperator(self._matrix, u.dtype).to(u.device)
            found: Tensor = operator(u.flatten(-len(shape)))
            return found
        batch = u.shape[: -len(shape)]
        if self.reads_z:
            if z is None:
                raise InputError(
                    f"the quantity {self.name!r} is a function of u and z: call it quantity(u, z)"
                )
            z = self.problem.prior.check(z).to(u)
            batch = broadcast_batch(u=u.flatten(-len(shape)), z=z)
            z = z.expand(*batch, -1).reshape(prod(batch), z.shape[-1])
        found = self._evaluated(u.expand(*batch, *shape).reshape(prod(batch), *shape), z, self.n)
        return check_finite(found, f"the quantity {self.name!r}").reshape(*batch, self.n)

    def _evaluated(self, u: Tensor, z: Tensor | None, n: int | None) -> Tensor:
        """The function, of a batch, which returns a row of n numbers for each."""
        assert self._function is not None
        arguments = {"u": u} if z is None or not self.reads_z else {"u": u, "z": z}
        given = " and ".join(f"{name} {tuple(x.shape)}" for name, x in arguments.items())
        try:
            found = self._function(*arguments.values())
        except Exception as error:
            raise InputError(
                f"the function of the quantity {self.name!r} cannot be evaluated at {given}, "
                f"{u.dtype} ({explained(error)})"
            ) from error
        is_right = isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(u)
        if not is_right or n not in (None, found.shape[1]) or not found.shape[1]:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            hint = "; keep the last axis, as u.amax(-1, keepdim=True)" if shape == (len(u),) else ""
            raise InputError(
                f"the function of the quantity {self.name!r} must return "
                f"({len(u)}, {'n' if n is None else n}) at {given}, it returns {shape}{hint}"
            )
        return found.to(u)

    @with_gradients
    def _probed(self, n: int | None) -> int:
        """How many numbers the function returns."""
        problem, generator = self.problem, torch.Generator().manual_seed(_SEED)
        z = problem.prior.sample((_N_PROBES,), generator=generator)
        u = torch.rand(_N_PROBES, *problem.solution_shape, generator=generator, dtype=z.dtype)
        # Positive, for logarithms and roots.
        found, slope = self._with_slope(0.5 + u, z, n)
        if not (torch.isfinite(found).all() and torch.isfinite(slope).all()):
            # There may be no such u, and a function that does not know it.
            found, slope = self._with_slope(problem.solve(z), z, n)
        for what, values in (("values", found), ("derivatives by u", slope)):
            if not torch.isfinite(values).all():
                raise InputError(
                    f"the function of the quantity {self.name!r} has {what} that are not finite "
                    "(NaN or infinity) at solutions of draws of the prior"
                )
        return found.shape[1]

    def _with_slope(self, u: Tensor, z: Tensor, n: int | None) -> tuple[Tensor, Tensor]:
        """Values, and the derivative of their sum by u."""
        u = u.requires_grad_()
        found = self._evaluated(u, z, n)
        try:
            (slope,) = torch.autograd.grad(found.sum(), u)
        except RuntimeError as error:
            raise InputError(
                f"the function of the quantity {self.name!r} is not differentiable in u: use "
                "functions of torch that have a derivative, without detach(), item(), argmax or "
                "comparisons"
            ) from error
        return found.detach(), slope


def _reads_z(function: Callable[..., Any]) -> bool:
    """Has it two arguments that must be given?"""
    try:
        arguments = inspect.signature(function).parameters.values()
    except ValueError:  # one of torch's own
        return False
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    needed = [a for a in arguments if a.kind in positional and a.default is a.empty]
    return len(needed) > 1


def check_quantity(problem: ParametricProblem, quantity: Quantity) -> Quantity:
    """Return a quantity of a problem, or raise an InputError."""
    check_kind(Quantity, quantity=quantity)
    if not is_like(problem, quantity.problem):
        raise InputError(
            f"the quantity {quantity.name!r} is of problem {quantity.problem.name!r}, the "
            f"model of {problem.name!r} or of one with another mesh, other fields or other "
            "physics; make the quantity of model.problem"
        )
    return quantity
