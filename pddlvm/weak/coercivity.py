"""How far K(z) is from K0, read from the pointwise physics: for any field, without an eigenproblem.

    K(z) = sum_x w B^T D(x; z) B,      K0 = sum_x w B^T D0(x) B
    lower, upper = extreme lambda of D(x; z) e = lambda D0(x) e over all points x, e in range(D0)
    lower K0 <= K(z) <= upper K0

The min-theta bound of reduced bases (Hesthaven, Rozza and Stamm, Certified Reduced Basis Methods
for Parametrized Partial Differential Equations, 2016), at points in the place of terms of a sum.
Terms of one region are added first. Where a quadrature has negative weights its cells take the
place of its points, with their element matrices. For sums of given matrices that are positive
semidefinite (`pddlvm.weak.matrix_sum`) it is the bound as it is known,

    min_q theta_q(z) / theta_q(z0) K0 <= K(z) <= max_q theta_q(z) / theta_q(z0) K0
"""

from functools import reduce

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.linalg.factorisation import SingularMatrixError
from pddlvm.linalg.superlu import SuperLU
from pddlvm.parameters.space import ParameterSpace
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm
from pddlvm.weak.matrix_sum import Coefficients, Squares
from pddlvm.weak.terms import TermEvaluator

__all__ = [
    "Coercivity",
    "MinTheta",
    "Pencil",
    "Region",
    "coercivity_of",
    "ends",
    "extremes",
    "pointwise",
    "safe",
]

Region = list[TermEvaluator]
"""Terms of one region."""

_N_PROBES = 4
_SCALES = (1e-3, 1.0, 1e3)
"""Of the strains at which a problem that is linear has the same tangents."""
_LINEAR, _NULL = 1e-10, 1e-10
_ROUND_OFF = 1e-13
_SLACK = 1e-9
"""More than the rounding of eigenvalues, and of what counts as the kernel of D0."""
_MULTIPLE = 1e-10
"""Of a multiple of D0 eigenvalues differ by less than that, relative to it."""
_MEMORY = 2**26
"""Bytes of pointwise tangents held at once."""


class Coercivity:
    """lower(z) and upper(z) of a linear problem with a potential.

    Args:
        form: of the problem.
        regions: its terms that have a tangent, by region; float64 on the CPU.
    """

    def __init__(self, form: WeakForm, regions: list[Region]) -> None:
        self._prior = form.prior
        z0 = form.prior.unstandardise(torch.zeros(1, form.prior.size, dtype=torch.float64))
        self.pencils = [Pencil(terms, form.prior.split(z0)) for terms in regions]

    @property
    def is_definite(self) -> bool:
        """Is D0 nowhere negative?"""
        return all(pencil.is_definite for pencil in self.pencils)

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper, (batch, d) -> (batch,) each; 0 and infinity where there are none."""
        return safe(*extremes(self.pencils, self._prior, z))


class MinTheta:
    """Lower and upper of a sum of positive semidefinite matrices.

    Args:
        theta: their coefficients, of z (batch, d).
        centre: those at the centre of the prior, positive, (n_matrices,).
    """

    def __init__(self, theta: Coefficients, centre: Tensor) -> None:
        self._theta, self._centre = theta, centre

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper, (batch, d) -> (batch,) each; 0 and infinity where there are none."""
        ratio = self._theta(z) / self._centre
        return safe(ratio.amin(-1), ratio.amax(-1))


