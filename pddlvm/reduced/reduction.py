"""From a problem to what training needs: a basis, its reduced residual, and their scales.

1. X, mostly K0, is factorised and a basis V is built (`bases`), and where residuals need them test
   functions W (`representers`).
2. Every term is reduced in V: affine if it can be, by empirical cubature if not.
3. A compressible basis is rotated to the principal components of reduced Galerkin solutions of
   fresh draws, the same terms are written in it, and it is cut.
4. The sizes of u and of its energy over the prior become units (`Representation`): what training
   sees has size one.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import InputError, ProblemError, ResonanceWarning
from pddlvm.basics.progress import ProgressBar
from pddlvm.basics.random import generator_of
from pddlvm.fem import MixedSpace
from pddlvm.linalg.empirical_interpolation import Interpolation, find_interpolation
from pddlvm.linalg.newton import least_squares_step
from pddlvm.reduced.bases import Basis, ResidualEnriched
from pddlvm.reduced.cubature import CellSelection, Draws, select_cells, selected_term
from pddlvm.reduced.galerkin import Galerkin
from pddlvm.reduced.interpolated import interpolated
from pddlvm.reduced.linear_fit import LinearFit
from pddlvm.reduced.reference import Reference
from pddlvm.reduced.representation import Representation, Units
from pddlvm.reduced.representers import representers
from pddlvm.reduced.residual import ReducedModel
from pddlvm.reduced.solving import LinearSystems, solve_reduced
from pddlvm.weak.affine_term import AffineTerm
from pddlvm.weak.definite import check_positive_at
from pddlvm.weak.inner_product import inner_product, is_elliptic
from pddlvm.weak.problem import Problem
from pddlvm.weak.projection import OnMesh
from pddlvm.weak.terms import TermEvaluator

__all__ = ["Reduction", "TermReduction", "reduce"]

Array = NDArray[np.float64]
TermReduction = tuple[Interpolation, Interpolation] | CellSelection
Bases = tuple[Array, Array | None]
"""V and W."""

_N_CUBATURE_DRAWS = 48
_N_AFFINE_DRAWS = 48
_MAX_RANK = 32
_N_PROBE_CELLS = 500
_LEAST_SIZE = 1e-30
_N_SNAPSHOTS = 512
_N_CHECKS = 8
_N_SIZES = 32
_SOLVED = 1e-6


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
        units: sizes of u and of its energy. v, c and energy above are those of the problem.
        w: test functions, (n_free, n_tests); None where they are those of the basis.
    """

    reference: Reference
    v: Array
    terms: tuple[TermReduction, ...]
    xi: Tensor
    c: Tensor
    energy: Tensor
    cubature_error: float
    units: Units
    w: Array | None = None

    def model(self, problem: Problem, dtype: torch.dtype) -> ReducedModel:
        """The reduced model in a dtype."""
        bases = self.v, self.w
        return reduced_model(problem, self.reference, bases, self.terms, dtype, self.units)


def reduce(
    problem: Problem, basis: Basis | None = None, *, seed: int = 0, progress: bool = False
) -> Reduction:
    """Prepare a problem for training; see the module's docstring.

    Args:
        problem: the problem.
        basis: how to represent the solution; default `ResidualEnriched()`.
        seed: of the prior draws.
        progress: say on stderr what is done.

    Raises:
        ProblemError: K0 is not positive, or K(z) within the prior; or there is nothing to learn.
    """
    if len(getattr(problem, "solution_shape", ())) > 1:
        raise InputError(
            f"problem {problem.name!r} is one in time, and reduce is for steady problems; "
            "LatentVariableModel(problem) makes its own reduction, which models of the same "
            "problem share by reduction=model.reduction"
        )
    check_kind(Problem, problem=problem)
    check_kind(Basis | None, basis=basis)
    with ProgressBar(progress) as bar:
        return _reduction(problem, basis or ResidualEnriched(), seed, bar)


