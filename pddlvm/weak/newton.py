"""Reference solutions: Newton's method with sparse linear solves, in float64.

    K(u, z) du = -r(u, z),    u <- u + t du,    t by halving until |r| decreases

Where no t is found, secant (Picard) steps are tried until |r| has decreased:

    u <- u_D - K_s^{-1} r(u_D, z),    K_s = int_0^1 K(u_D + tau (u - u_D), z) dtau

u_D is the lifting of the boundary values, and K_s (u - u_D) = r(u, z) - r(u_D, z). It is a rough
start, which tears at the cells of the boundary. Where the first step from there is too long, the
one that is linearised at rest is taken if it leaves less of r:

    r(0, z) + K(0, z) u = 0,      u = u_D on the boundary

The pointwise tangents come from `torch.func` for a whole batch of parameters; each sample is then
assembled into one fixed sparsity pattern and factorised. For a linear problem this is one
factorisation, and a sample whose matrix equals the one before (only loads or boundary values
differ) reuses its factors. For a nonlinear one a sample's later matrices are next to its earlier
ones, whose factors then serve (`pddlvm.linalg.nearby`) where that is faster: never those of another
sample, so that no solution depends on what was solved before. `pddlvm.linalg.newton` is for small
dense systems, whose failures are no errors.
"""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError, ProblemError
from pddlvm.linalg.factorisation import Factorisation, NotPositiveError, SingularMatrixError
from pddlvm.linalg.nearby import solve_nearby
from pddlvm.weak.assembly import Assembler
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm
from pddlvm.weak.singular import why_singular

__all__ = ["ReferenceSolver"]

_RELATIVE_RESIDUAL = 1e-10
_RELATIVE_STEP = 1e-11
_MAX_ITERATIONS = 50
_MAX_HALVINGS = 10
_MAX_SECANT_STEPS = 20
_SHOWN = 4
_WHY_SINGULAR = "is some part of the mesh without a Dirichlet boundary, or a coefficient zero?"
_NO_CONVERGENCE = (
    "the problem may have no solution there, or none that Newton's method reaches from the lifting "
    "of the boundary values: try a smaller range of the prior (solve at its centre first), a finer "
    "mesh, or smaller loads and boundary values, step by step, to see where it begins to fail"
)
_ROUND_OFF_STEP = 1e-7
_ROUND_OFF = 1e-14
_TAU, _TAU_WEIGHTS = (0.5 * a for a in np.polynomial.legendre.leggauss(4))
_TAU = _TAU + 0.5
_MEMORY = 2**27
"""Bytes of pointwise tangents held at once."""