class Pencil:
    """D(x; z) against D0(x) on one region.

    Args:
        terms: of the region.
        centre: z0 by blocks.
        inside: entries of the strains that count, all by default.
    """

    def __init__(
        self, terms: Region, centre: dict[str, Tensor], inside: slice | None = None
    ) -> None:
        self.terms, self._inside = terms, inside
        region = terms[0].term.region
        self._local: Tensor | None = None
        if (region.weights < 0).any():
            self._local = torch.from_numpy(region.local).flatten(1, 2)
        self.n_entries = len(terms[0].weights) * terms[0].s ** 2
        d0 = self._matrices(pointwise(terms, 1, centre))[0]
        diagonal = d0.diagonal(dim1=-2, dim2=-1)
        # Values of u and of grad u have other units: each entry is measured by its own.
        self._scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
        self._d0 = self._scaled(d0)
        values, vectors = torch.linalg.eigh(self._d0)
        size = values.abs().amax(-1, keepdim=True)
        kept = values > _NULL * size
        self.is_definite = bool((values >= -_NULL * size).all() and (diagonal >= 0).all())
        self._least = torch.where(kept, values, torch.inf).amin(-1)
        self._absent = d0.abs().amax(-1) == 0
        self._null = torch.where(kept[..., None, :], 0.0, vectors)
        self._whiten = vectors * torch.where(kept, values, torch.inf).rsqrt()[..., None, :]
        self.is_kept = kept.to(d0)

    def extremes(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest eigenvalue over the region, (batch,) each.

        Args:
            d: w D at the points, (batch, n_points, s, s).
        """
        raw = self._matrices(d)
        if (multiples := self._multiples(self._scaled(raw))) is not None:
            return multiples
        white, outside = self._relative(raw)
        lower, upper = ends(white, self.is_kept)
        return torch.where(outside, 0.0, lower), torch.where(outside, torch.inf, upper)

    def whitened(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices relative to D0, (batch, n_blocks, k, k), and whether D leaves its range."""
        return self._relative(self._matrices(d))

    def _multiples(self, d: Tensor) -> tuple[Tensor, Tensor] | None:
        """The extremes where D = rho D0 at all points but for rounding; no matrix is whitened.

        |lambda - rho| <= |D - rho D0| / lambda_min(D0),    |D| <= k max |D_ij|
        """
        whole, of_d0 = (x.diagonal(dim1=-2, dim2=-1).sum(-1) for x in (d, self._d0))
        has_range = self._least < torch.inf
        rho = torch.where(has_range, whole / torch.where(has_range, of_d0, 1.0), 0.0)
        left = (d - rho[..., None, None] * self._d0).abs().amax((-2, -1))
        off = d.shape[-1] * left / self._least
        if not ((off <= _MULTIPLE * rho.abs()) & (has_range | (left == 0))).all():
            return None
        lower = torch.where(has_range, rho - off, torch.inf).amin(-1)
        return lower, torch.where(has_range, rho + off, -torch.inf).amax(-1)

    def _relative(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        d = self._scaled(raw)
        size = d.abs().amax((-2, -1))
        outside = ((d @ self._null).abs().amax((-2, -1)) > _NULL * size).any(-1)
        # An entry that D0 does not have at all must be zero.
        outside |= (raw.abs().amax(-1) * self._absent).amax((-2, -1)) > 0
        return self._whiten.mT @ d @ self._whiten, outside

    def _matrices(self, d: Tensor) -> Tensor:
        """D at the points, or the element matrices of the cells, (batch, n_blocks, k, k)."""
        if self._inside is not None:
            own = torch.zeros_like(d)
            own[..., self._inside, self._inside] = d[..., self._inside, self._inside]
            d = own
        if self._local is not None:
            local = self._local
            cells = d.unflatten(1, (len(local), -1))
            strains = local.unflatten(1, cells.shape[2:4])
            d = local.mT @ (cells @ strains).flatten(2, 3)
        return 0.5 * (d + d.mT)

    def _scaled(self, d: Tensor) -> Tensor:
        return self._scale[..., :, None] * d * self._scale[..., None, :]


def coercivity_of(form: WeakForm, operators: Discretisation) -> Coercivity | MinTheta | None:
    """That of a form that is linear, with a potential, and positive point by point; else None.

    It is linear if its tangents are the same at strains of any size, of a few draws.

    Args:
        form: of the PDE.
        operators: its discretisation, float64 on the CPU.
    """
    if not form.has_potential:
        return None
    generator = torch.Generator().manual_seed(0)
    z = form.prior.unstandardise(form.prior.sample_standard((_N_PROBES,), generator=generator))
    regions: dict[int, Region] = {}
    for term in operators.terms:
        size = 0.0
        for one in z[:, None]:
            blocks = form.prior.split(one)
            at_zero = pointwise([term], 1, blocks)
            size = max(size, float(at_zero.abs().amax()))
            for scale in _SCALES:
                shape = 1, len(term.weights), term.s
                e = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
                change = (term.tangents_of(e, blocks) - at_zero).abs().amax()
                if not change <= _LINEAR * size:
                    return None
        if size > 0:
            regions.setdefault(id(term.operator), []).append(term)
    found = Coercivity(form, list(regions.values())) if regions else None
    if found is None or found.is_definite:
        return found
    return _of_matrices(form)


def extremes(pencils: list[Pencil], prior: ParameterSpace, z: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest eigenvalue over all regions, (batch, d) -> (batch,) each."""
    entries = max(pencil.n_entries for pencil in pencils)
    found = []
    for part in z.split(max(1, _MEMORY // (8 * entries))):
        blocks = prior.split(part)
        ends = [p.extremes(pointwise(p.terms, len(part), blocks)) for p in pencils]
        lower, upper = (torch.stack(end) for end in zip(*ends, strict=True))
        found.append((lower.amin(0), upper.amax(0)))
    least, most = (torch.cat(part) for part in zip(*found, strict=True))
    return least, most


def safe(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The two with their rounding, (batch,) each; 0 and infinity where they are no bounds."""
    is_bound = (lower > 0) & (upper < torch.inf)
    lower = torch.where(is_bound, lower * (1 - _SLACK), 0.0)
    return lower, torch.where(is_bound, upper * (1 + _SLACK), torch.inf)


def _of_matrices(form: WeakForm) -> MinTheta | None:
    """The bound of a form whose squares are those of given matrices, if these allow it."""
    sums = [t.function for t in form.terms if isinstance(t.function, Squares)]
    theta = sums[0].coefficients if len(sums) == 1 else None
    if theta is None:
        return None
    z0 = form.prior.unstandardise(torch.zeros(1, form.prior.size, dtype=torch.float64))
    centre = theta(z0)[0]
    if not (centre > 0).all() or not all(map(_is_psd, sums[0].matrices)):
        return None
    return MinTheta(theta, centre)


def _is_psd(matrix: sp.csr_matrix) -> bool:
    """Is a symmetric matrix positive semidefinite, but for its rounding?"""
    diagonal = matrix.diagonal()
    if (diagonal < 0).any() or not diagonal.any():
        return matrix.nnz == 0 or not matrix.data.any()
    # Unknowns that a matrix does not have are no matter, and its kernel is moved off zero.
    used = np.flatnonzero(abs(matrix).sum(axis=1))
    own = matrix[used][:, used]
    moved = own + _ROUND_OFF * sp.diags(own.diagonal().max() * np.ones(len(used)))
    try:
        found = SuperLU().factorise(moved.tocsc(), symmetric=True).definiteness()
    except SingularMatrixError:
        return False
    return not found.n_negative


def ends(white: Tensor, is_kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """Least and greatest eigenvalue on the range of D0, over the blocks, (batch,) each.

    Args:
        white: (batch, n_blocks, k, k), zero outside of the range.
        is_kept: 1 for what is inside, (n_blocks, k); None: all.
    """
    if is_kept is None:
        if white.shape[-1] == 1:
            return torch.aminmax(white[..., 0, 0], dim=-1)
        values = torch.linalg.eigvalsh(white)
        return values[..., 0].amin(-1), values[..., -1].amax(-1)
    # The kernel gets an eigenvalue between those of the range, and does not count.
    mean = white.diagonal(dim1=-2, dim2=-1).sum(-1) / is_kept.sum(-1).clamp(min=1)
    values = torch.linalg.eigvalsh(white + torch.diag_embed((1 - is_kept) * mean[..., None]))
    has_range = is_kept.amax(-1) > 0
    lower = torch.where(has_range, values[..., 0], torch.inf).amin(-1)
    upper = torch.where(has_range, values[..., -1], -torch.inf).amax(-1)
    return lower, upper


def pointwise(terms: Region, n: int, blocks: dict[str, Tensor]) -> Tensor:
    """w D of terms on one region, (n, n_points, s, s)."""
    e = torch.zeros(n, len(terms[0].weights), terms[0].s, dtype=torch.float64)
    return reduce(torch.add, [term.tangents_of(e, blocks) for term in terms])
