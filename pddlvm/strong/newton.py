"""Newton's method for the strong form on Chebyshev nodes of the whole box, time included.

    sum_a  dr/du_a  D_a e  =  -r(u)     in the box,       e = 0 on hard faces,
    the linearised conditions on the other faces,

with spectral differentiation matrices D_a: one dense solve for each sample. A step from the mean
of the forward map gives its error, which is what the calibration needs. For references it starts
at the lift. Where solutions are smooth in s the nodes resolve them to many digits. With finite
elements (`pddlvm.weak.newton`) a step is next to nothing beside sparse factors, and a batch shares
its residuals; here a residual is cheap beside a dense solve, and samples go one by one.
"""

from collections.abc import Callable
from functools import cached_property, reduce

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.strong import chebyshev
from pddlvm.strong.domain import Face
from pddlvm.strong.form import StrongForm
from pddlvm.strong.interpolation import interpolate
from pddlvm.strong.jets import Index, Jet, pull_back, rows_of
from pddlvm.strong.pointwise import PointFunction

__all__ = ["SpaceTimeNewton"]

_MAX_STEPS = 40
_ROUND_OFF = 1e-12
_SHRINK = (1.0, 0.5, 0.25, 0.1, 0.03)


class SpaceTimeNewton:
    """Linearised solves on the nodes of a form, float64 on the CPU.

    Args:
        form: of the PDE.
        nodes: numbers of nodes; by default those of the form.
    """

    def __init__(self, form: StrongForm, nodes: tuple[int, ...] | None = None) -> None:
        self.form = form
        self.nodes = form.nodes if nodes is None else nodes
        axes = [chebyshev.nodes(n) for n in self.nodes]
        self.s = tuple(a.flatten() for a in torch.meshgrid(*axes, indexing="ij"))
        self.n_nodes = len(self.s[0])
        hard = [self._on(face) for face in form.ansatz.hard]
        self.free = ~reduce(torch.logical_or, hard, torch.zeros(self.n_nodes, dtype=torch.bool))
        self.on_condition = [self._on(c.face) & self.free for c in form.conditions]

    def error(self, jet: Jet, z: Tensor) -> Tensor:
        """e of a Newton step from u and of another with the same matrix, (n_samples, n_nodes).

        The second costs next to nothing and takes away most of what the first leaves.

        Args:
            jet: u and its derivatives along x at the nodes, (n_samples, n_nodes) each.
            z: (n_samples, d), float64.
        """
        found = []
        for i in range(len(z)):
            at, one = rows_of(jet, slice(i, i + 1)), z[i : i + 1]
            solve = self.factorise(at, one)
            e = solve(self.rows(at, one))
            found.append(e + solve(self.rows(self.correct(at, e, one), one)))
        return torch.cat(found) if found else torch.zeros(0, self.n_nodes, dtype=torch.float64)

    def tangent(self, jet: Jet, z: Tensor) -> Callable[[Tensor], Tensor]:
        """The linearised problem at u: e (n_samples, n_nodes) -> its rows (n_samples, n_free)."""
        geometry = self.form.ansatz.place(self.s, z)
        values = self.form.ansatz.values(z, geometry[0])
        parts = [(f.linearise(jet, values)[1], at) for f, at in self._rows_of]
        wanted = {index for slopes, _ in parts for index in slopes}

        def apply(e: Tensor) -> Tensor:
            along = {index: self._along_x(index, e, geometry) for index in wanted}
            rows = torch.zeros_like(e)
            for slopes, at in parts:
                found = torch.stack([a * along[index] for index, a in slopes.items()]).sum(0)
                rows[:, at] = found[:, at]
            return rows[:, self.free]

        return apply

    def jet(self, n: Tensor, z: Tensor) -> Jet:
        """Jet along x of lift + n, n given at the nodes (n_samples, n_nodes), z float64."""
        lift = self.form.ansatz.lift_jet(z, self.form.ansatz.place(self.s, z)[0])
        start = {k: u.double().expand(len(z), self.n_nodes) for k, u in lift.items()}
        return self.correct(start, n.double(), z)

    def change(self, n: Tensor, z: Tensor, n_steps: int) -> Jet:
        """Sum of n_steps Newton steps from u: a jet at the nodes, on the device of n.

        Args:
            n: nodal values of u, (n_samples, n_nodes).
            z: (n_samples, d).
            n_steps: at least 1.
        """
        z = z.double().cpu()
        start = jet = self.jet(n.cpu(), z)
        for _ in range(n_steps):
            jet = self.correct(jet, self.error(jet, z), z)
        return {index: (jet[index] - start[index]).to(n.device) for index in jet}

    def log_tail(self, n: Tensor, unit: Tensor) -> Tensor:
        """log of what the nodes hardly resolve of u given there, relative to a size of u.

        Args:
            n: nodal values, (batch, n_nodes).
            unit: the size, one number.

        Returns:
            (batch, 1), float64.
        """
        found = chebyshev.tail(n.double().reshape(len(n), *self.nodes))
        return found.clamp(min=torch.finfo(found.dtype).tiny).log()[:, None] - float(unit.log())

    def correct(self, jet: Jet, e: Tensor, z: Tensor) -> Jet:
        """The jet of u + e along x."""
        geometry = self.form.ansatz.place(self.s, z)
        return {k: u + self._along_x(k, e, geometry) for k, u in jet.items()}

    def size(self, z: Tensor) -> float:
        """About the size of u less its lift: the spread of the lift, or a step from there.

        Args:
            z: a few draws, (n, d), float64.
        """
        zero = torch.zeros(1, self.n_nodes, dtype=torch.float64)
        lift = torch.cat([self.jet(zero, one)[()] for one in z.split(1)])
        # The spread of a constant is rounding.
        spread, largest = float(lift.max() - lift.min()), float(lift.abs().max())
        spread = spread if spread > _ROUND_OFF * largest else 0.0
        return max(spread, *(self._first_step(one) for one in z.split(1))) or largest or 1.0

    def _first_step(self, z: Tensor) -> float:
        """Size of the first damped step from the lift; zero if none lowers the residual."""
        jet = self.jet(torch.zeros(1, self.n_nodes, dtype=torch.float64), z)
        rows = self.rows(jet, z)
        e = self.factorise(jet, z)(rows)
        found = self._damped(jet, e, z, rows.norm())
        return 0.0 if found is None else found[0] * float(e.abs().max())

    def _damped(
        self, jet: Jet, e: Tensor, z: Tensor, size: Tensor
    ) -> tuple[float, Jet, Tensor] | None:
        """The largest part of a step that lowers |r|, the jet there and its |r|, if any does."""
        for part in _SHRINK:
            moved = self.correct(jet, part * e, z)
            if (norm := self.rows(moved, z).norm()) < size:
                return part, moved, norm
        return None

    def solve(self, z: Tensor, first: int = 0, *, tolerance: float = 1e-10) -> Tensor:
        """Solutions on the grid from the lift, (n, d) -> (n, n_dofs).

        Args:
            z: samples.
            first: number of the first of them, for messages.
            tolerance: of the last step, relative.

        Raises:
            ConvergenceError: no step lowers the residual; names the sample.
        """
        return torch.cat(
            [self._solve_one(one, tolerance, first + i) for i, one in enumerate(z.split(1))]
        )

    def _solve_one(self, z: Tensor, tolerance: float, sample: int) -> Tensor:
        total = torch.zeros(1, self.n_nodes, dtype=torch.float64)
        jet = self.jet(total, z)
        size = self.rows(jet, z).norm()
        for _ in range(_MAX_STEPS):
            e = self.factorise(jet, z)(self.rows(jet, z))
            if not torch.isfinite(e).all():
                break
            found = self._damped(jet, e, z, size)
            # Half a step at a time, from zero too.
            largest = max(float(jet[()].abs().max()), float(total.abs().max()))
            small = float(e.abs().max()) <= tolerance * largest
            if found is not None:
                shrink, jet, size = found
                total = total + shrink * e
            if small:
                x = self.form.grid_points.unbind(-1)
                lift = self.form.ansatz.lift_jet(z, x)[()]
                return interpolate(self.form, total, z, nodes=self.nodes) + lift
            if found is None:
                break
        raise ConvergenceError(
            f"Newton's method on the nodes {self.form.nodes} of problem {self.form.name!r} "
            f"failed for sample {sample}, z = {z[0].tolist()}: residual {float(size):.2e}. Try "
            "more nodes or a stretch that resolves the layers"
        )

    def factorise(self, jet: Jet, z: Tensor) -> Callable[[Tensor], Tensor]:
        """The linearised problem at one u: rows (n, n_free) -> e (n, n_nodes) that removes them."""
        geometry = self.form.ansatz.place(self.s, z)
        values = self.form.ansatz.values(z, geometry[0])
        matrix = torch.empty(self.n_nodes, self.n_nodes, dtype=torch.float64)
        for function, at in self._rows_of:
            _, slopes = function.linearise(jet, values)
            matrix[at] = self._matrix(slopes, geometry)[at]
        factors = torch.linalg.lu_factor(matrix[self.free][:, self.free])

        def solve(rows: Tensor) -> Tensor:
            e = torch.zeros(len(rows), self.n_nodes, dtype=torch.float64)
            e[:, self.free] = -torch.linalg.lu_solve(*factors, rows.mT).mT
            return e

        return solve

    def rows(self, jet: Jet, z: Tensor) -> Tensor:
        """The residual at the free nodes, (n_samples, n_free)."""
        values = self.form.ansatz.values(z, self.form.ansatz.place(self.s, z)[0])
        rows = torch.empty(len(z), self.n_nodes, dtype=torch.float64)
        for function, at in self._rows_of:
            rows[:, at] = function(jet, values).expand(len(z), self.n_nodes)[:, at]
        return rows[:, self.free]

    @property
    def _rows_of(self) -> list[tuple[PointFunction, Tensor]]:
        """Each function with the nodes whose row it gives; where two do, the later one."""
        inside = (self.form.residual_function, torch.ones_like(self.free))
        return [inside, *zip(self.form.condition_functions, self.on_condition, strict=True)]

    def _on(self, face: Face) -> Tensor:
        """Which nodes lie on a face, (n_nodes,)."""
        s = self.s[self.form.ansatz.box.names.index(face.coordinate)]
        return s > 1 - 1e-12 if face.is_end else s < -1 + 1e-12

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
        along = self._along_s(index, e)
        if len(index) < 2:
            return along / first[index[0]] if index else along
        i, j = index
        if i == j:
            along = along - self._along_s((i,), e) * second[i] / first[i]
        return along / (first[i] * first[j])

    def _along_s(self, index: Index, e: Tensor) -> Tensor:
        values = e.reshape(len(e), *self.nodes)
        for i in index:
            values = (values.movedim(1 + i, -1) @ self._derivatives[i].T).movedim(-1, 1 + i)
        return values.flatten(1)

    @cached_property
    def _derivatives(self) -> list[Tensor]:
        """D along each coordinate, (n_i, n_i) each."""
        return [chebyshev.derivative(n) for n in self.nodes]

    @cached_property
    def _operators(self) -> dict[Index, Tensor]:
        """D_a on the nodes of the box, (n_nodes, n_nodes) each."""
        found = {}
        for index in self.form.ansatz.indices:
            factors = []
            for i, d in enumerate(self._derivatives):
                power = index.count(i)
                factors.append(torch.linalg.matrix_power(d, power))
            found[index] = reduce(torch.kron, factors)
        return found
