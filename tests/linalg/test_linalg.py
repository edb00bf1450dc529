"""Linear solvers: equal answers, copies, and errors that say what to do."""

import copy
import pickle
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.linalg import eigvalsh

import pddlvm
from pddlvm import fem
from pddlvm.linalg import (
    Automatic,
    LinearSolver,
    Multigrid,
    NotPositiveError,
    Pardiso,
    Petsc,
    SingularMatrixError,
    SuperLU,
    automatic,
    memory,
    multigrid,
    pardiso,
    petsc,
)
from pddlvm.linalg.multigrid import MultigridFactors
from pddlvm.linalg.nearby import solve_nearby
from pddlvm.linalg.superlu import SuperLUFactors
from pddlvm.weak import definite

needs_pardiso = pytest.mark.skipif(not pardiso.has_pardiso(), reason="needs the extra pardiso")
needs_petsc = pytest.mark.skipif(not petsc.has_petsc(), reason="needs the extra petsc")
DIRECT = [SuperLU, pytest.param(Pardiso, marks=needs_pardiso)]
GENERAL = [*DIRECT, pytest.param(Petsc, marks=needs_petsc)]
ALL = [*GENERAL, Multigrid, Automatic]


@cache
def poisson(n: int = 12, square: float = 0.0, solver: LinearSolver = Automatic()) -> pddlvm.Problem:  # noqa: B008
    """-div(k (1 + x) grad u) - square u = 1 on the cube; without a square, positive."""
    space = fem.Space(fem.unit_cube(n))

    def density(u, du, x, k):
        return 0.5 * k * (1 + x[1]) * (du * du).sum() - 0.5 * square * u * u - u

    return pddlvm.Problem(
        "cube",
        space,
        terms=[pddlvm.Energy(space.interior(), density)],
        fields={"k": pddlvm.Constant(pddlvm.Uniform(0.9, 1.1))},
        dirichlet=[pddlvm.Dirichlet("left")],
        solver=solver,
    )


@cache
def block(solver: LinearSolver = Automatic(), roller: bool = True) -> pddlvm.Problem:  # noqa: B008
    """A block of rubber on its side, held by its left side and on a roller at the bottom."""
    space = fem.Space(fem.unit_cube(7, hexahedra=True), n_components=3)

    def density(u, du, x, e):
        strain = 0.5 * (du + du.T)
        return e * (0.3 * torch.trace(strain) ** 2 + 0.4 * (strain * strain).sum()) + 0.1 * u[2]

    held = [pddlvm.Dirichlet("left")]
    if roller:
        held.append(pddlvm.Dirichlet("bottom", component=2))
    return pddlvm.Problem(
        "block",
        space,
        terms=[pddlvm.Energy(space.interior(), density)],
        fields={"e": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))},
        dirichlet=held,
        solver=solver,
    )


def matrix_of(problem: pddlvm.Problem) -> sp.csc_matrix:
    z = problem.prior.sample(seed=0)
    return problem.solver.matrix(torch.zeros(problem.n_dofs, dtype=torch.float64), z.double())


def rough(n: int, k: int = 3) -> np.ndarray:
    return np.cos(np.arange(n * k, dtype=np.float64) ** 2).reshape(n, k)


def misfit(matrix: sp.csc_matrix, x: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(matrix @ x - b) / np.linalg.norm(b))


@pytest.fixture(autouse=True)
def several_levels(monkeypatch):
    """Small systems have more than one level too."""
    monkeypatch.setattr(multigrid, "_COARSEST", 40)


SYMMETRIC = {"poisson": poisson, "elasticity": block}


