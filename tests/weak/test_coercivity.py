"""Bounds of K(z) against K0 from the physics at points enclose the eigenvalues of the matrices."""

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

import pddlvm
from pddlvm import fem, links
from pddlvm.weak import coercivity
from problems import nonlinear_poisson, poisson, shell


def diffusion(u, du, x, k):
    return 0.5 * k * (du * du).sum()


def load(u, du, x):
    return -u


def elastic(u, du, x, k, shear):
    strain = 0.5 * (du + du.T)
    return 0.5 * k * torch.trace(strain) ** 2 + shear * (strain * strain).sum() - u[1]


def robin(u, du, x, h):
    return 0.5 * h * u**2


def elasticity(degree):
    space = fem.Space(fem.unit_square(3), degree=degree, n_components=2)
    fields = {
        "k": pddlvm.KarhunenLoeve.on(space, 3, length=0.5, link=links.exp),
        "shear": pddlvm.Piecewise.on_blocks(space, (2, 1), prior=pddlvm.Uniform(0.5, 2.0)),
    }
    terms = [pddlvm.Energy(space.interior(), elastic)]
    return pddlvm.Problem("plate", space, terms, fields, [pddlvm.Dirichlet("left")])


def heated():
    """Held by a Robin condition alone, whose coefficient is the extreme one."""
    space = fem.Space(fem.unit_square(4))
    fields = {
        "k": pddlvm.Constant(pddlvm.Uniform(0.9, 1.1)),
        "h": pddlvm.Constant(pddlvm.Uniform(0.1, 10.0)),
    }
    terms = [
        pddlvm.Energy(space.interior(), diffusion),
        pddlvm.Energy(space.interior(), load),
        pddlvm.Energy(space.boundary(), robin),
    ]
    return pddlvm.Problem("heated", space, terms, fields)


PROBLEMS = {
    "diffusion": lambda: poisson.make(6, n_terms=4),
    "elasticity": lambda: elasticity(1),
    # The default quadrature of these has negative weights.
    "elasticity of degree 2": lambda: elasticity(2),
    "Robin": heated,
    "shell": lambda: shell.make_roof(4),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_bounds_enclose_the_generalised_eigenvalues(name):
    problem = PROBLEMS[name]()
    free = problem.free_dofs
    k0 = problem.reference_stiffness[free][:, free].toarray()
    z = problem.prior.sample((6,), seed=0)
    lower, upper = problem.coercivity(z)
    zero = torch.zeros(problem.n_dofs, dtype=torch.float64)
    for i, one in enumerate(z):
        values = eigh(problem.solver.matrix(zero, one).toarray(), k0, eigvals_only=True)
        assert lower[i] <= values[0] and values[-1] <= upper[i]
        # The fields are smooth on the scale of the mesh, or constant on its parts.
        assert lower[i] > 0.3 * values[0] and upper[i] < 3 * values[-1]


def test_multiples_of_the_matrix_at_the_centre_need_no_eigenvalues(monkeypatch):
    multiple, other = poisson.make(6, n_terms=4), elasticity(2)
    z = multiple.prior.sample((6,), seed=0)
    expected = [multiple.coercivity(z)]
    eigenvalues = torch.linalg.eigvalsh
    with monkeypatch.context() as patch:
        patch.setattr(coercivity, "_MULTIPLE", -1.0)
        expected.append(multiple.coercivity(z))
    for fast, slow in zip(*expected, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=0)
    asked = []

    def counted(a):
        asked.append(len(a))
        return eigenvalues(a)

    monkeypatch.setattr(torch.linalg, "eigvalsh", counted)
    multiple.coercivity(z)
    assert not asked
    other.coercivity(other.prior.sample((2,), seed=0))
    assert asked == [2]


def test_one_coefficient_is_its_own_bound(poisson_1d):
    z = poisson_1d.prior.sample((5,), seed=0)
    kappa = links.softplus(z[:, 0]) / np.log(2.0)
    for found in poisson_1d.coercivity(z):
        assert torch.allclose(found, kappa, rtol=1e-8)


def scalar(function, prior):
    space = fem.Space(fem.unit_square(4))
    terms = [pddlvm.Energy(space.interior(), function), pddlvm.Energy(space.interior(), load)]
    return pddlvm.Problem("scalar", space, terms, {"k": pddlvm.Constant(prior)}, FIXED)


FIXED = [pddlvm.Dirichlet(None)]


def wave(u, du, x, k):
    return 0.5 * (du * du).sum() - 0.5 * k * u**2


def stiffening(u, du, x, k):
    return 0.5 * k * (du * du).sum() + u**4


def test_there_is_none_where_the_argument_does_not_hold():
    prior = pddlvm.Uniform(1.0, 2.0)
    assert scalar(stiffening, prior).coercivity is None
    assert nonlinear_poisson.make_advection_diffusion(4).coercivity is None
    assert scalar(wave, prior).coercivity is None


def crosswise(u, du, x, k):
    return 0.5 * du[0] ** 2 + 0.5 * k**2 * du[1] ** 2


@pytest.mark.parametrize(
    "function, good, bad", [(diffusion, 0.5, -0.5), (crosswise, 0.0, 0.1)], ids=["sign", "range"]
)
def test_single_parameters_have_none(function, good, bad):
    """Where a coefficient is negative, or acts on what K0 does not see."""
    mean = 1.0 if function is diffusion else 0.0
    problem = scalar(function, pddlvm.Normal(mean, 1.0))
    lower, upper = problem.coercivity(torch.tensor([[good], [bad]], dtype=torch.float64))
    assert 0 < lower[0] <= upper[0] < torch.inf
    assert lower[1] == 0 and upper[1] == torch.inf


def test_the_energy_norm_is_that_of_the_stiffness_at_the_centre(poisson_2d):
    z0 = poisson_2d.prior.unstandardise(torch.zeros(1, 4, dtype=torch.float64))
    u = torch.randn(2, 3, poisson_2d.n_dofs, dtype=torch.float64)
    whole = poisson_2d.residual(u, z0[0]) - poisson_2d.residual(torch.zeros_like(u), z0[0])
    inside = u.clone()
    inside[..., poisson_2d.fixed_dofs] = 0
    k_inside = poisson_2d.residual(inside, z0[0]) - poisson_2d.residual(0 * u, z0[0])
    square = (inside[..., poisson_2d.free_dofs] * k_inside).sum(-1)
    assert torch.allclose(poisson_2d.energy_norm(inside), square.sqrt())
    # With boundary values as well: a constant has no energy at all.
    assert poisson_2d.energy_norm(torch.ones_like(u)).max() < 1e-6
    assert not torch.allclose(whole, k_inside)
    with pytest.raises(pddlvm.InputError, match="degrees of freedom"):
        poisson_2d.energy_norm(u[..., 1:])
