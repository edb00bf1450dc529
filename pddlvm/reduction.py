"""From a problem to what training needs: a basis, its reduced residual, and their scales.

1. K0 is factorised and a basis V is built (`basis`).
2. Every term is reduced in V: affine if it can be, by empirical cubature if not.
3. A compressible basis is rotated to the principal components of reduced Galerkin solutions of
   fresh draws, the same terms are written in it, and it is cut.
4. The size of c and of the energy over the prior is fitted by log-quadratic functions of xi.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pddlvm.affine import MAX_RANK, AffineTerm, Interpolation, find_interpolation
from pddlvm.basis import Basis, Galerkin, ResidualEnriched
from pddlvm.cubature import CellSelection, Draws, dense_columns, select_cells, selected_term
from pddlvm.physics import TermEvaluator
from pddlvm.problem import Problem
from pddlvm.reduced import ReducedModel
from pddlvm.representation import Reference, Representation

__all__ = ["LogQuadratic", "Reduction", "TermReduction", "reduce"]

Array = NDArray[np.float64]
TermReduction = tuple[Interpolation, Interpolation] | CellSelection

_N_CUBATURE_DRAWS = 48
_N_AFFINE_DRAWS = 48
_N_PROBE_CELLS = 500
_N_SNAPSHOTS = 512
_N_CHECKS = 8
_MAX_NEWTON = 30


class LogQuadratic(nn.Module):
    """exp of a quadratic function of xi without mixed terms: the size of something positive."""

    coefficients: Tensor

    def __init__(self, n_parameters: int) -> None:
        super().__init__()
        self.register_buffer("coefficients", torch.zeros(1 + 2 * n_parameters))

    def fit(self, xi: Tensor, values: Tensor) -> None:
        """Least squares on log values, with a little ridge so that few draws suffice."""
        features = self._features(xi.double())
        gram = features.T @ features + 1e-3 * torch.eye(features.shape[1], dtype=torch.float64)
        logs = values.double().clamp(min=1e-30).log()
        self.coefficients = torch.linalg.solve(gram, features.T @ logs).to(self.coefficients)

    def forward(self, xi: Tensor) -> Tensor:
        """Positive size, (batch, d) -> (batch,)."""
        return (self._features(xi) @ self.coefficients).exp()

    @staticmethod
    def _features(xi: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(xi[:, :1]), xi, xi**2], dim=1)


@dataclass(frozen=True)
class Reduction:
    """Everything that was prepared from a problem before training.

    Attributes:
        reference: K0 and the lifting.
        v: basis, (n_free, n_modes).
        terms: how each term is reduced.
        xi, c: standard parameters and reduced Galerkin coefficients of draws.
        energy: c^T K(z) c of the same draws.
        cubature_error: relative difference, in the reference energy, between Galerkin solutions
            with the cubature and with the full operator, worst of a few fresh draws.
    """

    reference: Reference
    v: Array
    terms: tuple[TermReduction, ...]
    xi: Tensor
    c: Tensor
    energy: Tensor
    cubature_error: float

    def model(self, problem: Problem, dtype: torch.dtype) -> ReducedModel:
        """The reduced model in a dtype."""
        return reduced_model(problem, self.reference, self.v, self.terms, dtype)


def reduce(problem: Problem, basis: Basis | None = None, *, seed: int = 0) -> Reduction:
    """Prepare a problem for training; see the module's docstring.

    Args:
        problem: the problem.
        basis: how to represent the solution; default `ResidualEnriched()`.
        seed: of the prior draws.
    """
    basis = basis or ResidualEnriched()
    generator = torch.Generator().manual_seed(seed)
    reference = Reference.of(problem)
    galerkin = Galerkin(problem, reference)
    v = basis.build(galerkin, generator)
    z = problem.prior.sample((_N_CUBATURE_DRAWS,), generator=generator)
    solutions, _ = galerkin.solve(v, z)
    terms = reduce_terms(problem, galerkin, v, z, solutions, np.random.default_rng(seed))
    full = reduced_model(problem, reference, v, terms, torch.float64)

    checks = problem.prior.sample((_N_CHECKS,), generator=generator)
    exact = torch.from_numpy(galerkin.solve(v, checks)[0])
    difference = (solve_reduced(full, checks) - exact).norm(dim=1) / exact.norm(dim=1)

    xi = problem.prior.sample_standard((_N_SNAPSHOTS,), generator=generator)
    z = problem.prior.unstandardise(xi)
    c = solve_reduced(full, z)
    if basis.n_kept is not None:
        relative = c / c.norm(dim=1, keepdim=True).clamp(min=1e-30)
        _, values, rotation = torch.linalg.svd(relative, full_matrices=False)
        tail = values.flip(0).square().cumsum(0).sqrt().flip(0) / values.norm()
        tolerance = basis.tolerance if isinstance(basis, ResidualEnriched) else 0.0
        kept = min(basis.n_kept, int((tail > tolerance).sum()), v.shape[1])
        v = v @ rotation[:kept].T.numpy()
        full = reduced_model(problem, reference, v, terms, torch.float64)
        c = solve_reduced(full, z)
    energy = (c * (full.stiffness(c, z) @ c[..., None])[..., 0]).sum(-1)
    return Reduction(reference, v, terms, xi, c, energy, float(difference.max()))


def reduced_model(
    problem: Problem,
    reference: Reference,
    v: Array,
    reductions: tuple[TermReduction, ...],
    dtype: torch.dtype,
) -> ReducedModel:
    """Write every term in the basis v."""
    representation = Representation(problem, reference, v, dtype)
    vectors = Representation(problem, reference, v, torch.float64).basis.numpy()
    terms: list[TermEvaluator | AffineTerm] = []
    for term, how in zip(problem.terms, reductions, strict=True):
        if isinstance(how, CellSelection):
            terms.append(selected_term(term, problem.fields, vectors, how, dtype))
        else:
            columns = dense_columns(term, vectors)
            terms.append(AffineTerm(term, problem.fields, *how, columns, dtype))
    return ReducedModel(representation, terms)


def solve_reduced(model: ReducedModel, z: Tensor, tolerance: float = 1e-9) -> Tensor:
    """Galerkin coefficients by the reduced model alone, (batch, n_modes)."""
    c = z.new_zeros(len(z), model.n_modes)
    start = model.residual(c, z).norm(dim=1)
    for _ in range(_MAX_NEWTON):
        c = model.newton_step(c, z)
        if (model.residual(c, z).norm(dim=1) <= tolerance * start).all():
            break
    return c


def reduce_terms(
    problem: Problem,
    galerkin: Galerkin,
    v: Array,
    z: Tensor,
    c: Array,
    rng: np.random.Generator,
) -> tuple[TermReduction, ...]:
    """Choose the reduction of every term from Galerkin solutions c of draws z."""
    representation = Representation(problem, galerkin.reference, v, torch.float64)
    b = representation.boundary_coordinates(z)
    draws = Draws(
        representation.augment(torch.from_numpy(c), b), problem.prior.split(z), v.shape[1]
    )
    vectors = representation.basis
    chosen: dict[int, TermReduction] = {}
    for i, evaluator in enumerate(galerkin.operators.terms):
        affine = _affine(evaluator, problem, draws, vectors, rng)
        if affine is not None:
            chosen[i] = affine
    rest = {i: t for i, t in enumerate(problem.terms) if i not in chosen}
    if rest:
        chosen.update(select_cells(rest, problem, vectors.numpy(), draws, rng))
    return tuple(chosen[i] for i in range(len(problem.terms)))


def _affine(
    evaluator: TermEvaluator,
    problem: Problem,
    draws: Draws,
    vectors: Tensor,
    rng: np.random.Generator,
) -> tuple[Interpolation, Interpolation] | None:
    """Interpolations of tangent and load if the term is quadratic in u and of low rank."""
    term, n = evaluator.term, _N_AFFINE_DRAWS
    z = {name: block[:n] for name, block in draws.z.items()}
    n_cells = len(term.region.dofs)
    cells = np.sort(rng.choice(n_cells, min(n_cells, _N_PROBE_CELLS), replace=False))
    everywhere = CellSelection(cells, np.ones(cells.size))
    probe = selected_term(term, problem.fields, vectors.numpy(), everywhere, torch.float64)
    at_zero, at_solution = (probe.tangents(a[:n], z) for a in (torch.zeros_like(draws.a), draws.a))
    limit = 1e-9 * float(at_solution.abs().max())
    if not torch.allclose(at_zero, at_solution, rtol=1e-8, atol=limit):
        return None
    loads = probe.fluxes(torch.zeros_like(draws.a)[:n], z)
    if any(
        find_interpolation(values.reshape(n, -1).numpy(), MAX_RANK) is None
        for values in (at_zero, loads)
    ):
        return None
    # The functions that are interpolated are those of the physics: without the weights.
    zero = torch.zeros(n, problem.n_dofs, dtype=torch.float64)
    tangents = evaluator.tangents(zero, z) / evaluator.weights[:, None, None]
    loads = evaluator.fluxes(zero, z) / evaluator.weights[:, None]
    tangent = find_interpolation(tangents.reshape(n, -1).numpy(), MAX_RANK)
    load = find_interpolation(loads.reshape(n, -1).numpy(), MAX_RANK)
    return None if tangent is None or load is None else (tangent, load)
