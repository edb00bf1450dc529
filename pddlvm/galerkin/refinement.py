"""Refinement of a prediction to the finite element solution, without factorising K(u, z).

Newton's method; each step by conjugate gradients (GMRES where K is not symmetric) with the
two-level preconditioner

    P r = K0^{-1} r + V ((V^T K V)^{-1} - I) V^T r

the reference operator, corrected in the reduced basis. Where a solve with K0 is one by multigrid,
a cycle M of it takes its place, and V is kept out of it:

    P r = (I - V V^T K0) M (I - K0 V V^T) r + V (V^T K V)^{-1} V^T r

Where K is not symmetric, K0 gives way to
the nearest of a few reference operators, and the correction is multiplicative:

    P r = w + V (W^T K V)^+ W^T (r - K w),    w = K(z_k)^{-1} r

with W = V, or the test functions of a problem that is measured in another norm X than that of K0.

It starts next to the solution, where no step needs damping, and counts the iterations of a query:
what `pddlvm.weak.newton`, which starts anywhere, is not made for.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.galerkin.mesh_operators import MeshOperators, Stiffness
from pddlvm.latent.prediction import unflatten
from pddlvm.linalg.krylov import conjugate_gradients, gmres
from pddlvm.reduced.many_matrices import tangent_at
from pddlvm.reduced.reference import Reference
from pddlvm.reduced.residual import ReducedModel

__all__ = [
    "Refined",
    "Tangent",
    "check_converged",
    "correct",
    "correct_and_tangent",
    "nearly_exact",
    "refine",
]

_MAX_NEWTON = 20
_N_NAMED = 5
_NEGLIGIBLE = 0.01
"""Part of a residual that is left where errors are measured, ..."""
_ROUND_OFF = 1e-14
"""... or |r| / |u|: corrected means may be right to twelve digits."""


@dataclass(frozen=True)
class Refined:
    """Result of a refinement.

    Attributes:
        u: solutions, (batch, n_dofs), float64.
        iterations: Krylov iterations of each sample, (batch,).
        residual_norm: |r| / |u| in the norms of K0^{-1} and K0, (batch,); that of this u.
        converged: did it reach the tolerance? (batch,).
    """

    u: Tensor
    iterations: Tensor
    residual_norm: Tensor
    converged: Tensor

    def like(self, z: Tensor) -> "Refined":
        """With the leading axes of z (..., d), on its device."""
        u, *others = vars(self).values()
        shown = (unflatten(u, z.shape[:-1]), *(x.reshape(z.shape[:-1]) for x in others))
        return Refined(*(x.to(z.device) for x in shown))


@dataclass(frozen=True)
class Tangent:
    """K of a batch in the reduced basis.

    Attributes:
        k: W^T K (V, L), (batch, n_tests, n_columns).
        n_modes: how many of the columns are modes.
    """

    k: Tensor
    n_modes: int

    @property
    def of_lift(self) -> Tensor:
        """W^T K L, (batch, n_tests, n_lifts)."""
        return self.k[..., self.n_modes :]

    def solve(self, b: Tensor) -> Tensor:
        """(W^T K V)^+ b, (batch, n_modes, j); not finite where it is singular."""
        left, right = self._factors
        if self._is_square:
            return torch.linalg.lu_solve(left, right, b)
        return torch.linalg.solve_triangular(right, left.mT @ b, upper=True)

    def rows(self, rows: Tensor) -> "Tangent":
        """That of some samples, with the factors."""
        found = Tangent(self.k[rows], self.n_modes)
        found.__dict__["_factors"] = tuple(part[rows] for part in self._factors)
        return found

    @property
    def _is_square(self) -> bool:
        return self.k.shape[1] == self.n_modes

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        """L, U and pivots where there are as many tests as modes, else Q and R."""
        k = self.k[..., : self.n_modes]
        if self._is_square:
            lu, pivots, _ = torch.linalg.lu_factor_ex(k)
            return lu, pivots
        q, r = torch.linalg.qr(k)
        return q, r


def correct(
    exact: ReducedModel, reduced: ReducedModel, c: Tensor, z: Tensor, n_steps: int
) -> Tensor:
    """Newton (Gauss-Newton) steps on coefficients c (batch, n_modes), within the reduced basis.

    Far from the prior a stiffness may be singular, or overflow: the result is not finite then.

    The residual decides the accuracy: it is the full one in float64, of `exact`. The stiffness may
    be rounded, of `reduced`.
    """
    return correct_and_tangent(exact, reduced, c, z, n_steps)[0]


def correct_and_tangent(
    exact: ReducedModel, reduced: ReducedModel, c: Tensor, z: Tensor, n_steps: int
) -> tuple[Tensor, Tangent]:
    """`correct` in at least one step, and K of the last one."""
    representation = exact.representation
    operators = representation.problem.discretisation(torch.float64, torch.device("cpu"))
    z64, fine = z.detach().double().cpu(), c.double().cpu()
    for step in range(n_steps):
        r = representation.test(operators.residual(representation.expand(fine, z64), z64))
        if step == 0 or not representation.problem.is_linear:
            # The same for a draw alone and in a batch, whatever is faster.
            k = Tangent(reduced.tangent(fine.to(c), z).double().cpu(), reduced.n_modes)
        fine = fine - k.solve(r[..., None])[..., 0]
    return fine.to(c.device), k


def refine(
    reduced: ReducedModel,
    reference: Reference,
    u: Tensor,
    z: Tensor,
    *,
    tolerance: float = 1e-10,
    reduction: float = 0.0,
    max_iterations: int = 200,
    min_iterations: int = 0,
) -> Refined:
    """Refine each u until its |r| / |u| (in the norms of `Refined`) is small enough.

    Args:
        reduced: supplies V, W and W^T K V; float64 on the CPU.
        reference: supplies X, mostly K0.
        u: start with the right boundary values, (batch, n_dofs), float64.
        z: parameters, (batch, d), float64.
        tolerance: small enough is this,
        reduction: or this part of |r| / |u| at the start.
        max_iterations: Krylov iterations of a sample, in all.
        min_iterations: of a sample that is good enough at the start.
    """
    chunk = MeshOperators.n_at_once(reduced.representation.problem)
    moved = _moved(reduced, reference)
    size, limits = (tolerance, reduction), (max_iterations, min_iterations)
    parts = [
        vars(_refine(reduced, reference, moved, *piece, *size, *limits)).values()
        for piece in zip(u.split(chunk), z.split(chunk), strict=True)
    ]
    return Refined(*(torch.cat(part) for part in zip(*parts, strict=True)))


def nearly_exact(reduced: ReducedModel, reference: Reference, u: Tensor, z: Tensor) -> Tensor:
    """Solutions to measure the error of each u by: about a hundredth of it is left in them.

    Raises:
        ConvergenceError: one is not finite.
    """
    # One iteration at least: of a mean that is right but for rounding that is the error.
    found = refine(
        reduced, reference, u, z, tolerance=_ROUND_OFF, reduction=_NEGLIGIBLE, min_iterations=1
    ).u
    failed = (~torch.isfinite(found).all(-1)).nonzero()[:, 0].tolist()
    if failed:
        raise ConvergenceError(
            f"the errors of {len(failed)} of {len(u)} predictions cannot be measured: Newton's "
            f"method from them diverges, first for z = {z[failed[0]].tolist()}; train longer, or "
            "narrow the prior"
        )
    return found


def check_converged(found: Refined, tolerance: float) -> None:
    """Raise a ConvergenceError that names the samples which did not converge, if there are any."""
    failed = (~found.converged).nonzero()[:, 0].tolist()
    if failed:
        named = ", ".join(map(str, failed[:_N_NAMED])) + (", ..." if failed[_N_NAMED:] else "")
        worst = failed[int(found.residual_norm[failed].argmax())]
        raise ConvergenceError(
            f"{len(failed)} of {len(found.u)} refinements did not converge, of samples {named}; at "
            f"worst {worst}: relative residual {found.residual_norm[worst]:.1e} after "
            f"{found.iterations[worst]} iterations, expected {tolerance:.1e}. Try "
            "problem.solve(z), a larger tolerance, or throw=False and look at .converged"
        )


def _refine(
    reduced: ReducedModel,
    reference: Reference,
    moved: Tensor | None,
    u: Tensor,
    z: Tensor,
    tolerance: float,
    reduction: float,
    max_iterations: int,
    min_iterations: int,
) -> Refined:
    problem = reduced.representation.problem
    mesh, free = MeshOperators.of(problem, z), torch.from_numpy(problem.free_dofs)
    units, v = reduced.representation.units, _basis(reduced)
    is_positive = _is_positive(reduced, reference)
    krylov = conjugate_gradients if is_positive else gmres
    w = v
    if reduced.representation.w is not None:
        w = torch.from_numpy(reduced.representation.w)[free] / units.energy**0.5
    u, active = u.clone(), torch.arange(len(u))
    iterations = torch.zeros(len(u), dtype=torch.int64)
    norm = torch.zeros(len(u), dtype=torch.float64)
    missing = torch.zeros_like(norm)
    enough = torch.full_like(norm, tolerance)
    for newton in range(_MAX_NEWTON + 1):
        r = mesh.residual(u[active], active)
        error = reference.dual_norm(r)
        size = reference.energy_norm(u[active])
        norm[active] = error / size
        # From a start at zero the first estimate of the error is the size of the solution.
        size = torch.maximum(size, error)
        missing[active] = error / size
        if newton == 0:
            enough = torch.maximum(enough, reduction * missing)
        is_good = missing <= enough
        most = torch.where(is_good, min_iterations, max_iterations)
        going = ((iterations < most) & torch.isfinite(missing))[active]
        active, r, size = active[going], r[going], size[going]
        if not len(active) or newton == _MAX_NEWTON:
            break
        at, z_at = u[active], z[active]
        k = tangent_at(reduced, reduced.representation.project(at), z_at)
        coarse = Tangent(k[..., : reduced.n_modes], reduced.n_modes)
        xi = problem.prior.standardise(z_at)
        system = _System(mesh.stiffness(at, active), reference, xi, (v, w), coarse, moved)
        target = torch.where(is_good, 0.0, 0.5 * enough)[active] * size
        step, used = krylov(system, -r, target, (most - iterations)[active])
        u[active] = at.index_add(1, free, step)
        iterations[active] += used
    return Refined(u, iterations, norm, missing <= enough)


def _basis(reduced: ReducedModel) -> Tensor:
    """V, (n_free, n_modes), orthonormal in X."""
    representation, units = reduced.representation, reduced.representation.units
    free = torch.from_numpy(representation.problem.free_dofs)
    return representation.vectors[free] * (units.u / units.energy**0.5)


def _is_positive(reduced: ReducedModel, reference: Reference) -> bool:
    return reduced.representation.problem.has_potential and not reference.is_dual


def _moved(reduced: ReducedModel, reference: Reference) -> Tensor | None:
    """K0 V, where a cycle of multigrid stands for K0."""
    if reference.preconditioner is None or not _is_positive(reduced, reference):
        return None
    return torch.from_numpy(reference.matrix @ _basis(reduced).numpy())


@dataclass(frozen=True)
class _System:
    """K and its preconditioner for a batch; vectors are (batch, n_free).

    `bases` are V and W, `coarse` is W^T K V, `moved` is K0 V or None.
    """

    stiffness: Stiffness
    reference: Reference
    xi: Tensor
    bases: tuple[Tensor, Tensor]
    coarse: Tangent
    moved: Tensor | None

    def of(self, rows: Tensor) -> "_System":
        """That of some samples."""
        stiffness, coarse = self.stiffness.of(rows), self.coarse.rows(rows)
        return replace(self, stiffness=stiffness, xi=self.xi[rows], coarse=coarse)

    def apply(self, p: Tensor) -> Tensor:
        return self.stiffness.apply(p)

    def riesz(self, r: Tensor) -> Tensor:
        """K0^{-1} r."""
        return self.reference.solve(r)

    def precondition(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """P r for symmetric K, and |r| in the norm of K0^{-1}, (batch,)."""
        v, _ = self.bases
        rough = self.reference.preconditioner
        if self.moved is not None and rough is not None:
            coarse = r @ v
            rest = r - coarse @ self.moved.T
            w = rough(rest)
            # V is orthonormal; of the rest this is about the norm.
            size = (coarse.square().sum(-1) + (rest * w).sum(-1)).clamp(min=0).sqrt()
            return w + (self._coarse_solve(coarse) - w @ self.moved) @ v.T, size
        coarse, w = r @ v, self.reference.solve(r)
        size = (r * w).sum(-1).clamp(min=0).sqrt()
        return w + (self._coarse_solve(coarse) - coarse) @ v.T, size

    def precondition_skew(self, r: Tensor) -> Tensor:
        """P r for K that is not symmetric and positive."""
        v, tests = self.bases
        w = self.reference.solve_near(r, self.xi)
        return w + self._coarse_solve((r - self.apply(w)) @ tests) @ v.T

    def _coarse_solve(self, b: Tensor) -> Tensor:
        return self.coarse.solve(b[..., None])[..., 0]
