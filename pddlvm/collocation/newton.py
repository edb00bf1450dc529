"""Newton's method for the strong form on Chebyshev nodes of the whole box, time included.

    sum_a  dr/du_a  D_a e  =  -r(u)     in the box,       e = 0 on hard faces,
    the linearised conditions on the other faces,

with spectral differentiation matrices D_a: one dense solve for each sample. One step from the mean
of the forward map gives its error up to second order, which is what the calibration needs. For
references it starts at the lift. Where solutions are smooth in s the nodes resolve them to many
digits.
"""

from collections.abc import Callable
from functools import cached_property, reduce

import torch
from torch import Tensor

from pddlvm.collocation import chebyshev
from pddlvm.collocation.jets import Index, Jet, pull_back
from pddlvm.collocation.problem import CollocationProblem
from pddlvm.errors import ConvergenceError

__all__ = ["SpaceTimeNewton", "interpolate"]

Interpolation = Callable[[Tensor, int], Tensor]

_MAX_STEPS = 40
_SHRINK = (1.0, 0.5, 0.25, 0.1, 0.03)


class SpaceTimeNewton:
    """Linearised solves on the nodes of a problem, float64 on the CPU."""

    def __init__(self, problem: CollocationProblem) -> None:
        self.problem = problem
        axes = [chebyshev.nodes(n) for n in problem.nodes]
        self.s = tuple(a.flatten() for a in torch.meshgrid(*axes, indexing="ij"))
        self.n_nodes = len(self.s[0])
        names = problem.box.names
        on_face = {f: _ends(self.s[names.index(f.coordinate)], f.is_end) for f in problem.hard}
        hard = [on_face[face] for face in problem.hard]
        self.free = ~reduce(torch.logical_or, hard, torch.zeros(self.n_nodes, dtype=torch.bool))
        self.on_condition = [
            _ends(self.s[names.index(c.face.coordinate)], c.face.is_end) & self.free
            for c in problem.conditions
        ]

    def error(self, jet: Jet, z: Tensor) -> Tensor:
        """e of one Newton step from u, (n_samples, n_nodes).

        Args:
            jet: u and its derivatives along x at the nodes, (n_samples, n_nodes) each.
            z: (n_samples, d), float64.
        """
        return torch.cat([
            self._step({k: u[i : i + 1] for k, u in jet.items()}, z[i : i + 1])[0]
            for i in range(len(z))
        ])  # fmt: skip

    def correct(self, jet: Jet, e: Tensor, z: Tensor) -> Jet:
        """The jet of u + e along x."""
        geometry = self.problem.place(self.s, z)
        return {k: u + self._along_x(k, e, geometry) for k, u in jet.items()}

    def solve(self, z: Tensor, *, tolerance: float = 1e-10) -> Tensor:
        """Solutions on the grid from the lift, (n, d) -> (n, n_dofs).

        Raises:
            ConvergenceError: no step lowers the residual; names the sample.
        """
        return torch.cat([self._solve_one(z[i : i + 1], tolerance, i) for i in range(len(z))])

    def to_grid(self, e: Tensor, z: Tensor) -> Tensor:
        """From the nodes to the grid, (n_samples, n_dofs)."""
        return interpolate(self.problem, e, z, chebyshev.barycentric)

    def _solve_one(self, z: Tensor, tolerance: float, sample: int) -> Tensor:
        lift = self.problem.lift_jet(z, self.problem.place(self.s, z)[0])
        jet = {k: u.expand(1, self.n_nodes).double() for k, u in lift.items()}
        total = torch.zeros(1, self.n_nodes, dtype=torch.float64)
        size = self._rows(jet, z).norm()
        for _ in range(_MAX_STEPS):
            e, _ = self._step(jet, z)
            trials = ((a, self.correct(jet, a * e, z)) for a in _SHRINK)
            found = next(
                ((a, t, s) for a, t in trials if (s := self._rows(t, z).norm()) < size), None
            )
            small = float(e.abs().max()) <= tolerance * (1 + float(jet[()].abs().max()))
            if found is not None:
                shrink, jet, size = found
                total = total + shrink * e
            if small:
                x = self.problem.grid_points.unbind(-1)
                return self.to_grid(total, z) + self.problem.lift_jet(z, x)[()]
            if found is None:
                break
        raise ConvergenceError(
            f"Newton's method on the nodes {self.problem.nodes} of problem {self.problem.name!r} "
            f"failed for sample {sample}, z = {z[0].tolist()}: residual {float(size):.2e}. Try "
            "more nodes or a stretch that resolves the layers"
        )

    def _step(self, jet: Jet, z: Tensor) -> tuple[Tensor, Tensor]:
        """e of one sample, (1, n_nodes), and the residual of the free rows."""
        geometry = self.problem.place(self.s, z)
        values = self.problem.values(z, geometry[0])
        r, slopes = self.problem.residual_function.linearise(jet, values)
        rows, matrix = r.expand(1, -1).clone(), self._matrix(slopes, geometry)
        for function, at in zip(self.problem.condition_functions, self.on_condition, strict=True):
            g, slopes = function.linearise(jet, values)
            rows[:, at] = g.expand(1, -1)[:, at]
            matrix[at] = self._matrix(slopes, geometry)[at]
        free = self.free
        e = torch.zeros_like(rows)
        e[0, free] = -torch.linalg.solve(matrix[free][:, free], rows[0, free])
        return e, rows[:, free]

    def _rows(self, jet: Jet, z: Tensor) -> Tensor:
        """The residual of the free rows alone."""
        values = self.problem.values(z, self.problem.place(self.s, z)[0])
        rows = self.problem.residual_function(jet, values).expand(1, -1).clone()
        for function, at in zip(self.problem.condition_functions, self.on_condition, strict=True):
            rows[:, at] = function(jet, values).expand(1, -1)[:, at]
        return rows[:, self.free]

    def _matrix(self, slopes: Jet, geometry: tuple[list[Tensor], ...]) -> Tensor:
        """sum_a dr/du_a D_a as a matrix on the nodes, for one sample."""
        _, first, second = geometry
        along_s = pull_back(slopes, first, second)
        terms = [
            a.expand(1, self.n_nodes)[0][:, None] * self._operators[index]
            for index, a in along_s.items()
        ]
        return torch.stack(terms).sum(0)

    def _along_x(self, index: Index, e: Tensor, geometry: tuple[list[Tensor], ...]) -> Tensor:
        _, first, second = geometry
        along = e @ self._operators[index].T
        if len(index) < 2:
            return along / first[index[0]] if index else along
        i, j = index
        if i == j:
            along = along - (e @ self._operators[(i,)].T) * second[i] / first[i]
        return along / (first[i] * first[j])

    @cached_property
    def _operators(self) -> dict[Index, Tensor]:
        """D_a on the nodes of the box, (n_nodes, n_nodes) each."""
        first = [chebyshev.derivative(n) for n in self.problem.nodes]
        found = {}
        for index in self.problem.indices:
            factors = []
            for i, d in enumerate(first):
                power = index.count(i)
                factors.append(torch.linalg.matrix_power(d, power))
            found[index] = reduce(torch.kron, factors)
        return found


def interpolate(
    problem: CollocationProblem, values: Tensor, z: Tensor, matrix: Interpolation
) -> Tensor:
    """From values at the nodes, (n_samples, n_nodes), to the grid, (n_samples, n_dofs)."""
    axes = [a.to(values) for a in problem.axes]
    s = problem.locate(axes, z.to(values))
    matrices = [matrix(at, n) for at, n in zip(s, problem.nodes, strict=True)]
    boxed = values.reshape(len(values), *problem.nodes)
    return chebyshev.tensor_product(boxed, matrices).reshape(len(values), -1)


def _ends(s: Tensor, is_end: bool) -> Tensor:
    return s > 1 - 1e-12 if is_end else s < -1 + 1e-12
