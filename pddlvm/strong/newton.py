"""Newton's method for the strong form on Chebyshev nodes of the whole box, time included.

    sum_a  dr/du_a  D_a e  =  -r(u)     in the box,       e = 0 on hard faces,
    the linearised conditions on the other faces,

with spectral differentiation matrices D_a: one dense solve for each sample. Of several unknowns
there are as many equations, and e has one after the other. A step from the mean of the forward map
gives its error, which is what the calibration needs. For references it starts at the lift. Where
solutions are smooth in s the nodes resolve them to many digits. With finite elements
(`pddlvm.weak.newton`) a step is next to nothing beside sparse factors, and a batch shares its
residuals; here a residual is cheap beside a dense solve, and samples go one by one.
"""

import math
from collections.abc import Callable, Iterable
from functools import cached_property, reduce

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.strong.domain import Face
from pddlvm.strong.form import StrongForm
from pddlvm.strong.held_rows import held_rows
from pddlvm.strong.interpolation import interpolate
from pddlvm.strong.jets import Index, Jet, rows_of
from pddlvm.strong.placed import Placed
from pddlvm.strong.preconditioned import Preconditioned, Solve
from pddlvm.strong.separable import Separable
from pddlvm.strong.series import tail

__all__ = ["SpaceTimeNewton"]

_MAX_STEPS = 40
_ROUND_OFF = 1e-12
_EXACT, _BUDGET, _MOST_FACTORISED = 1e-10, 60, 4000
_SHRINK = (1.0, 0.5, 0.25, 0.1, 0.03)
_ROUNDING_GROWTH = 4
"""Second derivatives on n Chebyshev nodes multiply rounding by n to this power."""


