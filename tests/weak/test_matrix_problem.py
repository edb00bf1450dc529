"""Problems of given matrices are those that the matrices were assembled from."""

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import skfem
import torch
from scipy.linalg import eigh
from skfem.helpers import dot, grad

import pddlvm
from pddlvm import fem
from problems import helmholtz, stokes

N_BLOCKS, N = 3, 12
NAMES = ("left", "middle", "right")
PRIOR = pddlvm.Uniform(0.1, 1.0)


@pytest.fixture(scope="module")
def block():
    """The thermal block with a field for each block, so that draws of z are the same."""
    x = fem.unit_square(N)
    parts = {name: _inside(q) for q, name in enumerate(NAMES)}
    space = fem.Space(x.with_subdomains(parts))
    return pddlvm.Problem(
        "blocks",
        space,
        [
            *(pddlvm.Energy(space.interior(name), DIFFUSION[name]) for name in NAMES),
            pddlvm.Energy(space.interior(), lambda u, du, x: -u),
        ],
        {name: pddlvm.Constant(PRIOR) for name in NAMES},
        [pddlvm.Dirichlet(None)],
    )


def _inside(q):
    return lambda x: (x[0] * N_BLOCKS).astype(int) == q


DIFFUSION = {
    "left": lambda u, du, x, left: 0.5 * left * (du * du).sum(),
    "middle": lambda u, du, x, middle: 0.5 * middle * (du * du).sum(),
    "right": lambda u, du, x, right: 0.5 * right * (du * du).sum(),
}


@pytest.fixture(scope="module")
def assembled(block):
    """Stiffness of each block and the load, by scikit-fem itself."""
    mesh = block.space.mesh
    form = skfem.BilinearForm(lambda u, v, _: dot(grad(u), grad(v)))
    x = mesh.p[0, mesh.t].mean(axis=0)
    matrices = []
    for q in range(N_BLOCKS):
        cells = np.flatnonzero((x * N_BLOCKS).astype(int) == q)
        part = skfem.CellBasis(mesh, skfem.ElementTriP1(), elements=cells)
        matrices.append(form.assemble(part))
    whole = skfem.CellBasis(mesh, skfem.ElementTriP1())
    return matrices, skfem.LinearForm(lambda v, _: 1.0 * v).assemble(whole)


def both(z):
    return z


def problem_of(block, a, f, **changes):
    given = {
        "matrices": a,
        "loads": [f],
        "parameters": dict.fromkeys(NAMES, PRIOR),
        "theta": both,
        "space": block.space,
        "dirichlet": block.dirichlet,
    }
    return pddlvm.MatrixProblem("given", **given | changes)


@pytest.fixture(scope="module")
def given(block, assembled):
    matrices, load = assembled
    return problem_of(block, matrices, load)


def test_solutions_and_residuals_are_those_of_the_weak_form(block, given):
    z = block.prior.sample((5,), seed=0)
    u = torch.randn(5, block.n_dofs, dtype=torch.float64)
    assert torch.allclose(given.residual(u, z), block.residual(u, z), atol=1e-12)
    assert torch.allclose(given.solve(z), block.solve(z), atol=1e-12)
    assert torch.allclose(given.energy_norm(u), block.energy_norm(u))


@pytest.fixture(scope="module")
def models(block, given):
    basis = pddlvm.ResidualEnriched(n_modes=4)
    pair = [pddlvm.LatentVariableModel(p, basis=basis) for p in (block, given)]
    for model in pair:
        pddlvm.train(model, max_steps=30)
    return pair


@pytest.mark.slow
def test_the_basis_is_as_good(models):
    z = models[0].problem.prior.sample((50,), seed=1)
    u = models[0].problem.solve(z)
    errors = [(m.forward(z, corrections=1).mean - u).norm(dim=1) / u.norm(dim=1) for m in models]
    assert torch.allclose(*(e.mean() for e in errors), rtol=1e-6, atol=1e-10)


def test_posteriors_are_the_same(models):
    found = []
    for model in models:
        z = torch.tensor([0.3, 0.7, 0.5], dtype=torch.float64)
        at = [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25]]
        obs = pddlvm.PointObservation(model.problem, at, noise_std=1e-3)
        y = obs.apply(model.problem.solve(z))
        found.append(model.infer(y, obs, method="laplace"))
    for name in ("mean", "std"):
        one, other = (getattr(posterior, name) for posterior in found)
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-6)