def _reduction(
    problem: Problem, basis: Basis, seed: int, bar: ProgressBar, is_dual: bool = False
) -> Reduction:
    generator = generator_of(seed)
    bar.say("factorising the reference operator")
    reference = Reference.of(problem, is_dual=is_dual)
    galerkin = Galerkin(problem, reference)
    bar.show(0.2, now="making the basis")
    v = basis.build(galerkin, generator)
    bar.show(0.6, now="reducing the terms")
    z, solutions = galerkin.draws(v, _N_CUBATURE_DRAWS, generator)
    if not np.any(solutions):
        raise _nothing_to_learn(problem, reference)
    w = representers(galerkin, v, generator) if reference.is_dual else None
    bases, rng = (v, w), np.random.default_rng(seed)
    terms = reduce_terms(problem, galerkin, bases, z, solutions, rng)
    full = reduced_model(problem, reference, bases, terms, torch.float64)

    checks = problem.prior.sample((_N_CHECKS,), generator=generator)
    cubature_error = _cubature_error(galerkin, full, v, checks)

    bar.show(0.8, now="solving in the basis")
    xi = problem.prior.sample_standard((_N_SNAPSHOTS,), generator=generator)
    z = problem.prior.unstandardise(xi)
    systems = None
    if problem.is_linear and not reference.is_dual:
        systems = LinearSystems.of(full, z)
        c = systems.solve()
    else:
        c = _snapshots(_cheap(galerkin, full), xi, z, galerkin.start(v, z))
    if basis.n_kept is not None:
        relative = torch.nn.functional.normalize(c, eps=_LEAST_SIZE * float(c.abs().max()))
        weights, values, rotation = torch.linalg.svd(relative, full_matrices=False)
        # The sign of a component is arbitrary: that of the draw that shows it most is positive.
        most = weights.gather(0, weights.abs().argmax(0, keepdim=True))
        rotation = rotation * most.sign().T
        tail = values.flip(0).square().cumsum(0).sqrt().flip(0) / values.norm()
        tolerance = basis.tolerance if isinstance(basis, ResidualEnriched) else 0.0
        kept = min(basis.n_kept, int((tail > tolerance).sum()), v.shape[1])
        v = v @ rotation[:kept].T.numpy()
        w = representers(galerkin, v, generator) if reference.is_dual else None
        full = reduced_model(problem, reference, (v, w), terms, torch.float64)
        if systems is not None:
            systems = systems.within(rotation[:kept].T)
            c = systems.solve()
        else:
            # The best in the smaller basis, where solving once more would need other matrices.
            c = c @ rotation[:kept].T
            c = c if reference.is_dual else solve_reduced(full, z, c)
    if reference.is_dual:
        _warn_of_resonance(reduced_model(problem, reference, (v, None), terms, torch.float64), c, z)
        energy = c.square().sum(-1)
    else:
        k = full.stiffness(c, z) if systems is None else systems.k
        if _loses_positivity(full, c, z, k):
            return _reduction(problem, basis, seed, bar, is_dual=True)
        energy = (c * (k @ c[..., None])[..., 0]).sum(-1)
    units = _units(full, c, z)
    bar.show(1.0)
    return Reduction(reference, v, terms, xi, c, energy, cubature_error, units, w)


def _cheap(galerkin: Galerkin, full: ReducedModel) -> ReducedModel:
    """For many solutions: least squares need matrices of twice and more the size."""
    is_linear = galerkin.reference.is_dual and galerkin.problem.is_linear
    return interpolated(full) if is_linear else full


def _cubature_error(galerkin: Galerkin, full: ReducedModel, v: Array, z: Tensor) -> float:
    """By how much the full operator moves solutions with the cubature, at worst of some draws."""
    c = solve_reduced(full, z, galerkin.start(v, z))
    if galerkin.reference.is_dual:
        r = full.representation.test(galerkin.residual(full.representation.expand(c, z), z))
        exact = c - least_squares_step(full.stiffness(c, z), r)
    else:
        exact = torch.from_numpy(galerkin.solve(v, z)[0])
    return float(((c - exact).norm(dim=1) / exact.norm(dim=1)).max())