class SpaceTimeNewton:
    """Linearised solves on the nodes of a form, float64 on the CPU.

    Args:
        form: of the PDE.
        nodes: numbers of nodes; by default those of the form.
    """

    def __init__(self, form: StrongForm, nodes: tuple[int, ...] | None = None) -> None:
        self.form = form
        self.nodes = form.nodes if nodes is None else nodes
        axes = torch.meshgrid(*form.node_axes(self.nodes), indexing="ij")
        self.s = tuple(a.flatten() for a in axes)
        self.n_nodes = len(self.s[0])
        self.n_values = form.unknowns.n * self.n_nodes
        self.free = torch.cat([self._inside(faces) for faces in form.ansatz.hard])
        """Which values at nodes are unknown, (n_unknowns n_nodes,)."""
        self._held = held_rows(form, self.nodes, self.free)

    def error(self, jet: Jet, z: Tensor) -> Tensor:
        """e of a Newton step from u and of another with the same matrix, (n_samples, n_values).

        The second costs next to nothing and takes away most of what the first leaves.

        Args:
            jet: u and its derivatives along x at the nodes, (n_samples, n_nodes) each.
            z: (n_samples, d), float64.
        """
        found = []
        for i in range(len(z)):
            at, one = rows_of(jet, slice(i, i + 1)), z[i : i + 1]
            solve = self.solver(at, one)
            e = solve(self.rows(at, one))
            found.append(e + solve(self.rows(self.correct(at, e, one), one)))
        return torch.cat(found) if found else torch.zeros(0, self.n_values, dtype=torch.float64)

    def tangent(self, jet: Jet, z: Tensor) -> Callable[[Tensor], Tensor]:
        """The linearised problem at u: e (n_samples, n_values) -> its rows (n_samples, n_free)."""
        placed = self.form.ansatz.place(self.s, z)
        values = self.form.ansatz.values(z, placed.x)
        equations = self.form.residual_function.linearise(jet, values)[1]
        held = [(row, row.linearise(jet, values)) for row in self._held]
        slopes = [*equations, *(found for _, found in held)]
        wanted = {index for of_row in slopes for own in of_row for index in own}

        def apply(e: Tensor) -> Tensor:
            parts = self._parts(e)
            along = [{i: self._along_x(i, part, placed) for i in wanted} for part in parts]

            def row(slopes: list[Jet]) -> Tensor:
                pairs = zip(slopes, along, strict=True)
                return torch.stack([a * d[i] for own, d in pairs for i, a in own.items()]).sum(0)

            rows = torch.cat([row(of_equation) for of_equation in equations], dim=-1)
            for condition, found in held:
                rows[:, condition.rows] = row(found)[:, condition.nodes]
            return rows[:, self.free]

        return apply

    def jet(self, n: Tensor, z: Tensor) -> Jet:
        """Jet along x of lift + n, n given at the nodes (n_samples, n_values), z float64."""
        lift = self.form.ansatz.lift_jet(z, self.form.ansatz.place(self.s, z).x)
        start = {k: u.double().expand(*u.shape[:-2], len(z), self.n_nodes) for k, u in lift.items()}
        return self.correct(start, n.double(), z)

    def steps(self, n: Tensor, z: Tensor, n_steps: int) -> Tensor:
        """n + e, e from Newton steps at lift + n, (n_samples, n_values).

        Args:
            n: u less its lift, given at the nodes, (n_samples, n_values).
            z: (n_samples, d).
            n_steps: at least 1.
        """
        z, total = z.double().cpu(), n.double().cpu()
        for _ in range(n_steps):
            total = total + self.error(self.jet(total, z), z)
        return total

    def unlifted(self, n: Tensor, z: Tensor) -> Jet:
        """Jet along x of n alone, at the nodes; of the same arguments."""
        nothing = dict.fromkeys(self.form.ansatz.indices, torch.zeros(()))
        return self.correct(nothing, n, z.double().cpu())

    def log_tail(self, n: Tensor, unit: Tensor) -> Tensor:
        """log of what the nodes hardly resolve of u given there, relative to a size of u.

        Nor can it be smaller than the rounding of a solve.

        Args:
            n: nodal values, (batch, n_values).
            unit: the size, one number, or one for each unknown.

        Returns:
            (batch, 1), float64; of several unknowns of the root of their mean square.
        """
        logs = []
        rounding = torch.finfo(torch.float64).eps * max(self.nodes) ** _ROUNDING_GROWTH
        for part, size in zip(self._parts(n.double()), unit.reshape(-1), strict=True):
            found = tail(part.reshape(len(part), *self.nodes), self.form.ansatz.series)
            logs.append((found / float(size) + rounding).log()[:, None])
        if len(logs) == 1:
            return logs[0]
        return 0.5 * (2 * torch.stack(logs)).logsumexp(0) - 0.5 * math.log(len(logs))

    def correct(self, jet: Jet, e: Tensor, z: Tensor) -> Jet:
        """The jet of u + e along x."""
        placed = self.form.ansatz.place(self.s, z)
        parts = self._parts(e)
        return {
            k: u + self.form.unknowns.of_parts([self._along_x(k, one, placed) for one in parts])
            for k, u in jet.items()
        }

    def size(self, z: Tensor) -> Tensor:
        """About the size of u less its lift: the spread of the lift, or a step from there.

        Args:
            z: a few draws, (n, d), float64.

        Returns:
            (), or of several unknowns (n_unknowns,), float64.
        """
        zero = torch.zeros(1, self.n_values, dtype=torch.float64)
        jets = [self.jet(zero, one) for one in z.split(1)]
        lifts = self._parts(torch.cat([self.form.unknowns.join(jet[()]) for jet in jets]))
        steps = self._parts(torch.cat([self._first_step(one) for one in z.split(1)]))
        found = []
        for lift, step in zip(lifts, steps, strict=True):
            # The spread of a constant is rounding.
            spread, largest = float(lift.max() - lift.min()), float(lift.abs().max())
            spread = spread if spread > _ROUND_OFF * largest else 0.0
            found.append(max(spread, float(step.abs().max())) or largest or 1.0)
        sizes = torch.tensor(found, dtype=torch.float64)
        return sizes if len(sizes) > 1 else sizes[0]

    def _first_step(self, z: Tensor) -> Tensor:
        """The first damped step from the lift, (1, n_values); zero if none lowers the residual."""
        jet = self.jet(torch.zeros(1, self.n_values, dtype=torch.float64), z)
        rows = self.rows(jet, z)
        e = self.solver(jet, z)(rows)
        found = self._damped(jet, e, z, rows.norm())
        return torch.zeros_like(e) if found is None else found[0] * e

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
        total = torch.zeros(1, self.n_values, dtype=torch.float64)
        jet = self.jet(total, z)
        size = self.rows(jet, z).norm()
        for _ in range(_MAX_STEPS):
            e = self.solver(jet, z)(self.rows(jet, z))
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
                lift = self.form.ansatz.lift(z, x)
                return interpolate(self.form, total, z, nodes=self.nodes) + lift
            if found is None:
                break
        raise ConvergenceError(
            f"Newton's method on the nodes {self.form.nodes} of problem {self.form.name!r} "
            f"failed for sample {sample}, z = {z[0].tolist()}: residual {float(size):.2e}. Try "
            "more nodes or a stretch that resolves the layers"
        )

    def solver(self, jet: Jet, z: Tensor) -> Solve:
        """The linearised problem at one u: rows (1, n_free) -> e without them, (1, n_values)."""
        if not self.is_separable:
            return self.factorise(jet, z)
        system = Preconditioned(self.tangent(jet, z), self.separable(jet, z))

        def solve(rows: Tensor) -> Tensor:
            e, is_found = system.error(rows, _EXACT, _BUDGET)
            if is_found.all() or not torch.isfinite(rows).all():
                return e
            if self.n_values <= _MOST_FACTORISED:
                return self.factorise(jet, z)(rows)
            raise ConvergenceError(
                f"the linearised equations of problem {self.form.name!r} on the nodes {self.nodes} "
                f"could not be solved for z = {z[0].tolist()}: their coefficients vary too much "
                f"for an iteration. With at most {_MOST_FACTORISED} nodes they are factorised"
            )

        return solve

    @property
    def is_separable(self) -> bool:
        """Are coefficients averaged for a preconditioner, in the place of factors? From 3D on."""
        return len(self.nodes) > 2 and not self._held

    def separable(self, jet: Jet, z: Tensor) -> Solve:
        """-P^-1 with the coefficients at u averaged, rows (n, n_free) -> e (n, n_values)."""
        placed = self.form.ansatz.place(self.s, z)
        values = self.form.ansatz.values(z, placed.x)
        equations = self.form.residual_function.linearise(jet, values)[1]
        inverses = [
            Separable(placed.pull_back(of_row[a]), self._derivatives, self._free_along(faces))
            for a, (of_row, faces) in enumerate(zip(equations, self.form.ansatz.hard, strict=True))
        ]
        numbers = [int(part.sum()) for part in self.free.chunk(len(inverses))]

        def solve(rows: Tensor) -> Tensor:
            e = rows.new_zeros(len(rows), self.n_values)
            parts = zip(inverses, rows.split(numbers, dim=1), strict=True)
            e[:, self.free] = -torch.cat([inverse.solve(part) for inverse, part in parts], dim=1)
            return e

        return solve

    def factorise(self, jet: Jet, z: Tensor) -> Solve:
        """The linearised problem at one u: rows (n, n_free) -> e without them, (n, n_values)."""
        placed = self.form.ansatz.place(self.s, z)
        values = self.form.ansatz.values(z, placed.x)
        equations = self.form.residual_function.linearise(jet, values)[1]
        matrix = torch.cat([self._row_of_matrix(slopes, placed) for slopes in equations])
        for row in self._held:
            found = self._row_of_matrix(row.linearise(jet, values), placed)
            matrix[row.rows] = found[row.nodes]
        factors = torch.linalg.lu_factor(matrix[self.free][:, self.free])

        def solve(rows: Tensor) -> Tensor:
            e = torch.zeros(len(rows), self.n_values, dtype=torch.float64)
            e[:, self.free] = -torch.linalg.lu_solve(*factors, rows.mT).mT
            return e

        return solve

    def rows(self, jet: Jet, z: Tensor) -> Tensor:
        """The residual at the free nodes, (n_samples, n_free)."""
        values = self.form.ansatz.values(z, self.form.ansatz.place(self.s, z).x)
        r = self.form.residual_function(jet, values).expand_as(jet[()])
        rows = self.form.unknowns.join(r).clone()
        # Where two rows are given for a value it is the later one.
        for row in self._held:
            given = row(jet, values).expand(len(z), self.n_nodes)
            rows[:, row.rows] = given[:, row.nodes]
        return rows[:, self.free]

    def _parts(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """The values of each unknown, (n_samples, n_nodes)."""
        return vectors.chunk(self.form.unknowns.n, dim=-1)

    def _on(self, face: Face) -> Tensor:
        """Which nodes lie on a face, (n_nodes,)."""
        s = self.s[self.form.ansatz.box.names.index(face.coordinate)]
        return s > 1 - 1e-12 if face.is_end else s < -1 + 1e-12

    def _inside(self, faces: Iterable[Face]) -> Tensor:
        """Which nodes lie on none of these, (n_nodes,)."""
        nowhere = torch.zeros(self.n_nodes, dtype=torch.bool)
        return ~reduce(torch.logical_or, map(self._on, faces), nowhere)

    def _free_along(self, faces: Iterable[Face]) -> list[slice]:
        """Nodes along each coordinate that lie on none of these."""
        sides = {face.side for face in faces}
        names = zip(self.form.ansatz.box.names, self.nodes, strict=True)
        return [slice(int((c, False) in sides), n - ((c, True) in sides)) for c, n in names]

    def _row_of_matrix(self, slopes: list[Jet], placed: Placed) -> Tensor:
        """sum_a dr/du_a D_a of one row of r, on the nodes of all unknowns, for one sample."""
        nothing = torch.zeros(self.n_nodes, self.n_nodes, dtype=torch.float64)
        blocks = [self._matrix(own, placed) if own else nothing for own in slopes]
        return torch.cat(blocks, dim=1)

    def _matrix(self, slopes: Jet, placed: Placed) -> Tensor:
        """The same for one unknown."""
        along_s = placed.pull_back(slopes)
        terms = [
            a.expand(1, self.n_nodes)[0][:, None] * self._operators[index]
            for index, a in along_s.items()
        ]
        return torch.stack(terms).sum(0)

    def _along_x(self, index: Index, e: Tensor, placed: Placed) -> Tensor:
        terms = [a * self._along_s(k, e) for k, a in placed.along_s(index).items()]
        return reduce(torch.add, terms)

    def _along_s(self, index: Index, e: Tensor) -> Tensor:
        values = e.reshape(len(e), *self.nodes)
        for i in set(index):
            d = self._derivatives[i][index.count(i)]
            values = (values.movedim(1 + i, -1) @ d.T).movedim(-1, 1 + i)
        return values.flatten(1)

    @cached_property
    def _derivatives(self) -> list[list[Tensor]]:
        """D^0 to D^4 along each coordinate, (n_i, n_i) each."""
        along = zip(self.form.ansatz.series, self.nodes, strict=True)
        return [[own.derivative(n, order) for order in range(5)] for own, n in along]

    @cached_property
    def _operators(self) -> dict[Index, Tensor]:
        """D_a on the nodes of the box, (n_nodes, n_nodes) each."""
        return {
            index: reduce(torch.kron, [d[index.count(i)] for i, d in enumerate(self._derivatives)])
            for index in self.form.ansatz.indices
        }