def test_bounds_hold(models, block, given):
    z = given.prior.sample((20,), seed=2)
    forward = models[1].forward(z, corrections=1)
    error = given.energy_norm(forward.mean - given.solve(z))
    lower, upper = forward.error_interval
    known = 1e-12 * given.energy_norm(forward.mean)
    assert (lower <= error + known).all() and (error <= upper).all()
    for one, other in zip(given.coercivity(z), block.coercivity(z), strict=True):
        assert torch.allclose(one, other, rtol=1e-6)


def random_psd(n, seed):
    """A matrix with positive entries off its diagonal: no sum of positive squares of its graph."""
    b = sp.random(n, n, 0.2, random_state=seed, format="csr")
    return b @ b.T


def exponentials(z):
    return z.exp()


def test_matrices_of_any_kind_and_of_several_loads():
    n = 20
    matrices = [random_psd(n, 0) + sp.eye(n), random_psd(n, 1)]
    loads = [np.ones(n), np.arange(n) / n]
    problem = pddlvm.MatrixProblem(
        "any",
        matrices,
        loads,
        {"a": pddlvm.Normal(), "b": pddlvm.Normal(0.0, 0.5)},
        theta=exponentials,
        phi=lambda z: torch.stack([z[..., 0], 1 + z[..., 1] ** 2], dim=-1),
    )
    z = problem.prior.sample((4,), seed=3)
    lower, upper = problem.coercivity(z)
    k0 = (matrices[0] + matrices[1]).toarray()
    for i, (a, b) in enumerate(z.numpy()):
        k = (np.exp(a) * matrices[0] + np.exp(b) * matrices[1]).toarray()
        f = a * loads[0] + (1 + b**2) * loads[1]
        assert np.allclose(problem.solve(z[i]), np.linalg.solve(k, f))
        values = eigh(k, k0, eigvals_only=True)
        assert lower[i] <= values[0] and values[-1] <= upper[i]
    model = pddlvm.LatentVariableModel(problem)
    pddlvm.train(model, max_steps=20)
    forward = model.forward(z)
    error = problem.energy_norm(forward.mean - problem.solve(z))
    assert (error <= forward.error_bound).all()


def test_there_is_no_bound_where_a_matrix_is_indefinite():
    n = 6
    mass, wave = sp.eye(n), sp.diags(np.where(np.arange(n) < 2, -1.0, 1.0))
    prior = {"a": pddlvm.Uniform(2.0, 3.0), "b": pddlvm.Uniform(0.1, 0.2)}
    problem = pddlvm.MatrixProblem("wave", [mass, wave], [np.ones(n)], prior, both)
    # The diagonal itself tells, point by point; of full matrices nothing is known.
    assert problem.coercivity is not None
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    full = [mass, sp.csr_matrix(turned @ wave.toarray() @ turned.T)]
    full[1] = 0.5 * (full[1] + full[1].T)
    assert pddlvm.MatrixProblem("full", full, [np.ones(n)], prior, both).coercivity is None


def test_files_are_read(block, assembled, given, tmp_path):
    (first, second, third), load = assembled
    sp.save_npz(tmp_path / "a.npz", sp.csr_matrix(first))
    scipy.io.mmwrite(tmp_path / "b.mtx", second)
    np.save(tmp_path / "f.npy", load)
    files = [tmp_path / "a.npz", str(tmp_path / "b.mtx"), third.toarray()]
    problem = problem_of(block, files, tmp_path / "f.npy")
    z = problem.prior.sample((2,), seed=0)
    assert torch.allclose(problem.solve(z), given.solve(z), atol=1e-12)


