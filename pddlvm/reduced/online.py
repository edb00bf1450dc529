"""Solutions in a basis and the norm of their residual, without anything of the size of the mesh.

    r(a, z) = sum_j w_j(z) S_j a,   a = (c, 1, b(z)),        V^T r = 0  for c
    |r|_{K0'} = |sum_j w_j T_j a|,    K0^{-1} S_j = Q T_j,    Q^T K0 Q = 1

w are the coefficients of `pddlvm.weak.affine_parts`, S_j the residual of part j, of all columns of
(V, L). The representers K0^{-1} S_j are orthonormalised again and again: a Gram matrix halves the
digits, and each time takes up where the last one ended, so that a small residual of large parts is
right to round-off (Buhr, Engwer, Ohlberger and Rave, A numerically stable a posteriori error
estimator for reduced basis approximations of elliptic equations, 2014, for the reason).
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from pddlvm.reduced.reference import Reference, orthonormalise
from pddlvm.reduced.representation import Representation
from pddlvm.weak.affine_parts import AffineParts
from pddlvm.weak.coercivity import Coercivity, ends, safe
from pddlvm.weak.problem import Problem

__all__ = ["Certificate", "Online", "online_of"]

_MOST = 2**25
"""Numbers in the representers: 256 MiB."""
_MOST_COLUMNS = 2048
_MOST_CLASSES = 512
_N_PASSES, _LEFT = 5, 1e-15
_DIGITS = 1e-10
"""Points whose parts agree so well are one."""
_ROUNDINGS = 8.0


@dataclass(frozen=True)
class Certificate:
    """What is known of the error of V c + L a, in the units of the problem, (batch,) each.

    Attributes:
        residual: |r|_{K0'}.
        rounding: what that may be wrong by.
        moved: |d|_{K0} of what boundary values, and rounding to a dtype, change of u.
        size: |u|_{K0}.
        lower, upper: bounds of K(z) against K0.
    """

    residual: Tensor
    rounding: Tensor
    moved: Tensor
    size: Tensor
    lower: Tensor
    upper: Tensor


class Online:
    """Reduced operators of a problem that is a sum of few parts; see `online_of`.

    Args:
        parts: of the problem.
        representation: V and L, float64.
        reference: K0.
        classes: D_j relative to D0 at points that differ, and what of it counts (None: all).
    """

    def __init__(
        self,
        parts: AffineParts,
        representation: Representation,
        reference: Reference,
        classes: list[tuple[Tensor, Tensor | None]],
    ) -> None:
        self._weights, self._error, self._classes = parts.weights, parts.error, classes
        self._m = representation.n_modes
        basis = representation.basis
        s = _residuals(parts, basis, representation.n_modes)
        n_weights, n_columns = s.shape[:2]
        free = torch.from_numpy(representation.problem.free_dofs)
        v = basis[free, : self._m]
        flat = s[..., free].flatten(0, 1)
        self._k = (flat @ v).unflatten(0, (n_weights, n_columns)).mT.flatten(1)
        # Loads are no more than a vector, and operators may not read a boundary value.
        used = flat.abs().amax(dim=1) > 0
        flat = flat[used]
        self._used = slice(None) if used.all() else used.nonzero()[:, 0]
        q, left = _orthonormal_representers(flat, reference)
        size = (flat @ q).norm(dim=1)
        # As many rows as columns, whatever Q has.
        self._test = torch.linalg.qr((flat @ q).T).R.T.contiguous()
        self._left = left + _ROUNDINGS * torch.finfo(size.dtype).eps * size
        whole = reference.whole
        columns = basis.numpy()
        self._gram = torch.from_numpy(columns.T @ (whole @ columns))
        rounded = np.abs(columns).T @ (abs(whole) @ np.abs(columns))
        self._rounded = torch.from_numpy(rounded)
        fixed = torch.from_numpy(representation.problem.fixed_dofs)
        values = parts.boundary[:, fixed]
        of_mean = torch.zeros_like(values).index_fill(0, torch.tensor([0]), 1.0)
        offset = representation.offset[fixed]
        relative = (values - of_mean * offset) / representation.units.u
        self._b = relative @ representation.phi
        wrong = torch.zeros_like(parts.boundary)
        wrong[:, fixed] = representation.units.u * (relative - self._b @ representation.phi.T)
        self._wrong = reference.energy_norm(wrong)

    def solve(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(c, 1, b) at z (batch, d), (batch, n_columns), and w, (batch, n_weights); float64, CPU.

        Not finite where V^T K V is singular.
        """
        w = self._weights(z)
        known = torch.cat([w[:, :1], w @ self._b], dim=1)
        k = (w @ self._k).unflatten(1, (self._m, -1))
        load = k[:, :, self._m :] @ known[..., None]
        c = -torch.linalg.solve_ex(k[..., : self._m], load).result[..., 0]
        return torch.cat([c, known], dim=1), w

    def certify(self, a: Tensor, w: Tensor, dtype: torch.dtype) -> Certificate:
        """Of a mean of the coefficients and the weights of `solve`, rounded to a dtype."""
        parts = (w[:, :, None] * a[:, None]).flatten(1)[:, self._used]
        ranges = [
            ends((w @ d.flatten(1)).view(-1, *d.shape[1:]), kept) for d, kept in self._classes
        ]
        lower, upper = safe(
            reduce(torch.minimum, [low for low, _ in ranges]),
            reduce(torch.maximum, [high for _, high in ranges]),
        )
        size = (a @ self._gram * a).sum(1).clamp(min=0).sqrt()
        return Certificate(
            residual=torch.linalg.vector_norm(parts @ self._test, dim=1),
            rounding=parts.abs() @ self._left + 2 * self._error * upper * size,
            moved=w.abs() @ self._wrong + self._rounding(a.abs(), dtype),
            size=size,
            lower=lower,
            upper=upper,
        )

    def _rounding(self, a: Tensor, dtype: torch.dtype) -> Tensor:
        """|d|_{K0} at most, of what a mean of coefficients of sizes a is rounded by, (batch,)."""
        exact, given = torch.finfo(torch.float64).eps, torch.finfo(dtype).eps
        # Sums over the columns in float64; values, offset, unit and their sum in the dtype.
        return (a.shape[1] * exact + 2 * given) * (a @ self._rounded * a).sum(1).sqrt()


def online_of(
    problem: Problem, representation: Representation, reference: Reference
) -> Online | None:
    """That of a linear, coercive problem of few parts; None for any other."""
    parts = None if reference.is_dual or problem.constraints else problem.affine_parts()
    if parts is None:
        return None
    n_columns = parts.weights.n * len(representation.rows)
    if n_columns > _MOST_COLUMNS or n_columns * problem.n_dofs > _MOST:
        return None
    coercivity = problem.coercivity
    if not isinstance(coercivity, Coercivity):
        return None
    classes = _classes(parts, coercivity)
    return None if classes is None else Online(parts, representation, reference, classes)


def _classes(
    parts: AffineParts, coercivity: Coercivity
) -> list[tuple[Tensor, Tensor | None]] | None:
    """Parts relative to D0 where they differ; None where they leave its range, or are many."""
    by_terms = {
        id(terms[0].operator): d for terms, d in zip(parts.regions, parts.tangents, strict=True)
    }
    found = []
    for pencil in coercivity.pencils:
        white, outside = pencil.whitened(by_terms[id(pencil.terms[0].operator)])
        rows = torch.cat([white.transpose(0, 1).flatten(1), pencil.is_kept], dim=1)
        size = float(white.abs().max())
        _, number = (rows / (_DIGITS * size)).round().unique(dim=0, return_inverse=True)
        n = int(number.max()) + 1
        if outside.any() or n > _MOST_CLASSES:
            return None
        first = torch.empty(n, dtype=torch.int64).scatter_(0, number, torch.arange(len(number)))
        # Eigenvectors of the kernel stand first: those that no class has in its range are left out.
        kept = pencil.is_kept[first]
        rank = int(kept.sum(1).max())
        kept = kept[:, -rank:]
        white = white[:, first, -rank:, -rank:]
        if kept.all() and (white - white[..., :1, :1] * torch.eye(rank)).abs().max() <= (
            _DIGITS * size
        ):
            # Multiples of one matrix, as isotropic materials are, have one eigenvalue.
            white, kept = white[..., :1, :1], kept[:, :1]
        found.append((white.contiguous(), None if kept.all() else kept))
    return found


def _residuals(parts: AffineParts, basis: Tensor, m: int) -> Tensor:
    """S_j of the columns of the basis, (n_weights, n_columns, n_dofs); loads are of column m."""
    total = basis.new_zeros(parts.weights.n, basis.shape[1], len(basis))
    for terms, tangents, loads in zip(parts.regions, parts.tangents, parts.loads, strict=True):
        strains = terms[0].strains(basis.T)
        for j, d in enumerate(tangents):
            fluxes = torch.einsum("pst,cpt->cps", d, strains)
            fluxes[m] += loads[j]
            total[j] += terms[0].operator.adjoint(fluxes.flatten(-2))
    return total


def _orthonormal_representers(s: Tensor, reference: Reference) -> tuple[Tensor, Tensor]:
    """Q (n_free, n_q), and what of each of the rows s (n, n_free) it leaves, in K0', (n,)."""
    k0, x = reference.matrix, reference.solve(s).numpy().T
    q = np.zeros((len(x), 0))
    for _ in range(_N_PASSES):
        left = x - q @ (q.T @ (k0 @ x))
        left -= q @ (q.T @ (k0 @ left))
        size = np.sqrt(np.maximum((left * (k0 @ left)).sum(axis=0), 0))
        if q.shape[1] == 0:
            start = size
        large = size > _LEFT * start
        if not large.any() or q.shape[1] >= len(x):
            break
        q = orthonormalise(q, left[:, large] / size[large], k0)
    return torch.from_numpy(q), torch.from_numpy(size)
