"""Everything about a problem in time that is made before a training.

V (see `enrichment`), Phi and the p x p equations (see `modes`), and the reduced trajectories that
Phi was made of. Float64 on the CPU; no trajectory is solved on the mesh.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.errors import ProblemError
from pddlvm.basics.progress import ProgressBar
from pddlvm.fem import MixedSpace
from pddlvm.trajectory.enrichment import find_shapes
from pddlvm.trajectory.modes import Modes, find_modes, principal
from pddlvm.trajectory.parts import find_parts
from pddlvm.trajectory.polynomials import fit_polynomial
from pddlvm.trajectory.reference import ReferenceMarch
from pddlvm.trajectory.steps import ReducedSteps
from pddlvm.transient.problem import TransientProblem

__all__ = ["TrajectoryReduction", "reduce_trajectories"]

_N_SNAPSHOTS = 1024
_TAIL_OF_SHAPES, _TAIL_OF_MODES = 8e-5, 2.5e-4
_MOST_SHAPES, _MOST_MODES = 96, 128
_MULTIPLE = 16
_SPARE = 1.6
"""Shapes that are kept, relative to those of the model: they tell how far it is off."""


@dataclass(frozen=True)
class TrajectoryReduction:
    """See the module's docstring.

    Attributes:
        steps: in all shapes, more than those of the model.
        k0: V^T K0 V, of all shapes.
        modes: in the m shapes of the model.
        a: coefficients of the snapshots, (n, p).
        polynomial: of xi, near the solutions of the equations, see `fit_polynomial`.
        tails: relative size of trajectories outside of the m shapes, and outside of the p modes.
    """

    steps: ReducedSteps
    k0: Tensor
    modes: Modes
    a: Tensor
    polynomial: Tensor
    tails: tuple[float, float]

    @property
    def problem(self) -> TransientProblem:
        """The problem."""
        return self.steps.problem

    @cached_property
    def reference(self) -> ReferenceMarch:
        """The reference march on the mesh."""
        return ReferenceMarch(self.problem)

    def certificate(self, c: Tensor, z: Tensor) -> Tensor:
        """|A0^{-1} R| / |u| in all shapes of trajectories c (batch, N, m), (batch,)."""
        steps = self.steps
        whole = torch.nn.functional.pad(c, (0, steps.n - c.shape[2]))
        r = steps.residual(steps.drive(z), whole)
        e = self._solve_reference(r)
        size = steps.size(whole).clamp(min=torch.finfo(c.dtype).tiny)
        return steps.size(e) / size

    def _solve_reference(self, r: Tensor) -> Tensor:
        """A0^{-1} r in all shapes, (batch, N, n)."""
        steps, scheme = self.steps, self.problem.scheme
        ta, tb = steps.ta[:, steps.h :], steps.tb[:, steps.h :]
        eye, e = torch.eye(steps.n, dtype=torch.float64), torch.zeros_like(r)
        factors: dict[tuple[float, float], Tensor] = {}
        for step, pair in enumerate(map(tuple, scheme.diagonals.tolist())):
            if pair not in factors:
                factors[pair] = torch.linalg.inv(pair[0] * eye + pair[1] * self.k0)
            first = max(0, step - steps.h - 1)
            b = r[:, step] - torch.einsum("j,bjn->bn", ta[step, first:step], e[:, first:step])
            b = b - torch.einsum("j,bjn->bn", tb[step, first:step], e[:, first:step]) @ self.k0.T
            e[:, step] = b @ factors[pair].T
        return e


def reduce_trajectories(
    problem: TransientProblem,
    n_shapes: int | None = None,
    n_modes: int | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> TrajectoryReduction:
    """Make the reduced equations of a linear problem in time.

    Args:
        problem: in time.
        n_shapes: m, by default as many as leave 8e-5 of trajectories, at most 96.
        n_modes: p, by default as many as leave 2.5e-4 of them, at most 128.
        seed: of the draws.
        progress: say on stderr what is done.

    Raises:
        ProblemError: the problem is not linear, has several fields, or takes too many operators.
    """
    if isinstance(problem.space, MixedSpace) or problem.steady.constraints:
        raise ProblemError(
            f"problem {problem.name!r} has several fields, or constraints, and models of problems "
            "in time are for one field so far; problem.solve(z) steps it by finite elements"
        )
    problem.check_stable()
    with ProgressBar(progress) as bar:
        most = int(_SPARE * (n_shapes or _MOST_SHAPES // 2))
        common = find_parts(problem), ReferenceMarch(problem)
        shapes = find_shapes(*common, most, _TAIL_OF_SHAPES / 4, seed, bar)
        if n_shapes is None and _count(shapes.tails, _TAIL_OF_SHAPES, _MOST_SHAPES) * 4 > 3 * most:
            bar.say("more shapes")
            most = int(_SPARE * _MOST_SHAPES)
            v = shapes.steps.v.numpy()
            shapes = find_shapes(*common, most, _TAIL_OF_SHAPES / 4, seed + 1, bar, v)
        wanted = n_shapes or _count(shapes.tails, _TAIL_OF_SHAPES, _MOST_SHAPES)
        m = min(wanted, shapes.steps.n)
        steps = shapes.steps.first(m)
        bar.say("modes of space and time")
        generator = torch.Generator().manual_seed(seed + 1)
        z = problem.prior.sample((_N_SNAPSHOTS,), generator=generator)
        c = steps.march(steps.drive(z))
        phi, tails = principal(steps, c, n_modes or _MOST_MODES)
        p = min(n_modes or _count(tails.numpy(), _TAIL_OF_MODES, _MOST_MODES), phi.shape[2])
        phi = phi[..., :p].contiguous()
        modes = find_modes(steps, shapes.k0[:m, :m].contiguous(), phi, z[: _N_SNAPSHOTS // 2])
        polynomial = fit_polynomial(modes)
    left = float(shapes.tails[m]), float(tails[p])
    return TrajectoryReduction(shapes.steps, shapes.k0, modes, modes.project(c), polynomial, left)


def _count(tails: NDArray[np.float64], tolerance: float, most: int) -> int:
    """The least multiple that leaves so little, of those there are."""
    enough = np.flatnonzero(tails <= tolerance)
    n = int(enough[0]) if len(enough) else len(tails) - 1
    return min(most, _MULTIPLE * -(-n // _MULTIPLE), len(tails) - 1)