def test_files_are_not_executed(block, assembled, tmp_path):
    matrices, _ = assembled
    np.save(tmp_path / "f.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(pddlvm.ProblemError, match=r"load 0 .*f.npy cannot be read"):
        problem_of(block, matrices, tmp_path / "f.npy")


def spoilt(matrix, value):
    found = sp.lil_matrix(matrix)
    found[3, 5] = found[5, 3] = value
    return found


def replaced(matrix):
    """With the rows of two prescribed values, and not their columns."""
    found = sp.lil_matrix(matrix)
    found[[3, 4]] = sp.identity(found.shape[0], format="lil")[[3, 4]]
    return found


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a, f: {"matrices": [a, a[:-1], a]}, "matrix 1 .* must be square"),
        (lambda a, f: {"matrices": [a, a[:-1, :-1], a]}, "matrix 1 .* same unknowns"),
        (lambda a, f: {"matrices": [a, spoilt(a, np.nan)]}, "matrix 1 .* not finite"),
        (lambda a, f: {"matrices": [replaced(a), a]}, "matrix 0 .* 2 rows .* unknown 3"),
        (lambda a, f: {"inner_product": sp.triu(a)}, "inner product .* not symmetric"),
        (lambda a, f: {"inner_product": a[:-1, :-1]}, "inner product .* same unknowns"),
        (lambda a, f: {"matrices": [a, a * 1j]}, "matrix 1 .* real numbers"),
        (lambda a, f: {"matrices": [a, "no.npz"]}, "matrix 1 .* cannot be read"),
        (lambda a, f: {"matrices": [a, "no.txt"]}, "matrix 1 .* none of"),
        (lambda a, f: {"matrices": []}, "at least one matrix"),
        (lambda a, f: {"loads": [f, f[1:]]}, "load 1 .* rows"),
        (lambda a, f: {"loads": [f * np.inf]}, "load 0 .* not finite"),
        (lambda a, f: {"loads": ["text.npy"]}, "load 0 .* cannot be read"),
        (lambda a, f: {"theta": lambda z: z[..., :1]}, "theta .* expected"),
        (lambda a, f: {"theta": lambda a, b: a}, "theta .* cannot be evaluated"),
        (lambda a, f: {"phi": both}, "phi .* expected"),
        (lambda a, f: {"space": fem.Space(fem.unit_square(3))}, "space .* 16 degrees"),
    ],
)
def test_what_is_wrong_is_named(block, assembled, change, message):
    matrices, load = assembled
    with np.errstate(invalid="ignore"), pytest.raises(pddlvm.ProblemError, match=message):
        problem_of(block, matrices, load, **change(sp.csr_matrix(matrices[0]), load))


def test_unknowns_without_a_mesh_are_nodes_of_a_line(block, assembled, given):
    matrices, load = assembled
    held = [pddlvm.Dirichlet(fem.Nodes(block.fixed_dofs), 0.0)]
    problem = problem_of(block, matrices, load, space=None, dirichlet=held)
    assert np.array_equal(problem.fixed_dofs, block.fixed_dofs)
    z = problem.prior.sample((2,), seed=0)
    assert torch.allclose(problem.solve(z), given.solve(z), atol=1e-12)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=4))
    assert model.forward(z, corrections=1).mean.shape == (2, problem.n_dofs)


# --- matrices that are not symmetric, or not positive ---------------------------------------------


def carried(u, du, x, b, k):
    return b * du[0] - 1.0, k * du


def of_parameters(problem, *values):
    """K on all degrees of freedom of a linear problem."""
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    rest = torch.zeros(1, problem.n_dofs, dtype=torch.float64)
    tangents = operators.tangents(rest, torch.tensor([values], dtype=torch.float64))
    return problem.solver.assemble_unconstrained([t[0] for t in tangents])


def load_of(problem, *values):
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    rest = torch.zeros(1, problem.n_dofs, dtype=torch.float64)
    blocks = problem.prior.split(torch.tensor([values], dtype=torch.float64))
    return -sum(term.residual(rest, blocks) for term in operators.terms)[0].numpy()


def advection():
    """The problem, and what it is made of."""
    space = fem.Space(fem.unit_square(10))
    priors = {"b": pddlvm.Uniform(1.0, 8.0), "k": pddlvm.Uniform(0.5, 2.0)}
    fields = {name: pddlvm.Constant(prior) for name, prior in priors.items()}
    terms = [pddlvm.Flux(space.interior(), carried)]
    problem = pddlvm.Problem("advection", space, terms, fields, [pddlvm.Dirichlet(None)])
    matrices = [of_parameters(problem, 1.0, 0.0), of_parameters(problem, 0.0, 1.0)]
    same = pddlvm.MatrixProblem(
        "given",
        matrices,
        [load_of(problem, 1.0, 1.0)],
        priors,
        both,
        space=space,
        dirichlet=problem.dirichlet,
    )
    return problem, same