def symmetric(solver, name):
    """A matrix, right-hand sides, and its factors."""
    problem = SYMMETRIC[name]()
    matrix, near = matrix_of(problem), problem.form.near_nullspace
    factors = solver().factorise(matrix, symmetric=True, near_nullspace=near)
    return matrix, rough(problem.n_free), factors


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("name", ["poisson", "elasticity"])
def test_symmetric_systems_are_solved(solver, name):
    matrix, b, factors = symmetric(solver, name)
    # Ten times the tolerance of the iterations, whose norm is scaled.
    assert misfit(matrix, factors.solve(b), b) < 1e-10
    assert misfit(matrix, factors.solve(b[:, 0]), b[:, 0]) < 1e-10
    assert factors.solve(b[:, :0]).shape == (len(b), 0)


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("name", ["poisson", "elasticity"])
def test_approximate_solves_are_right_to_some_digits(solver, name):
    matrix, b, factors = symmetric(solver, name)
    found, expected = factors.approximate(b), factors.solve(b)
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    assert misfit(matrix, found, b) < 1e-4
    assert factors.approximate(b[:, :0]).shape == (len(b), 0)


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("name", ["poisson", "elasticity"])
def test_squared_norms_are_those_of_a_solve(solver, name):
    matrix, b, factors = symmetric(solver, name)
    expected = (b * SuperLU().factorise(matrix, symmetric=True).solve(b)).sum(axis=0)
    np.testing.assert_allclose(factors.squared_norms(b), expected, rtol=1e-6)


def test_multigrid_asks_for_fewer_iterations_where_a_norm_is_all(monkeypatch):
    factors = Multigrid().factorise(matrix_of(poisson()), symmetric=True)
    asked = []
    iterate = MultigridFactors._conjugate_gradients

    def counted(self, b, target):
        found = iterate(self, b, target)
        asked.append(found[1])
        return found

    monkeypatch.setattr(MultigridFactors, "_conjugate_gradients", counted)
    b = rough(factors._a.shape[0])
    factors.solve(b)
    n_solve, asked[:] = sum(asked), []
    factors.squared_norms(b)
    assert 0 < 2 * sum(asked) <= n_solve + 1


def test_a_norm_that_multigrid_does_not_reach_is_an_error():
    factors = Multigrid(max_iterations=1).factorise(matrix_of(poisson()), symmetric=True)
    with pytest.raises(pddlvm.ConvergenceError, match="multigrid did not converge"):
        factors.squared_norms(rough(factors._a.shape[0]))


@pytest.mark.parametrize("solver", GENERAL)
@pytest.mark.parametrize("trans", ["N", "T"])
def test_advection_is_solved_and_its_transpose(solver, trans):
    matrix = matrix_of(poisson())
    n = matrix.shape[0]
    skew = sp.diags([0.05, -0.05], [1, -1], shape=(n, n))
    matrix, b = sp.csc_matrix(matrix + skew), rough(n)
    x = solver().factorise(matrix, symmetric=False).solve(b, trans)
    assert misfit(matrix if trans == "N" else matrix.T, x, b) < 1e-10


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_a_copy_gives_the_same_solutions(solver, way):
    matrix = matrix_of(poisson(5))
    factors = solver().factorise(matrix, symmetric=True)
    b = rough(matrix.shape[0])
    # Made of the same numbers by the same steps; MKL may share the work among threads.
    np.testing.assert_allclose(way(factors).solve(b), factors.solve(b), rtol=1e-12)


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_units_change_nothing(solver, unit):
    matrix = matrix_of(poisson(8))
    b, both = rough(matrix.shape[0]), []
    for a in (matrix, sp.csc_matrix(matrix * unit)):
        both.append(solver().factorise(a, symmetric=True).solve(b * (a[0, 0] / matrix[0, 0])))
    # Tolerance of the iterations times the condition number, 1e3.
    np.testing.assert_allclose(both[0], both[1], rtol=1e-8, atol=1e-9 * np.abs(both[0]).max())


@pytest.mark.parametrize("solver", [Multigrid(), SuperLU()])
def test_unknowns_of_other_units_are_solved(solver):
    """Displacements in metres and rotations beside each other, 12 orders apart."""
    matrix = matrix_of(poisson(8))
    d = sp.diags(np.where(np.arange(matrix.shape[0]) % 2, 1e6, 1e-6))
    b = rough(matrix.shape[0])
    found = solver.factorise(sp.csc_matrix(d @ matrix @ d), symmetric=True).solve(d @ b)
    assert misfit(matrix, d @ found, b) < 1e-9