def _units(full: ReducedModel, c: Tensor, z: Tensor) -> Units:
    """Size of u less its mean boundary values, and of |u|_K0^2, over draws."""
    few, representation = slice(_N_SIZES), full.representation
    u = representation.expand(c[few], z[few]) - representation.offset
    return Units(float(u.abs().amax(1).mean()), float(c.square().sum(1).mean()))


def _loses_positivity(full: ReducedModel, c: Tensor, z: Tensor, k: Tensor) -> bool:
    """Is the tangent of an energy not positive at some solutions? An error, if no X helps."""
    problem = full.representation.problem
    if not problem.has_potential:
        return False
    bad = (torch.linalg.cholesky_ex(k).info > 0).nonzero()[:, 0]
    if len(bad):
        size, left = (full.residual(x, z[bad]).norm(dim=1) for x in (0 * c[bad], c[bad]))
        bad = bad[left <= _SOLVED * size]
    if not len(bad):
        return False
    one, share = bad[:1], f"{len(bad)} of {len(z)} draws"
    u, at = full.representation.expand(c[one], z[one])[0], z[one][0]
    if is_elliptic(problem, u, at) and inner_product(problem) is not None:
        return True
    check_positive_at(problem, u, at, share)
    return False


def _warn_of_resonance(square: ReducedModel, c: Tensor, z: Tensor) -> None:
    """Say so if the number of negative eigenvalues changes within the prior.

    Of one field alone: with several, a saddle point has modes that V alone does not tell apart.
    """
    problem = square.representation.problem
    if isinstance(problem.space, MixedSpace):
        return
    k = square.stiffness(c, z)
    if not torch.allclose(k, k.mT, rtol=1e-6, atol=1e-9):
        return
    counts = (torch.linalg.eigvalsh(k) < 0).sum(1)
    few, most = int(counts.min()), int(counts.max())
    if few < most:
        warnings.warn(
            f"the prior of problem {problem.name!r} crosses a resonance: its operator has between "
            f"{few} and {most} negative eigenvalues, and where their number changes there is no "
            "bounded solution. Near there the maps are far off: narrow the range, or add damping "
            "or an absorbing side; meanwhile forward(z, corrections=1) is right",
            ResonanceWarning,
            stacklevel=2,
        )


def _nothing_to_learn(problem: Problem, reference: Reference) -> ProblemError:
    if np.any(reference.lifts):
        return ProblemError(
            f"the solutions of problem {problem.name!r} are the same extension of their boundary "
            "values for all parameters: there is nothing to learn; is a load missing?"
        )
    return ProblemError(
        f"the solution of problem {problem.name!r} is zero for all parameters: it has neither a "
        "load nor boundary values; add an energy such as -f * u, or a Dirichlet value"
    )


def reduced_model(
    problem: Problem,
    reference: Reference,
    bases: Bases,
    reductions: tuple[TermReduction, ...],
    dtype: torch.dtype,
    units: Units = Units(),  # noqa: B008 (frozen)
) -> ReducedModel:
    """Write every term in the bases (v, w)."""
    v, w = bases
    representation = Representation(problem, reference, v, dtype, units, w)
    exact = Representation(problem, reference, v, torch.float64, units, w)
    terms: list[TermEvaluator | AffineTerm] = []
    evaluators = problem.discretisation(torch.float64, torch.device("cpu")).terms
    for term, evaluator, how in zip(problem.terms, evaluators, reductions, strict=True):
        if isinstance(how, CellSelection):
            terms.append(selected_term(term, exact, how, dtype))
        else:
            between = OnMesh(evaluator, exact.basis.numpy(), exact.w)
            terms.append(AffineTerm(evaluator, *how, between, dtype, units.energy))
    return ReducedModel(representation, terms)


