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


def spoilt(matrix, value, symmetric=True):
    found = sp.lil_matrix(matrix)
    found[3, 5] = value
    if symmetric:
        found[5, 3] = value
    return found


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a, f: {"matrices": [a, a[:-1], a]}, "matrix 1 .* must be square"),
        (lambda a, f: {"matrices": [a, a[:-1, :-1], a]}, "matrix 1 .* same unknowns"),
        (lambda a, f: {"matrices": [a, spoilt(a, np.nan)]}, "matrix 1 .* not finite"),
        (lambda a, f: {"matrices": [spoilt(a, 2.0, False), a]}, "matrix 0 .* not symmetric"),
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