def test_multigrid_has_few_iterations_on_any_mesh():
    """The near-nullspace is right: some 15 iterations, not hundreds."""
    for problem in (poisson(), block(), block(roller=False)):
        near, matrix = problem.form.near_nullspace, matrix_of(problem)
        few = Multigrid(max_iterations=25)
        factors = few.factorise(matrix, symmetric=True, near_nullspace=near)
        b = torch.from_numpy(rough(problem.n_free))
        assert factors._conjugate_gradients(b, 1e-11 * b.norm(dim=0))[1] <= 25


def test_rigid_motions_of_a_body_have_no_energy():
    problem = block()
    modes = problem.space.near_nullspace
    assert modes.shape[1] == 6
    # Round-off of entries of size one.
    assert np.abs(whole_of(problem) @ modes).max() < 1e-12


def test_nodes_keep_the_unknowns_that_are_left_of_them():
    near = block().form.near_nullspace
    size = np.bincount(near.nodes)
    assert set(size[size > 0]) == {2, 3}


@pytest.mark.parametrize("solver", DIRECT)
def test_direct_solvers_count_the_negative_eigenvalues(solver):
    matrix = matrix_of(poisson(5, square=60.0))
    found = solver().factorise(matrix, symmetric=True).definiteness()
    assert found.n_negative == int((np.linalg.eigvalsh(matrix.toarray()) < 0).sum()) > 1
    assert found.direction @ (matrix @ found.direction) < 0


@pytest.mark.parametrize("solver", ALL)
def test_positive_is_seen(solver):
    found = solver().factorise(matrix_of(poisson(5)), symmetric=True).definiteness()
    assert found.n_negative == 0
    assert not found.is_singular


@pytest.mark.parametrize("share", [1.01, 10.0])
def test_multigrid_sees_negative_curvature(share):
    """One eigenvalue that is hardly negative, in the iteration; several, in the coarsest matrix."""
    matrix, mass = matrix_of(poisson(5)), poisson(5).space.gram_matrices()[0]
    free = poisson(5).free_dofs
    mass = mass[free][:, free]
    least = eigvalsh(matrix.toarray(), mass.toarray())[0]
    matrix = sp.csc_matrix(matrix - share * least * mass)
    with pytest.raises(NotPositiveError, match=r"not positive definite.*SuperLU") as caught:
        Multigrid().factorise(matrix, symmetric=True).solve(rough(len(free)))
    p = caught.value.direction
    assert p @ (matrix @ p) < 0


@pytest.mark.parametrize("solver", DIRECT)
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_singular_matrix_is_an_error(solver, symmetric):
    with pytest.raises(SingularMatrixError):
        solver().factorise(sp.csc_matrix(np.diag([1.0, 2.0, 0.0])), symmetric=symmetric)


# What is taken


@pytest.mark.parametrize("solver", [SuperLU, Automatic, pytest.param(Pardiso, marks=needs_pardiso)])
def test_an_indefinite_matrix_without_good_pivots_on_its_diagonal_is_solved(solver):
    a = sp.random(200, 200, 0.05, random_state=0)
    a = sp.csc_matrix(a + a.T)
    a.setdiag(1e-12 * np.cos(np.arange(200)))
    b = rough(200)
    factors = solver().factorise(a, symmetric=True)
    # Without pivoting the misfit is some per cent.
    assert misfit(a, factors.solve(b), b) < 1e-11
    assert misfit(a, factors.solve(b), b) < 1e-11


@pytest.fixture
def large(monkeypatch):
    """All is large, and PARDISO is not there."""
    monkeypatch.setattr(automatic, "_FEW_UNKNOWNS", 0)
    monkeypatch.setattr(automatic, "_FEW", 0.0)
    monkeypatch.setattr(automatic, "has_pardiso", lambda: False)


