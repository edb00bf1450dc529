"""A problem in time on a mesh: the trajectory is one unknown.

    M d^s u/dt^s + r(u, z, t) = 0,    u(start) = u_0(z),    s = 1, or 2 with du/dt(start) = v_0(z)
    R = (Ta x M) u + (Tb x 1) r(u, z, t) = 0                       see `pddlvm.transient.schemes`

r is the residual of a steady problem, whose field `Time`, if it has one, is t. Dirichlet values
hold from the start on.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pddlvm.basics.checks import broadcast_batch, check_count, check_kind
from pddlvm.basics.grad_mode import out_of_inference
from pddlvm.basics.summary import summarise
from pddlvm.fem.where import Patch
from pddlvm.linalg.operators import SparseOperator
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.parameters.sensitivities import Sensitivities
from pddlvm.transient.checks import (
    check_constraints,
    check_stable,
    time_of,
    velocity_of,
    warn_of_violated,
)
from pddlvm.transient.mass import GivenDensity, mass_matrix
from pddlvm.transient.sensitivities import MarchSensitivities
from pddlvm.transient.solver import TransientSolver
from pddlvm.transient.states import Given, StateAtStart
from pddlvm.transient.stepping import Stepping
from pddlvm.transient.terms import MovingTerms
from pddlvm.transient.times import TimesOfSteps
from pddlvm.weak.problem import Problem

__all__ = ["TransientProblem"]

_N_PROBES, _PROBE_SEED = 2, 20225
_MEMORY, _FEW = 2**27, 64
"""Bytes of trajectories, and their number, that are solved at once."""


class TransientProblem(TimesOfSteps, ParametricProblem):
    """A steady `Problem` in time. Immutable.

    Args:
        problem: the steady one, r(u, z) = 0. Its functions read the time as a field,
            `fields={..., "t": pddlvm.Time(end)}`, the last of them.
        stepping: the steps.
        initial: u at the start: a number, a function of x and fields, or all values (n_dofs,); of
            several fields a mapping of their names to such.
        density: rho of M: a positive number, or a function of x; of several fields a mapping, and
            those that are left out, as a pressure, have no derivative in time. Or M itself, a
            sparse matrix, of a `MatrixProblem` for one.
        velocity: du/dt at the start, as `initial`, of problems of second order in time (`Newmark`).

    Raises:
        ProblemError: an interval that is not that of the `Time`, second order without a velocity,
            or a function that cannot be evaluated.

    Warns:
        UserWarning: an initial value that violates a Dirichlet value.
    """

    @out_of_inference
    def __init__(
        self,
        problem: Problem,
        *,
        stepping: Stepping,
        initial: Given = 0.0,
        density: GivenDensity = 1.0,
        velocity: Given | None = None,
    ) -> None:
        check_kind(Problem, problem=problem)
        check_kind(Stepping, stepping=stepping)
        self.steady, self.stepping, self.density = problem, stepping, density
        self.linear_solver = problem.linear_solver
        self._time = time_of(problem, stepping)
        fields = {k: f for k, f in problem.fields.items() if k != self._time}
        super().__init__(problem.name, fields, {})
        self.mass = mass_matrix(self.name, problem.space, density)
        self._initial = StateAtStart(problem, initial, "the initial value")
        self._velocity = velocity_of(problem, stepping, velocity)
        check_constraints(problem, self.mass)
        self._check_all_read()
        rows = self._starts(self._few_draws)
        warn_of_violated(problem, self._initial(rows), self._lift(rows))

    def __repr__(self) -> str:
        return (
            f"TransientProblem({self.name!r}, {self.n_times} steps to t = {self.stepping.end:g}, "
            f"{self.n_dofs} dofs, {self.n_parameters} parameters: {self.prior!r})"
        )

    @property
    def n_dofs(self) -> int:
        """Degrees of freedom of the space, Dirichlet ones included."""
        return self.steady.n_dofs

    @property
    def n_free(self) -> int:
        """Degrees of freedom without the Dirichlet ones."""
        return self.steady.n_free

    @property
    def dim(self) -> int:  # noqa: D102
        return self.steady.dim

    @property
    def space(self) -> Any:
        """Where u lives at each time."""
        return self.steady.space

    @property
    def solution_shape(self) -> tuple[int, ...]:
        """(n_times, n_dofs)."""
        return (self.n_times, self.n_dofs)

    @property
    def fields_of_u(self) -> dict[str, slice]:  # noqa: D102
        return self.steady.fields_of_u

    @property
    def is_linear(self) -> bool:
        """Is K the same whatever u is?"""
        return self.steady.is_linear

    # --- time ------------------------------------------------------------------------------------

    def at(self, z: Tensor, times: "ArrayLike | Tensor") -> Tensor:
        """Parameters of the steady problem at some times, (..., d) -> (..., n_times, d + 1).

        The last is t; it is not there, and the rows are all z, where the steady problem has no
        field of time.

        Raises:
            InputError: z is no parameter vector, or times are not in the interval.
        """
        return self._rows(self.prior.vectors(z), self.check_times(times))

    @cached_property
    def reads_time(self) -> bool:
        """Does a term, or a Dirichlet value, read the field of time?"""
        read = [term.field_names for term in self.steady.terms]
        read += [one.field_names for one in self.steady.dirichlet]
        return any(self._time in names for names in read)

    def state_rows(self, z: Tensor) -> Tensor:
        """z of the steady problem at all states, history first, (..., d) -> (..., h + N, d)."""
        return self._rows(z, self.scheme.all_times)

    @cached_property
    def moving_terms(self) -> MovingTerms:
        """The terms of the steady problem along the time, of linear problems as matrices."""
        return MovingTerms(self.steady, self._time)

    @out_of_inference
    def history(self, z: Tensor) -> Tensor:
        """Known states before the first step, (..., d) -> (..., h, n_dofs), float64 on the CPU.

        The initial value; of second order in time u_0 - d v_0 before it, d the first step.
        """
        z = self.prior.check(z).detach().to("cpu", torch.float64)
        found = self.history_of(z.reshape(-1, self.n_parameters))
        return found.reshape(*z.shape[:-1], *found.shape[1:])

    def history_of(self, z: Tensor) -> Tensor:
        """The same of float64 (n, d), not checked; differentiable."""
        rows = self._starts(z)
        fixed = torch.from_numpy(self.steady.fixed_dofs)
        u = self._initial(rows)
        u[:, fixed] = self._lift(rows)[:, fixed]
        if self._velocity is None:
            return u[:, None]
        v = self._velocity(rows)
        v[:, fixed] = self._lift_rate(rows)[:, fixed]
        return torch.stack([u - float(self.scheme.weights[0]) * v, u], dim=1)

    @out_of_inference
    def time_error(self, n_samples: int = 4, seed: int = 0) -> float:
        """Relative difference of solutions to those with halved steps, in L2 of space and time.

        It is the mean of some draws of the prior. The error of the steps is 4/3 of it for methods
        of second order, and twice it for backward Euler; it is in no error bar.
        """
        check_count(1, n_samples=n_samples)
        z = self.prior.sample((n_samples,), seed=seed)
        finer = self._with(stepping=self.stepping.halved).solve(z)[:, 1::2]
        gram = SparseOperator(sp.csr_matrix(self.space.gram_matrices()[0]))
        weights = torch.from_numpy(self.scheme.weights)

        def size(u: Tensor) -> Tensor:
            return ((u * gram(u)).sum(-1) @ weights).clamp(min=0).sqrt()

        return float((size(finer - self.solve(z)) / size(finer)).mean())

    # --- residuals and solutions -----------------------------------------------------------------

    @out_of_inference
    def residual(self, u: Tensor, z: Tensor) -> Tensor:
        """R on the free degrees of freedom, (..., n_times, n_free); dtype and device follow u.

        Zero at the solution, where u also carries the Dirichlet values.
        """
        u = self.check_solution(u)
        z = self.prior.check(z)
        batch = broadcast_batch(u=u[..., 0], z=z)
        u = u.expand(*batch, -1, -1).reshape(-1, *self.solution_shape)
        z = z.expand(*batch, -1).reshape(-1, self.n_parameters)
        history = self.history_of(z.detach().to("cpu", torch.float64)).to(u)
        states, scheme = torch.cat([history, u], dim=1), self.scheme
        operators = self.steady.discretisation(u.dtype, u.device)
        ta, tb = (torch.from_numpy(t.toarray()).to(u) for t in (scheme.ta, scheme.tb))
        mass = SparseOperator(self.mass, u.dtype).to(u.device)
        r = torch.zeros_like(states)[..., : self.n_free]
        rows = self._rows(z.to(u), scheme.all_times)
        for part in torch.from_numpy(scheme.asked).split(self.steady.solver.chunk):
            for i, own in enumerate(states):
                r[i, part] = operators.residual(own[part], rows[i, part])
        whole = ta @ mass(states)[..., operators.free] + tb @ r
        return operators.balanced(whole).reshape(*batch, self.n_times, self.n_free)

    def _solve(self, z: Tensor, first: int) -> Tensor:
        rows = self._rows(z, self.scheme.all_times)
        return self._solver.solve(rows, self.history_of(z), first)

    def _trajectories(self, z: Tensor) -> Tensor:
        return self._solve(z, 0)

    def _known(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`state_rows`, and the values of all states that z prescribes, zero elsewhere."""
        rows, h = self.state_rows(z), self.scheme.n_history
        lifts = self._lift(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
        return rows, torch.cat([self.history_of(z), lifts[:, h:]], dim=1)

    def _lift(self, rows: Tensor) -> Tensor:
        """Dirichlet values, (n, d + 1) -> (n, n_dofs)."""
        return self.steady.discretisation(torch.float64, torch.device("cpu")).lift(rows)

    def _lift_rate(self, rows: Tensor) -> Tensor:
        """Their derivatives in time, (n, d + 1) -> (n, n_dofs)."""
        if self._time is None:
            return torch.zeros(len(rows), self.n_dofs, dtype=torch.float64)
        along = torch.zeros_like(rows)
        along[:, -1] = 1.0
        with torch.enable_grad():
            jvp, is_asked = torch.autograd.functional.jvp, rows.requires_grad
            found: Tensor = jvp(self._lift, rows, along, create_graph=is_asked)[1]
        return found

    def _starts(self, z: Tensor) -> Tensor:
        """z of the steady problem at the start, (..., d) -> (..., d + 1)."""
        return self._rows(z, np.array([self.stepping.start]))[..., 0, :]

    def _rows(self, z: Tensor, times: NDArray[np.float64]) -> Tensor:
        """(..., d) -> (..., n_times, d + 1), the times not checked."""
        found = z[..., None, :].expand(*z.shape[:-1], len(times), -1)
        if self._time is None:
            return found
        t = torch.from_numpy(times).to(z)[:, None].expand(*found.shape[:-1], 1)
        return torch.cat([found, t], dim=-1)

    @cached_property
    def _solver(self) -> TransientSolver:
        self.check_stable()
        return TransientSolver(self.steady, self.scheme, self.mass, self._time)

    def check_stable(self) -> None:
        """Raise a ProblemError if shapes grow that should not; before anything is solved."""
        check_stable(self.steady, self.mass, self.scheme)

    @property
    def _at_once(self) -> int:
        size = 8 * self.n_times * self.n_dofs
        most = _FEW if self.is_linear else self.steady._at_once
        return max(1, min(most, _MEMORY // size))

    # --- its parts -------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """Hash of the fingerprint of the steady problem, and of the steps."""
        digest = sha256(self.steady.fingerprint.encode())
        for rows in (self.scheme.ta, self.scheme.tb):
            digest.update(rows.indices.astype(np.int64).tobytes() + rows.data.tobytes())
        digest.update(self.scheme.all_times.tobytes())
        return digest.hexdigest()

    @cached_property
    def probe(self) -> Tensor:
        """That of the steady problem, the states at the start, and the mass, to a row each."""
        z = self._few_draws
        rough = np.cos(np.arange(self.n_dofs, dtype=np.float64))
        rows = [self.history_of(z), torch.from_numpy(self.mass @ rough)[None]]
        return torch.cat([self.steady.probe, *map(summarise, rows)])

    @property
    def _few_draws(self) -> Tensor:
        generator = torch.Generator().manual_seed(_PROBE_SEED)
        return self.prior.sample((_N_PROBES,), generator=generator)

    @property
    def shape_sizes(self) -> dict[str, Tensor]:  # noqa: D102
        return {k: v for k, v in self.steady.shape_sizes.items() if k != self._time}

    def with_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> "TransientProblem":  # noqa: D102
        return self._with(problem=self.steady.with_states(states))

    def field_values(self, z: Tensor, name: str) -> Tensor:
        """A parameter field at the cell centroids, (..., n_cells), z not checked."""
        self._check_field(name)
        return self.steady.field_values(self._starts(z), name)

    def field_points(self, name: str) -> NDArray[np.float64]:
        """The cell centroids, (n_cells, dim)."""
        self._check_field(name)
        return self.steady.field_points(name)

    def inferred(self, z: Tensor) -> Tensor:
        """The first parameter field."""
        return self.field_values(z, next(iter(self.random_fields)))

    def sensitivities(self) -> Sensitivities:  # noqa: D102
        self.check_stable()
        return MarchSensitivities(
            self.steady, self.scheme, self.mass, self.moving_terms, self._trajectories, self._known
        )

    def gradients(  # noqa: D102
        self, points: "ArrayLike | Tensor", field: str = "u"
    ) -> sp.csr_matrix:
        return self.steady.gradients(points, field)

    def averages(  # noqa: D102
        self, patches: Sequence[Patch], field: str = "u", is_mean: bool = True
    ) -> sp.csr_matrix:
        return self.steady.averages(patches, field, is_mean)

    def _evaluation(self, points: NDArray[np.float64], field: str) -> sp.csr_matrix:
        return self.steady.evaluation(points, field)

    def _with(self, **changes: Any) -> "TransientProblem":
        return _make({**self._arguments, **changes})

    @property
    def _arguments(self) -> dict[str, Any]:
        return {
            "problem": self.steady,
            "stepping": self.stepping,
            "initial": self._initial.given,
            "density": self.density,
            "velocity": None if self._velocity is None else self._velocity.given,
        }

    @property
    def _made_by(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _make, (self._arguments,)

    @property
    def _pickled_parts(self) -> dict[str, Any]:
        own = {"its steady problem": self.steady, "its density": self.density}
        own["its initial value"] = self._initial.given
        if self._velocity is not None:
            own["its velocity"] = self._velocity.given
        return own

    @property
    def _solution_has(self) -> str:
        return (
            f"have {self.n_times} times and {self.n_dofs} degrees of freedom (Dirichlet ones "
            "included) on its last two axes"
        )

    def _check_all_read(self) -> None:
        read = self.steady.form.names_read | set(self._initial.field_names)
        if self._velocity is not None:
            read |= set(self._velocity.field_names)
        self._check_read(read)


def _make(arguments: Mapping[str, Any]) -> TransientProblem:
    given = dict(arguments)
    return TransientProblem(given.pop("problem"), **given)
