"""Empirical cubature: few cells with non-negative weights that integrate the reduced residual.

    min_w |A w - b|^2, w >= 0,     A_se = contribution of cell e to (W^T r)_s,   b_s = sum_e A_se

with one block of rows per prior draw, projected on random directions (Hernández, Caicedo, Ferrer,
Comput. Methods Appl. Mech. Eng. 313, 2017). The number of cells that come out depends on the
number of rows, not on the mesh. Rows hold the part of the residual at u = 0 and the increment to
the Galerkin solution apart, because at the solution their sum vanishes and would teach nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from pddlvm.linalg.operators import ScaledOperator
from pddlvm.reduced.galerkin import Galerkin
from pddlvm.reduced.representation import Representation
from pddlvm.weak.terms import Term, TermEvaluator

__all__ = ["CellSelection", "Draws", "dense_columns", "select_cells", "selected_term"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_N_PROJECTIONS = 16
_BLOCK = 8
"""Draws whose states are on the mesh at once."""
_MAX_CANDIDATES = 2048


@dataclass(frozen=True)
class Draws:
    """Galerkin solutions of prior draws.

    Attributes:
        a: augmented coefficients (c, 1, b), (n_draws, n_columns).
        z: the parameters, (n_draws, d).
        n_modes: how many of the columns are modes; the others lift boundary values.
    """

    a: torch.Tensor
    z: torch.Tensor
    n_modes: int

    @property
    def at_zero(self) -> torch.Tensor:
        """The same with c = 0."""
        mask = (torch.arange(self.a.shape[1]) >= self.n_modes).to(self.a)
        return self.a * mask


@dataclass(frozen=True)
class CellSelection:
    """Cells of one region (indices within it) and their cubature weights."""

    cells: Index
    weights: Array


def dense_columns(term: Term, vectors: Array, cells: Index | None = None) -> Array:
    """B (V, L) at the points of some cells (all by default), (n_points, s, n_columns)."""
    region = term.region
    local = region.local if cells is None else region.local[cells]
    dofs = region.dofs if cells is None else region.dofs[cells]
    n_cells, n_quadrature, s, n_local = local.shape
    columns = local.reshape(n_cells, -1, n_local) @ vectors[dofs]
    return columns.reshape(n_cells * n_quadrature, s, -1)


def select_cells(
    terms: Mapping[int, Term],
    galerkin: Galerkin,
    representation: Representation,
    draws: Draws,
    rng: np.random.Generator,
) -> dict[int, CellSelection]:
    """Choose cells jointly for some terms of a problem, by their number.

    Args:
        terms: number of the term in the problem -> term, those without an affine reduction.
        galerkin: has the operators of the mesh.
        representation: V and L, float64.
        draws: Galerkin solutions to integrate well.
        rng: for candidates and projections.
    """
    total = sum(len(t.region.dofs) for t in terms.values())
    share = min(1.0, _MAX_CANDIDATES / total)
    n_draws, n_tests = len(draws.a), representation.n_tests
    directions = rng.standard_normal((n_draws, n_tests, _N_PROJECTIONS))
    candidates: dict[int, Index] = {}
    blocks = []
    target = np.zeros((2, n_draws, _N_PROJECTIONS))
    for i, term in terms.items():
        n = len(term.region.dofs)
        chosen = rng.choice(n, max(1, round(share * n)), replace=False) if share < 1 else range(n)
        candidates[i] = np.sort(np.asarray(chosen, dtype=np.int64))
        blocks.append(_contributions(term, representation, draws, directions, candidates[i]))
        target += _totals(i, galerkin, representation, draws, directions)
    rows = target.reshape(-1)
    scale = np.linalg.norm(target, axis=2)
    matters = scale > 1e-10 * scale.max()
    # The parts at c = 0 vary less than the increments: a quarter of the draws will do.
    matters[1, n_draws // 4 :] = False
    useful = np.repeat(matters.ravel(), _N_PROJECTIONS)
    scale = np.repeat(scale.ravel(), _N_PROJECTIONS)[useful]
    matrix = np.concatenate(blocks, axis=1)[useful] / scale[:, None]
    weights, _ = nnls(matrix, rows[useful] / scale, maxiter=20 * matrix.shape[1])
    ends = np.cumsum([len(c) for c in candidates.values()])
    parts = np.split(weights, ends[:-1])
    return {
        i: CellSelection(c[w > 0], w[w > 0])
        for (i, c), w in zip(candidates.items(), parts, strict=True)
    }


def selected_term(
    term: Term,
    representation: Representation,
    selection: CellSelection,
    dtype: torch.dtype,
) -> TermEvaluator:
    """The term at its cubature cells, in the reduced basis.

    The physics is evaluated in float64, what is multiplied by coefficients of the basis in `dtype`.
    """
    columns = dense_columns(term, representation.basis.numpy(), selection.cells)
    rows = torch.from_numpy(columns.reshape(-1, columns.shape[-1]))
    offset = rows[:, representation.n_modes].clone()
    rows[:, representation.n_modes] = 0
    n_quadrature = term.region.shape[1]
    weights = term.region.weights[selection.cells] * selection.weights[:, None]
    points = selection.cells[:, None] * n_quadrature + np.arange(n_quadrature)
    return TermEvaluator(
        term,
        ScaledOperator(rows, offset, dtype),
        torch.from_numpy(weights.ravel() / representation.units.energy),
        term.region.points.take(points.ravel()),
        representation.problem.fields,
        _tests_of(term, representation, selection, dtype),
    )


def _tests_of(
    term: Term, representation: Representation, selection: CellSelection, dtype: torch.dtype
) -> ScaledOperator | None:
    """Test functions at the cells, where they are not those of the basis."""
    if representation.w is None:
        return None
    columns = dense_columns(term, representation.w, selection.cells)
    rows = torch.from_numpy(columns.reshape(-1, columns.shape[-1]))
    return ScaledOperator(rows, rows.new_zeros(len(rows)), dtype)


def _contributions(
    term: Term,
    representation: Representation,
    draws: Draws,
    directions: Array,
    cells: Index,
) -> Array:
    """What each cell adds to the increments and to the parts at c = 0, (n_rows, n_cells)."""
    selection = CellSelection(cells, np.ones(len(cells)))
    part = selected_term(term, representation, selection, torch.float64)
    assert isinstance(part.tests, ScaledOperator)
    columns = part.tests.columns[:, : representation.n_tests].unflatten(0, (len(cells), -1))
    rows = np.empty((2, len(draws.a), directions.shape[2], len(cells)))
    prior = representation.problem.prior
    for k, direction in enumerate(directions):
        z = prior.split(draws.z[k : k + 1])
        test = columns @ torch.from_numpy(direction)
        zero = part.fluxes(draws.at_zero[k : k + 1], z)[0].reshape(len(cells), -1, 1)
        solution = part.fluxes(draws.a[k : k + 1], z)[0].reshape(len(cells), -1, 1)
        rows[0, k] = (test * (solution - zero)).sum(1).T.numpy()
        rows[1, k] = (test * zero).sum(1).T.numpy()
    return rows.reshape(-1, len(cells))


def _totals(
    number: int,
    galerkin: Galerkin,
    representation: Representation,
    draws: Draws,
    directions: Array,
) -> Array:
    """The same summed over all cells, by the full operator, (2, n_draws, n_projections)."""
    v = representation.basis
    tests = v[:, : representation.n_modes]
    if representation.w is not None:
        tests = torch.from_numpy(representation.w)
    parts = []
    for rows in torch.arange(len(draws.z)).split(_BLOCK):
        states = [a[rows] @ v.T for a in (draws.at_zero, draws.a)]
        found = galerkin.residuals_of_term(number, states, draws.z[rows])
        parts.append(torch.stack([r @ tests for r in found]))
    zero, solution = torch.cat(parts, dim=1)
    both = torch.stack([solution - zero, zero])
    return torch.einsum("knc,ncp->knp", both, torch.from_numpy(directions)).numpy()