def test_small_systems_are_solved_by_superlu_to_the_last_bit():
    matrix = matrix_of(poisson(8))
    b = rough(matrix.shape[0])
    one, two = (s.factorise(matrix, symmetric=True).solve(b) for s in (Automatic(), SuperLU()))
    assert (one == two).all()


def test_large_positive_systems_go_to_multigrid_and_others_do_not(large):
    positive, indefinite = matrix_of(poisson(8)), matrix_of(poisson(8, square=20.0))
    b = rough(positive.shape[0])
    factors = Automatic().factorise(positive, symmetric=True)
    factors.solve(b)
    assert factors._direct is None
    factors = Automatic().factorise(indefinite, symmetric=True)
    assert misfit(indefinite, factors.solve(b), b) < 1e-10
    assert factors._direct is not None
    assert not hasattr(Automatic().factorise(positive, symmetric=False), "_direct")


def test_what_multigrid_cannot_solve_is_factorised(large, monkeypatch):
    monkeypatch.setattr(automatic, "Multigrid", lambda: Multigrid(max_iterations=1))
    matrix, b = matrix_of(poisson(8)), rough(poisson(8).n_free)
    factors = Automatic().factorise(matrix, symmetric=True)
    assert misfit(matrix, factors.solve(b), b) < 1e-12


@pytest.mark.parametrize("n", [8, 20])
def test_entries_of_the_factors_are_predicted(n):
    matrix = matrix_of(poisson(n))
    factors = SuperLU().factorise(matrix, symmetric=True)
    # An order of magnitude is what a choice needs; its zeros make this pattern look denser.
    assert 1 / 2 < memory.predict_fill(matrix) / factors._lu.nnz < 6


# The whole problem


@pytest.mark.parametrize("solver", [Multigrid(), pytest.param(None, marks=needs_pardiso)])
def test_a_problem_is_solved_by_the_solver_it_is_given(solver):
    solver = solver or Pardiso()
    problem, plain = block(solver), block(SuperLU())
    z = plain.prior.sample((2,), seed=0)
    u, expected = problem.solve(z), plain.solve(z)
    # Newton's tolerance 1e-10 times the condition number of the scaled matrix, 1e3.
    assert (u - expected).norm() < 1e-7 * expected.norm()
    assert pickle.loads(pickle.dumps(solver)) == solver


def test_a_model_on_multigrid_is_that_on_superlu():
    z = poisson(8).prior.sample((3,), seed=1)
    means = []
    for solver in (SuperLU(), Multigrid()):
        problem = poisson(8, solver=solver)
        model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=4))
        means.append(model.refine(z).u)
    # Both are refined to 1e-10 in the energy.
    assert (means[0] - means[1]).norm() < 1e-8 * means[0].norm()


def test_an_indefinite_operator_is_refused_by_multigrid_in_words():
    problem = poisson(8, square=20.0, solver=Multigrid())
    with pytest.raises(pddlvm.ProblemError, match=r"at least 1 of its \d+ eigenvalues.*largest at"):
        definite.factorise_positive(problem, whole_of(problem))


def whole_of(problem: pddlvm.Problem) -> sp.csr_matrix:
    u = torch.zeros(1, problem.n_dofs).double()
    z = problem.prior.unstandardise(torch.zeros(1, problem.n_parameters).double())
    tangents = problem._exact.tangents(u, z)
    return problem.solver.assemble_unconstrained([t[0] for t in tangents]).tocsr()


# Newton's method with factors of a nearby matrix


class _Costly(SuperLUFactors):
    """Factors that are worth twenty solves."""

    n_worth = 20


@dataclass(frozen=True)
class _Counted(LinearSolver):
    made: list = field(default_factory=list)

    def factorise(self, matrix, **options):
        self.made.append(_Costly(matrix, symmetric=True))
        return self.made[-1]


