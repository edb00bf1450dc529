"""Everything about a problem in time that is made before a training.

V (see `enrichment`), Phi and the p x p equations (see `modes`), and the reduced trajectories that
Phi was made of. Float64 on the CPU; no trajectory is solved on the mesh.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.basics.progress import ProgressBar
from pddlvm.trajectory.enrichment import find_shapes
from pddlvm.trajectory.modes import Modes, find_modes, principal
from pddlvm.trajectory.parts import find_parts
from pddlvm.trajectory.polynomials import Polynomial, draws_of_fit, fit_polynomial
from pddlvm.trajectory.reference import ReferenceMarch
from pddlvm.trajectory.steps import ReducedSteps
from pddlvm.transient.problem import TransientProblem

__all__ = ["TrajectoryReduction", "check_reduction", "reduce_trajectories"]

_N_SNAPSHOTS = 1024
_TAIL_OF_SHAPES, _TAIL_OF_MODES, _TAIL_OF_FEW = 8e-5, 2.5e-4, 1.2e-4
"""What may be left of trajectories; of nonlinear problems there are few, fresh ones leave more."""
_FIRST_SHAPES, _MOST_SHAPES, _MOST_MODES = 48, 96, 128
"""Shapes of each field that are looked for at first, and at most."""
_MOST_TERMS, _FEW_TERMS, _SEED = 1500, 300, 271828
"""Of polynomials, which each take eight solutions."""
_MULTIPLE, _ROUND_OFF = 16, 1e-8
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
    polynomial: Polynomial
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
        mass = steps.mass
        e: list[Tensor] = []
        factors: dict[tuple[float, float], Tensor] = {}
        for step, pair in enumerate(map(tuple, scheme.diagonals.tolist())):
            if pair not in factors:
                factors[pair] = torch.linalg.inv(pair[0] * mass + pair[1] * self.k0)
            b = r[:, step]
            for j in range(max(0, step - steps.h - 1), step):
                b = b - ta[step, j] * (e[j] @ mass.T) - tb[step, j] * (e[j] @ self.k0.T)
            e.append(b @ factors[pair].T)
        return torch.stack(e, dim=1)


def reduce_trajectories(
    problem: TransientProblem,
    n_shapes: int | None = None,
    n_modes: int | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> TrajectoryReduction:
    """Make the reduced equations of a problem in time.

    Args:
        problem: in time.
        n_shapes: m, by default as many as leave 8e-5 of trajectories, at most 96.
        n_modes: p, by default as many as leave 2.5e-4 of them, of those of nonlinear problems
            1.2e-4, at most 128.
        seed: of the draws.
        progress: say on stderr what is done.

    Raises:
        ProblemError: the problem takes too many operators.
        ConvergenceError: Newton's method failed for a draw of the prior.
    """
    problem.check_stable()
    with ProgressBar(progress) as bar:
        is_linear = problem.is_linear
        tail = _TAIL_OF_MODES if is_linear else _TAIL_OF_FEW
        n_fields = len(problem.fields_of_u)
        most = int(_SPARE * (n_shapes or n_fields * _FIRST_SHAPES))
        common = find_parts(problem), ReferenceMarch(problem)
        # Where so many are asked for, they are wanted; of several fields the last may be noise.
        is_asked = n_shapes is not None and n_fields == 1
        least = _ROUND_OFF if is_asked else _TAIL_OF_SHAPES / 4
        shapes = find_shapes(*common, most, least, seed, bar)
        most_shapes = n_fields * _MOST_SHAPES
        if n_shapes is None and _count(shapes.tails, _TAIL_OF_SHAPES, most_shapes) * 4 > 3 * most:
            bar.say("more shapes")
            most = int(_SPARE * most_shapes)
            v = shapes.steps.v.numpy()
            shapes = find_shapes(*common, most, least, seed + 1, bar, v)
        wanted = n_shapes or _count(shapes.tails, _TAIL_OF_SHAPES, most_shapes)
        # Where there are fewer, the rest of trajectories is rounding.
        m = min(wanted, shapes.steps.n)
        steps = shapes.steps.first(m)
        bar.say("modes of space and time")
        if is_linear:
            generator = torch.Generator().manual_seed(seed + 1)
            z = problem.prior.sample((_N_SNAPSHOTS,), generator=generator)
            c = steps.march(steps.drive(z))
        else:
            z, c = shapes.z, shapes.c[..., :m]
        phi, tails = principal(steps, c, n_modes or _MOST_MODES)
        p = min(n_modes or _count(tails.numpy(), tail, _MOST_MODES), phi.shape[2])
        phi = phi[..., :p].contiguous()
        few = slice(_N_SNAPSHOTS // 2)
        k0 = shapes.k0[:m, :m].contiguous()
        modes = find_modes(steps, k0, phi, z[few], c[few], seed)
        bar.say("polynomials")
        some = draws_of_fit(problem.prior, _MOST_TERMS if is_linear else _FEW_TERMS, _SEED)
        polynomial = fit_polynomial(problem.prior, some, modes.solve(some))
        if not is_linear:
            modes = replace(modes, start=polynomial)
    left = float(shapes.tails[m]), float(tails[p])
    return TrajectoryReduction(shapes.steps, shapes.k0, modes, modes.project(c), polynomial, left)


def _count(tails: NDArray[np.float64], tolerance: float, most: int) -> int:
    """The least multiple that leaves so little, of those there are."""
    enough = np.flatnonzero(tails <= tolerance)
    n = int(enough[0]) if len(enough) else len(tails) - 1
    return min(most, _MULTIPLE * -(-n // _MULTIPLE), len(tails) - 1)


def check_reduction(
    reduction: TrajectoryReduction,
    problem: TransientProblem,
    n_shapes: int | None,
    n_modes: int | None,
) -> None:
    """Raise an InputError if this is no reduction of the problem, or more is asked for."""
    if n_shapes is not None or n_modes is not None:
        raise InputError(
            "a reduction has shapes and modes already: give n_shapes and n_modes to "
            "reduce_trajectories, or leave the reduction out"
        )
    if reduction.problem.fingerprint != problem.fingerprint:
        raise InputError(
            f"the reduction is that of {reduction.problem!r}, not of {problem!r}; make one by "
            "reduce_trajectories(problem), or leave it out"
        )