def _snapshots(model: ReducedModel, xi: Tensor, z: Tensor, start: Tensor) -> Tensor:
    """Coefficients of draws; a linear fit to the first of them is near the others."""
    fit = LinearFit(xi.shape[1])
    n = fit.n_needed
    if model.representation.problem.is_linear or n >= len(z):
        return solve_reduced(model, z, start)
    first = solve_reduced(model, z[:n], start[:n])
    fit.add(xi[:n], first)
    rest, size = start[n:], model.residual(start[n:], z[n:]).norm(dim=1)
    near = fit.nearer(xi[n:], rest, size, lambda c: model.residual(c, z[n:]))
    return torch.cat([first, solve_reduced(model, z[n:], near)])


def reduce_terms(
    problem: Problem,
    galerkin: Galerkin,
    bases: Bases,
    z: Tensor,
    c: Array,
    rng: np.random.Generator,
) -> tuple[TermReduction, ...]:
    """Choose the reduction of every term from Galerkin solutions c of draws z."""
    v, w = bases
    representation = Representation(problem, galerkin.reference, v, torch.float64, w=w)
    b = representation.boundary_coordinates(z)
    a = representation.augment(torch.from_numpy(c), b)
    draws = Draws(a, z, v.shape[1])
    chosen: dict[int, TermReduction] = {}
    for i, evaluator in enumerate(galerkin.operators.terms):
        affine = _affine(evaluator, representation, draws, rng)
        if affine is not None:
            chosen[i] = affine
    rest = {i: t for i, t in enumerate(problem.terms) if i not in chosen}
    if rest:
        chosen.update(select_cells(rest, galerkin, representation, draws, rng))
    return tuple(chosen[i] for i in range(len(problem.terms)))


def _affine(
    evaluator: TermEvaluator,
    representation: Representation,
    draws: Draws,
    rng: np.random.Generator,
) -> tuple[Interpolation, Interpolation] | None:
    """Interpolations of tangent and load if the term is quadratic in u and of low rank."""
    term, n = evaluator.term, _N_AFFINE_DRAWS
    z = representation.problem.prior.split(draws.z[:n])
    n_cells = len(term.region.dofs)
    cells = np.sort(rng.choice(n_cells, min(n_cells, _N_PROBE_CELLS), replace=False))
    everywhere = CellSelection(cells, np.ones(cells.size))
    probe = selected_term(term, representation, everywhere, torch.float64)
    none, some = torch.zeros_like(draws.a[:n]), draws.a[:n]
    # u and grad u have other units: what is small is small in the energy.
    strains = probe.strains(some)
    size = (strains - probe.strains(none)).abs().amax((0, 1))
    size = torch.where(size > 0, size, size.max())
    squares = size[:, None] * size
    at_zero, at_solution = (squares * probe.tangents(a, z) for a in (none, some))
    limit = 1e-9 * float(at_solution.abs().max())
    if not torch.allclose(at_zero, at_solution, rtol=1e-8, atol=limit):
        return None
    loads = size * probe.fluxes_of(torch.zeros_like(strains), z)
    if any(
        find_interpolation(values.reshape(n, -1).numpy(), _MAX_RANK) is None
        for values in (at_zero, loads)
    ):
        return None
    # The functions that are interpolated are those of the physics: without the weights.
    zero = torch.zeros(n, representation.problem.n_dofs, dtype=torch.float64)
    tangents = evaluator.tangents(zero, z) / evaluator.weights[:, None, None]
    loads = evaluator.fluxes(zero, z) / evaluator.weights[:, None]
    tangent = find_interpolation(
        tangents.reshape(n, -1).numpy(), _MAX_RANK, squares.flatten().numpy()
    )
    load = find_interpolation(loads.reshape(n, -1).numpy(), _MAX_RANK, size.numpy())
    return None if tangent is None or load is None else (tangent, load)