def nonlinear(solver: LinearSolver) -> pddlvm.Problem:
    """-u'' + a u^3 = 30 on [0, 1]."""
    space = fem.Space(fem.interval(20))

    def density(u, du, x, a):
        return 0.5 * (du * du).sum() + 0.25 * a * u**4 - 30 * u

    return pddlvm.Problem(
        "cubic",
        space,
        terms=[pddlvm.Energy(space.interior(), density)],
        fields={"a": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0))},
        dirichlet=[pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right")],
        solver=solver,
    )


def test_newton_reuses_costly_factors_of_the_same_sample():
    solver = _Counted()
    z = torch.tensor([[0.6], [1.0], [1.9]], dtype=torch.float64)
    u = nonlinear(solver).solve(z)
    # Newton alone factorises some 15 times, once a step.
    assert len(solver.made) <= 8
    # The residual of both is 1e-10 of what it was at the start.
    torch.testing.assert_close(u, nonlinear(SuperLU()).solve(z), rtol=1e-8, atol=1e-9)
    # No matter what was solved before.
    assert torch.equal(u[2], nonlinear(_Counted()).solve(z[2:])[0])


def test_far_matrices_are_given_up_early():
    matrix = matrix_of(poisson(5))
    far = sp.csc_matrix(sp.diags(10.0 ** np.linspace(0, 6, matrix.shape[0])))
    factors = _Costly(far, symmetric=True)
    calls = []
    factors.solve = lambda b: calls.append(1) or SuperLUFactors.solve(factors, b)
    assert solve_nearby(matrix, factors, rough(matrix.shape[0], 1)[:, 0]) is None
    assert len(calls) <= 4


@needs_pardiso
def test_factors_by_pardiso_of_a_body_are_worth_many_solves():
    assert Pardiso().factorise(matrix_of(poisson(12)), symmetric=True).n_worth > 0
    assert Pardiso().factorise(matrix_of(poisson(5, square=60.0)), symmetric=True).n_worth == 0


# Errors


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [(pardiso, Pardiso, r"pddlvm\[pardiso\]"), (petsc, Petsc, r"pddlvm\[petsc\]")],
)
def test_what_is_not_installed_names_its_extra(module, make, extra, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(pddlvm.InputError, match=extra):
        make()


def test_multigrid_that_does_not_converge_says_the_residual_and_what_to_try():
    matrix = matrix_of(poisson(8))
    factors = Multigrid(max_iterations=2).factorise(matrix, symmetric=True)
    with pytest.raises(pddlvm.ConvergenceError, match=r"residual .*e-0.*expected 1.0e-11.*Pardiso"):
        factors.solve(rough(matrix.shape[0]))


def test_multigrid_refuses_what_is_not_symmetric():
    with pytest.raises(pddlvm.InputError, match="not symmetric; try"):
        Multigrid().factorise(sp.eye(3, format="csc"), symmetric=False)


@pytest.mark.parametrize("solver", DIRECT)
def test_too_little_memory_is_said_before_it_is_taken(solver, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1e3)
    monkeypatch.setattr("pddlvm.linalg.superlu._LARGE", 0)
    with pytest.raises(MemoryError, match=r"about .* GiB .*are free: try solver=pddlvm.linalg.Mul"):
        solver().factorise(matrix_of(poisson(5)), symmetric=True)


def test_a_string_is_no_solver():
    p = poisson(5)
    with pytest.raises(pddlvm.ProblemError, match=r"solver must be one of pddlvm\.linalg"):
        pddlvm.Problem(p.name, p.space, p.terms, p.fields, p.dirichlet, solver="multigrid")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tolerance": 0.0}, "tolerance must lie between 0 and 1"),
        ({"tolerance": "1e-8"}, "tolerance must lie between 0 and 1"),
        ({"max_iterations": 0}, "max_iterations must be an integer, at least 1"),
        ({"max_iterations": 2.5}, "max_iterations must be an integer, at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(pddlvm.InputError, match=message):
        Multigrid(**wrong)


def test_random_numbers_stay_as_they_were():
    before = str(np.random.get_state())  # noqa: NPY002
    Multigrid().factorise(matrix_of(poisson(5)), symmetric=True)
    assert str(np.random.get_state()) == before  # noqa: NPY002