def waves():
    """A wave of a wave number between two resonances, in the norm of its gradient."""
    problem = helmholtz.make(5)
    k0, moved = (of_parameters(problem, k2, 1.0, 1.0) for k2 in (0.0, 1.0))
    loads = [load_of(problem, 30.0, 1.0, 0.0), load_of(problem, 30.0, 0.0, 1.0)]
    same = pddlvm.MatrixProblem(
        "given",
        [k0, moved - k0],
        loads,
        {"k2": pddlvm.Uniform(24.0, 45.0), **dict.fromkeys("ab", pddlvm.Uniform(0.5, 1.5))},
        theta=lambda z: torch.stack([torch.ones_like(z[..., 0]), z[..., 0]], dim=-1),
        phi=lambda z: z[..., 1:],
        space=problem.space,
        dirichlet=problem.dirichlet,
        inner_product=k0,
    )
    return problem, same


@pytest.fixture(scope="module", params=[advection, waves], ids=lambda f: f.__name__)
def pair(request):
    return request.param()


def test_operators_of_any_kind_are_those_of_the_weak_form(pair):
    problem, same = pair
    z = problem.prior.sample((4,), seed=0)
    u = torch.randn(4, problem.n_dofs, dtype=torch.float64)
    assert torch.allclose(same.residual(u, z), problem.residual(u, z), atol=1e-12)
    assert torch.allclose(same.solve(z), problem.solve(z), rtol=1e-9, atol=1e-12)
    assert not same.has_potential or same.coercivity is None


def test_models_of_any_kind_are_those_of_the_weak_form(pair):
    found, z = [], pair[0].prior.sample((20,), seed=1)
    u = pair[0].solve(z)
    for problem in pair:
        model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=3))
        error = (model.forward(z, corrections=1).mean - u).norm(dim=1) / u.norm(dim=1)
        sensors = [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25]]
        observation = pddlvm.PointObservation(problem, sensors, noise_std=1e-3)
        y = observation.apply(u[0])
        posterior = model.infer(y, observation, method="laplace")
        found.append((model.covariance, error, posterior.mean, posterior.std))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-6)


def stokes_of(**options):
    """A saddle point of two blocks of a viscosity, on the unknowns that are free, with its norm."""
    problem = stokes.make_channel(3)
    centre = torch.zeros(1, problem.n_parameters, dtype=torch.float64)
    z0 = problem.prior.unstandardise(centre)[0].tolist()
    free = problem.free_dofs
    k = sp.csr_matrix(of_parameters(problem, *z0)[free][:, free])
    is_p = free >= next(iter(problem.fields_of_u.values())).stop
    own = sp.diags((~is_p).astype(float)) @ k @ sp.diags((~is_p).astype(float))
    load = load_of(problem, *z0)[free]
    lift = np.zeros(problem.n_dofs)
    lift[problem.fixed_dofs] = problem.solve(torch.tensor(z0))[problem.fixed_dofs]
    load = load - of_parameters(problem, *z0)[free] @ lift
    mass = problem.space.gram_matrices()[0][free][:, free].multiply(np.outer(is_p, is_p))
    given = pddlvm.MatrixProblem(
        "saddle",
        [own, k - own],
        [load],
        {"nu": pddlvm.Uniform(0.5, 2.0)},
        theta=lambda z: torch.cat([z, torch.ones_like(z)], dim=-1),
        **({"inner_product": own + mass} if options else {}),
    )
    return given, k, own, load


def test_a_saddle_point_has_a_model_in_the_norm_that_is_given():
    problem, k, own, load = stokes_of(norm=True)
    z = problem.prior.sample((3,), seed=0)
    for one in z:
        exact = sp.linalg.spsolve((k + (float(one) - 1) * own).tocsc(), load)
        assert np.allclose(problem.solve(one), exact, rtol=1e-8, atol=1e-10)
    model = pddlvm.LatentVariableModel(problem)
    forward, u = model.forward(z, corrections=1), problem.solve(z)
    assert (model.norm(forward.mean - u) < 1e-4 * model.norm(u)).all()
    known = 1e-9 * model.norm(u)
    assert (model.norm(forward.mean - u) <= forward.error_bound + known).all()


def test_a_saddle_point_without_a_norm_asks_for_one():
    problem = stokes_of()[0]
    with pytest.raises(pddlvm.ProblemError, match=r"not positive.*inner_product="):
        pddlvm.LatentVariableModel(problem)
    indefinite = pddlvm.MatrixProblem(
        "given",
        [sp.identity(4)],
        [np.ones(4)],
        {"a": pddlvm.Uniform(1.0, 2.0)},
        both,
        inner_product=sp.diags([1.0, 1.0, 1.0, -1.0]),
    )
    with pytest.raises(pddlvm.ProblemError, match=r"inner product .* not positive"):
        pddlvm.LatentVariableModel(indefinite)