class ReferenceSolver:
    """Newton's method for a form, batched over parameters.

    Args:
        form: of the PDE.
        operators: its discretisation, float64 on the CPU.

    Attributes:
        chunk: samples whose pointwise tangents fit into memory at once.
    """

    def __init__(self, form: WeakForm, operators: Discretisation) -> None:
        self._form, self._operators = form, operators
        self.assembler = Assembler(form.terms, form.free_dofs, form.n_dofs)
        entries = sum(int(np.prod(t.region.shape[:3])) * t.region.shape[2] for t in form.terms)
        self.chunk = max(1, _MEMORY // (8 * entries))
        self._factors: tuple[list[Tensor], Factorisation] | None = None

    def solve(self, z: Tensor, first: int = 0) -> Tensor:
        """Solutions, (batch, d) -> (batch, n_dofs), float64.

        Args:
            z: samples.
            first: number of the first of them, for messages.

        Raises:
            ConvergenceError: the residual of a sample did not reach round-off.
        """
        parts = [self._solve_chunk(part, first + i) for i, part in self._chunks(z)]
        return torch.cat(parts) if parts else z.new_zeros(0, self._form.n_dofs)

    def solve_with_factors(self, z: Tensor) -> tuple[Tensor, list[Factorisation]]:
        """Solutions, and for each of them factors of K in its last Newton step.

        K may have moved since where the problem is not linear. The factors of the whole batch are
        in memory at once.
        """
        kept: dict[int, Factorisation] = {}
        parts = [self._solve_chunk(part, i, kept) for i, part in self._chunks(z)]
        u = torch.cat(parts)
        # Where the lifting was the solution there was no step.
        for i in set(range(len(z))) - set(kept):
            tangents = self._operators.tangents(u[i, None], z[i, None])
            kept[i] = self._factorise([t[0] for t in tangents])
        return u, [kept[i] for i in range(len(z))]

    def matrix(self, u: Tensor, z: Tensor) -> sp.csc_matrix:
        """K(u, z) of one sample, u (n_dofs,), z (d,)."""
        tangents = self._operators.tangents(u[None], z[None])
        return self.assembler([t[0] for t in tangents])

    def assemble_unconstrained(self, tangents: list[Tensor]) -> sp.csc_matrix:
        """The matrix on all degrees of freedom, Dirichlet ones included, of one sample."""
        n = self._form.n_dofs
        return Assembler(self._form.terms, np.arange(n), n)(tangents)

    def _chunks(self, z: Tensor) -> list[tuple[int, Tensor]]:
        return [(i, z[i : i + self.chunk]) for i in range(0, len(z), self.chunk)]

    def _solve_chunk(
        self, z: Tensor, first: int, kept: dict[int, Factorisation] | None = None
    ) -> Tensor:
        free = self._operators.free
        u = self._operators.lift(z)
        loads = self._operators.residual(u, z)
        self._check_balance(u, loads, z, first)
        r = self._operators.balanced(loads)
        start, begin = r.norm(dim=-1), (r.clone(), u.clone())
        active = torch.arange(len(z))[start != 0]
        near: dict[int, Factorisation] = {}
        history: list[Tensor] = []
        for _ in range(_MAX_ITERATIONS):
            self._check_finite(r[active], z[active], first + active)
            if not len(active):
                break
            tangents = self._operators.tangents(u[active], z[active])
            steps = []
            for i, j in enumerate(active.tolist()):
                own = [t[i] for t in tangents]
                steps.append(self._step(own, r[j], z[j], first + j, near))
                if kept is not None:
                    kept[first + j] = self._factorise(own)
            step = torch.stack(steps)
            before = u.clone(), r.norm(dim=-1)
            u[active], r[active], t = self._line_search(u[active], z[active], r[active], step)
            if not history:
                for i in active[t < 1].tolist():
                    found = self._step_at_rest(z[i], r[i].norm())
                    if found is not None:
                        u[i], r[i] = found
            # Next to the solution round-off decides about |r|: nothing to worry about there.
            large = step.norm(dim=-1) > _ROUND_OFF_STEP * u[active][:, free].norm(dim=-1)
            failed = ~(r[active].norm(dim=-1) < before[1][active]) & large
            for i in active[failed].tolist():
                both = (r[i], u[i]), (begin[0][i], begin[1][i])
                if all(self._is_rounding(*state, z[i]) for state in both):
                    # Loads that cancel each other leave nothing to be compared with. Where only
                    # the end is rounding, of a solution out of all bounds, K is singular.
                    start[i] = torch.inf
                    continue
                found = self._secant_steps(before[0][i], z[i], before[1][i])
                if found is not None:
                    u[i], r[i] = found
            small_residual = r[active].norm(dim=-1) <= _RELATIVE_RESIDUAL * start[active]
            small_step = step.norm(dim=-1) <= _RELATIVE_STEP * u[active][:, free].norm(dim=-1)
            active = active[~(small_residual | small_step)]
            history.append(r.norm(dim=-1) / start)
        if len(active):
            worst = int(active[0])
            why = why_singular(self._form, self.matrix(u[worst], z[worst]))
            if why is not None:
                raise ConvergenceError(
                    f"the matrix of sample {first + worst} (z = {z[worst].tolist()}) is singular "
                    f"to working precision: {why}"
                )
            last = ", ".join(f"{float(size[worst]):.1e}" for size in history[-_SHOWN:])
            raise ConvergenceError(
                f"the reference solver did not converge for sample {first + worst} (z = "
                f"{z[worst].tolist()}) in {_MAX_ITERATIONS} Newton steps, the last ones to "
                f"relative residuals {last}; {_NO_CONVERGENCE}"
            )
        return u

    def _check_balance(self, u: Tensor, loads: Tensor, z: Tensor, first: int) -> None:
        if self._form.constraints is None:
            return
        for i, own in enumerate(loads):
            sample = f"sample {first + i} (z = {z[i].tolist()})"
            try:
                self._form.constraints.check_balance(own, self._operators.free, sample)
            except ProblemError:
                if not self._is_rounding(own, u[i], z[i]):
                    raise

    def _residual(self, u: Tensor, z: Tensor) -> Tensor:
        return self._operators.balanced(self._operators.residual(u, z))

    def _check_finite(self, r: Tensor, z: Tensor, numbers: Tensor) -> None:
        bad = torch.nonzero(~torch.isfinite(r).all(-1)).flatten()
        if len(bad):
            i = int(bad[0])
            raise ConvergenceError(
                f"the residual of sample {int(numbers[i])} (z = {z[i].tolist()}) is not finite; "
                "check the physics at these parameters"
            )

    def _step(
        self,
        tangents: list[Tensor],
        r: Tensor,
        z: Tensor,
        number: int,
        near: dict[int, Factorisation],
    ) -> Tensor:
        """Newton's step of a sample; `near` has factors of its earlier matrices."""
        try:
            if number in near:
                found = solve_nearby(self.assembler(tangents), near[number], -r.detach().numpy())
                if found is not None:
                    return torch.from_numpy(found)
            factors = self._factorise(tangents)
            if factors.n_worth:
                near[number] = factors
            return torch.from_numpy(factors.solve(-r.detach().numpy()))
        except SingularMatrixError as error:
            why = why_singular(self._form, self.assembler(tangents))
            raise ConvergenceError(
                f"the matrix of sample {number} (z = {z.tolist()}) is singular; "
                f"{why or _WHY_SINGULAR}"
            ) from error
        except (NotPositiveError, ConvergenceError) as error:
            raise ConvergenceError(f"sample {number} (z = {z.tolist()}): {error}") from error

    def _linear_solve(self, tangents: list[Tensor], b: Tensor) -> Tensor:
        return torch.from_numpy(self._factorise(tangents).solve(b.numpy()))

    def _factorise(self, tangents: list[Tensor]) -> Factorisation:
        previous = self._factors
        if previous is None or not all(map(torch.equal, previous[0], tangents)):
            matrix = self.assembler(tangents)
            factors = self._form.factorise(matrix, symmetric=self._form.is_symmetric)
            self._factors = previous = ([t.clone() for t in tangents], factors)
        return previous[1]

    def _line_search(
        self, u: Tensor, z: Tensor, r: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """u + t step with the largest t = 1, 1/2, 1/4, ... that lowers |r|; r; and t (batch,)."""
        free = self._operators.free
        norm = r.norm(dim=-1)
        t = torch.ones(len(u), 1, dtype=u.dtype)
        for _ in range(_MAX_HALVINGS):
            trial = u.index_add(1, free, t * step)
            r_trial = self._residual(trial, z)
            worse = ~(r_trial.norm(dim=-1) < norm)
            if not worse.any():
                break
            t = torch.where(worse[:, None], t / 2, t)
        return trial, r_trial, t[:, 0]

    def _is_rounding(self, r: Tensor, u: Tensor, z: Tensor) -> bool:
        """Is r of one sample nothing beside what it sums up, |B|^T (w |flux|)?"""
        whole = np.zeros(self._form.n_dofs)
        for term in self._operators.terms:
            region = term.term.region
            fluxes = term.fluxes(u[None], self._form.prior.split(z[None])).abs().numpy()
            fluxes = fluxes.reshape(region.shape[:3])
            sizes = np.einsum("cqsi,cqs->ci", np.abs(region.local), fluxes)
            whole += np.bincount(region.dofs.ravel(), sizes.ravel(), len(whole))
        return bool(r.norm() <= _ROUND_OFF * np.linalg.norm(whole[self._form.free_dofs]))

    def _step_at_rest(self, z: Tensor, norm: Tensor) -> tuple[Tensor, Tensor] | None:
        """u and r of one sample, linearised at u = 0, if |r| < norm; else None."""
        z, free = z[None], self._operators.free
        u = self._operators.lift(z)
        rest = torch.zeros_like(u)
        tangents = [t[0] for t in self._operators.tangents(rest, z)]
        r = self._residual(rest, z)[0]
        if not (u.any() and torch.isfinite(r).all() and all(map(_is_finite, tangents))):
            return None
        whole = self.assemble_unconstrained(tangents)
        r = r + torch.from_numpy(whole @ u[0].numpy())[free]
        try:
            u = u.index_add(1, free, self._linear_solve(tangents, -r)[None])
        except (SingularMatrixError, NotPositiveError):
            # What is not held at rest may be so elsewhere.
            return None
        r = self._residual(u, z)
        return (u[0], r[0]) if r.norm() < norm else None

    def _secant_steps(self, u: Tensor, z: Tensor, norm: Tensor) -> tuple[Tensor, Tensor] | None:
        """u and r after Picard steps from u of one sample, once |r| < norm; None if never."""
        z = z[None]
        start = self._operators.lift(z)
        r_start = self._residual(start, z)[0]
        for _ in range(_MAX_SECANT_STEPS):
            along = [self._operators.tangents(start + tau * (u - start), z) for tau in _TAU]
            secants = [
                sum(w * t[0] for w, t in zip(_TAU_WEIGHTS, term, strict=True))
                for term in zip(*along, strict=True)
            ]
            try:
                step = self._linear_solve(secants, -r_start)
            except (SingularMatrixError, NotPositiveError):
                # A singular secant is no help; Newton's own step goes on.
                return None
            u = start[0].index_add(0, self._operators.free, step)
            r = self._residual(u[None], z)[0]
            if r.norm() < norm:
                return u, r
        return None


def _is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())
