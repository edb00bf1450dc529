"""Steps of nonlinear problems in a spatial basis, by Newton's method, many trajectories at once.

    F(c_k) = Ta_kk M_V c_k + Tb_kk r(c_k) + sum_{j<k} (Ta_kj M_V c_j + Tb_kj r_j) + known_k = 0

It starts at c_{k-1}, or on the line through c_{k-2} and c_{k-1} where |F| is less there. Inverse
matrices are what costs: each trajectory keeps its own from step to step, as long as each use of it
takes |F| down (Shamanskii, 1967).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.transient.schemes import Scheme

__all__ = ["Equations", "described", "march"]

_SOLVED = 1e-8
_MAX_ITERATIONS, _MAX_HALVINGS = 40, 8
_HELPS = 0.1
"""Factor by which a use of an old inverse takes |F| down, or it is made anew."""

OfState = Callable[[int, Tensor, Tensor], Tensor]
"""Number of a state, rows of a batch (k,) and their c (k, n) -> r (k, n), or dr/dc (k, n, n)."""


@dataclass(frozen=True)
class Equations:
    """Of a batch of trajectories.

    Attributes:
        scheme: of the steps.
        mass: M_V, (n, n).
        residual: r in the basis.
        tangent: dr/dc.
        known: what no c enters, of each step, (batch, N, n).
        history: c of the history states, (batch, h, n).
        z: parameters, for messages, (batch, d).
    """

    scheme: Scheme
    mass: Tensor
    residual: OfState
    tangent: OfState
    known: Tensor
    history: Tensor
    z: Tensor


def march(equations: Equations) -> Tensor:
    """c of the steps, (batch, N, n).

    Raises:
        ConvergenceError: a step was not found, or is not finite.
    """
    scheme, known = equations.scheme, equations.known
    h, every = scheme.n_history, torch.arange(len(known))
    ta, tb = (torch.from_numpy(t.toarray()) for t in (scheme.ta, scheme.tb))
    c = torch.cat([equations.history, torch.zeros_like(known)], dim=1)
    r = torch.zeros_like(c)
    for j in scheme.asked[scheme.asked < h].tolist():
        r[:, j] = equations.residual(j, every, c[:, j])
    kept = _Inverses(equations)
    for step in range(scheme.n_steps):
        k = h + step
        b = known[:, step] + _past(ta, step, k, c) @ equations.mass.T + _past(tb, step, k, r)
        one = _Step(equations, step, float(ta[step, k]), float(tb[step, k]), b)
        start = c[:, k - 1].clone()
        if step > 1:
            q = scheme.weights[step] / scheme.weights[step - 1]
            start += q * (start - c[:, k - 2])
        f, own = one(every, start)
        # r of the last step is about that at its c now.
        at_rest = one.of_parts(c[:, k - 1], r[:, k - 1], every)
        worse = (~(f.norm(dim=1) <= at_rest.norm(dim=1))).nonzero()[:, 0] if step > 1 else every[:0]
        if len(worse):
            start[worse] = c[worse, k - 1]
            f[worse], own[worse] = one(worse, start[worse])
        c[:, k], r[:, k] = one.solve(start, f, own, kept)
    return c[:, h:]


class _Inverses:
    """Of dF/dc, of each trajectory, and which of them are there."""

    def __init__(self, equations: Equations) -> None:
        n, m = equations.known.shape[0], equations.known.shape[2]
        self.values = equations.known.new_zeros(n, m, m)
        self.there = torch.zeros(n, dtype=torch.bool)
        self.pair = (0.0, 0.0)


class _Step:
    """F of one step, and its zeros."""

    def __init__(self, equations: Equations, step: int, of_m: float, of_r: float, b: Tensor):
        self._equations, self._step = equations, step
        self.pair, self._b = (of_m, of_r), b
        self._number = equations.scheme.n_history + step

    def __call__(self, rows: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """F and r, (k, n) each."""
        r = self._equations.residual(self._number, rows, c)
        return self.of_parts(c, r, rows), r

    def of_parts(self, c: Tensor, r: Tensor, rows: Tensor) -> Tensor:
        """F of c and r."""
        return self.pair[0] * c @ self._equations.mass.T + self.pair[1] * r + self._b[rows]

    def solve(self, c: Tensor, f: Tensor, r: Tensor, kept: _Inverses) -> tuple[Tensor, Tensor]:
        """c and r, from a start with its F and r."""
        c, f, r = c.clone(), f.clone(), r.clone()
        if kept.pair != self.pair:
            kept.there[:], kept.pair = False, self.pair
        enough = _SOLVED * (self._b.norm(dim=1) + self.pair[0] * c.norm(dim=1))
        self._check_finite(f)
        going = (f.norm(dim=1) > enough).nonzero()[:, 0]
        for _ in range(_MAX_ITERATIONS):
            if not len(going):
                return c, r
            going = self._iterate(c, f, r, going, kept)
            going = going[f[going].norm(dim=1) > enough[going]]
        raise self._failed(int(going[0]))

    def _iterate(self, c: Tensor, f: Tensor, r: Tensor, going: Tensor, kept: _Inverses) -> Tensor:
        """One iteration of some trajectories, and which of them go on."""
        is_new = ~kept.there[going]
        new = going[is_new]
        if len(new):
            tangent = self._equations.tangent(self._number, new, c[new])
            matrix = self.pair[0] * self._equations.mass + self.pair[1] * tangent
            kept.values[new], failed = torch.linalg.inv_ex(matrix)
            kept.there[new] = True
            if failed.any():
                raise self._failed(int(new[failed > 0][0]))
        change = -torch.einsum("bij,bj->bi", kept.values[going], f[going])
        norm, at = f[going].norm(dim=1), c[going]
        trial = at + change
        left, own = self(going, trial)
        for halving in range(1, _MAX_HALVINGS):
            worse = (is_new & ~(left.norm(dim=1) < norm)).nonzero()[:, 0]
            if not len(worse):
                break
            trial[worse] = at[worse] + 0.5**halving * change[worse]
            left[worse], own[worse] = self(going[worse], trial[worse])
        ratio = left.norm(dim=1) / norm
        better = ratio < 1
        taken = going[better]
        c[taken], f[taken], r[taken] = trial[better], left[better], own[better]
        # A step that is rounding itself is no failure.
        still = change.norm(dim=1) <= torch.finfo(c.dtype).eps * 1e3 * at.norm(dim=1)
        stuck = is_new & ~better & ~still
        if stuck.any():
            raise self._failed(int(going[stuck][0]))
        kept.there[going[~(ratio <= _HELPS)]] = False
        return going[~still]

    def _check_finite(self, f: Tensor) -> None:
        bad = (~torch.isfinite(f).all(1)).nonzero()[:, 0]
        if len(bad):
            raise ConvergenceError(
                f"the trajectory of {self._where(int(bad[0]))} is not finite: it grows without "
                "bounds there, or the physics is not defined; narrow the prior, or end earlier"
            )

    def _failed(self, i: int) -> ConvergenceError:
        return ConvergenceError(
            f"Newton's method did not find the step of {self._where(i)} in the spatial basis: take "
            "shorter steps, or a smaller range of the prior; problem.solve(z) steps finite elements"
        )

    def _where(self, i: int) -> str:
        time = self._equations.scheme.times[self._step]
        return f"sample {i}, {described(self._equations.z[i])}, at t = {time:g}"


def described(z: Tensor) -> str:
    """Parameters in a message."""
    return "z = (" + ", ".join(f"{value:.4g}" for value in z.tolist()) + ")"


def _past(rows: Tensor, step: int, k: int, states: Tensor) -> Tensor:
    """sum_{j<k} rows[step, j] states_j."""
    own = rows[step, :k]
    seen = own.nonzero()[:, 0]
    return torch.einsum("j,bjn->bn", own[seen], states[:, seen])
