"""Likelihoods of a zero residual against dense multivariate normals, up to their constants."""

from dataclasses import replace

import pytest
import torch
import waves
from torch.distributions import MultivariateNormal

import pddlvm
from pddlvm import fem
from pddlvm.galerkin import covariances
from pddlvm.galerkin.covariances import Scales, default_covariance
from pddlvm.latent.size import LogQuadratic
from pddlvm.reduced.interpolated import Interpolated
from pddlvm.reduced.reduction import reduce
from pddlvm.reduced.representation import Units
from pddlvm.reduced.solving import solve_reduced
from problems import nonlinear_poisson, poisson

TOLERANCE = 0.3
COVARIANCES = [pddlvm.EnergyNorm, pddlvm.Whitened, pddlvm.Isotropic]


def diffusion(u, du, x, kappa):
    return 0.5 * kappa * (du * du).sum()


def load(u, du, x, f):
    return -f * u


def line(n: int = 6) -> pddlvm.Problem:
    """-(kappa u')' = f with a random kappa(x), load and end value: linear, affine, d = 4."""
    space = fem.Space(fem.interval(n))
    return pddlvm.Problem(
        "line",
        space,
        terms=[pddlvm.Energy(space.interior(), diffusion), pddlvm.Energy(space.interior(), load)],
        fields={
            "kappa": pddlvm.Piecewise.on_blocks(space, (2,), prior=pddlvm.LogNormal(0.0, 0.5)),
            "f": pddlvm.Constant(pddlvm.Normal(1.0, 0.2)),
            "g": pddlvm.Constant(pddlvm.Uniform(-1.0, 1.0)),
        },
        dirichlet=[pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right", lambda x, g: g)],
    )


def transport() -> pddlvm.Problem:
    space = fem.Space(fem.interval(6))
    return pddlvm.Problem(
        "transport",
        space,
        terms=[pddlvm.Flux(space.interior(), lambda u, du, x, s: (s * du[0] - 1.0, du))],
        fields={"s": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))},
        dirichlet=[pddlvm.Dirichlet(None)],
    )


class Case:
    """Coefficients c, parameters z and sizes that depend on z."""

    def __init__(self, problem: pddlvm.Problem, basis) -> None:
        self.problem = problem
        # In the units of the problem, like the full operator.
        reduction = replace(reduce(problem, basis), units=Units())
        self.reduced = reduction.model(problem, torch.float64)
        self.v = torch.from_numpy(reduction.v)
        generator = torch.Generator().manual_seed(0)
        self.xi = problem.prior.sample_standard((5,), generator=generator)
        self.z = problem.prior.unstandardise(self.xi)
        self.c = torch.randn(2, 5, self.reduced.n_modes, generator=generator).double()
        amplitude, energy = (LogQuadratic(problem.n_parameters).double() for _ in range(2))
        for scale in (amplitude, energy):
            scale.coefficients = 0.3 * torch.randn(
                scale.coefficients.shape, generator=generator, dtype=torch.float64
            )
        self.scales = Scales(amplitude, energy, force=0.7)

    def gain(self, covariance) -> torch.Tensor:
        """log p(r^ = 0 | c_0, z) - log p(r^ = 0 | c_1, z), in which constants cancel."""
        log_prob = covariance(TOLERANCE).likelihood(
            self.reduced, Interpolated(self.reduced), self.scales
        )
        return log_prob(self.c[0], self.z, self.xi) - log_prob(self.c[1], self.z, self.xi)

    def residuals(self) -> torch.Tensor:
        """Full residuals of both states, (2, 5, n_free)."""
        u = torch.stack([self.reduced.representation.expand(c, self.z) for c in self.c])
        return self.problem.residual(u, self.z)

    def stiffness(self) -> torch.Tensor:
        """K(z) from the reference solver, (5, n_free, n_free)."""
        u = torch.zeros(self.problem.n_dofs, dtype=torch.float64)
        return torch.stack(
            [torch.from_numpy(self.problem.solver.matrix(u, z).toarray()) for z in self.z]
        )


@pytest.fixture(scope="module", params=["nodal", "modes"])
def case(request) -> Case:
    return Case(line(), pddlvm.Nodal() if request.param == "nodal" else pddlvm.EnergyModes(3))


def dense_gain(r: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    density = MultivariateNormal(torch.zeros_like(r[0]), covariance)
    return density.log_prob(r[0]) - density.log_prob(r[1])


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    # Float64 rounding times the condition number of a 5 x 5 stiffness matrix.
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_energy_norm_is_the_normal_with_the_stiffness_as_covariance(case):
    eps2 = TOLERANCE**2 * case.scales.energy(case.xi)
    covariance = eps2[:, None, None] * (case.v.T @ case.stiffness() @ case.v)
    close(case.gain(pddlvm.EnergyNorm), dense_gain(case.residuals() @ case.v, covariance))


def test_whitened_is_the_normal_with_the_reference_stiffness_as_covariance(case):
    # In K0-orthonormal coordinates V^T K0 V = I.
    eps = TOLERANCE * case.scales.amplitude(case.xi)
    identity = torch.eye(case.reduced.n_modes, dtype=torch.float64)
    covariance = eps[:, None, None] ** 2 * identity
    close(case.gain(pddlvm.Whitened), dense_gain(case.residuals() @ case.v, covariance))


def test_isotropic_is_the_normal_of_the_full_residual(case):
    identity = torch.eye(case.problem.n_free, dtype=torch.float64)
    covariance = (TOLERANCE * case.scales.force) ** 2 * identity
    close(case.gain(pddlvm.Isotropic), dense_gain(case.residuals(), covariance.expand(5, -1, -1)))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_likelihood_is_stationary_at_the_solution(covariance, case):
    if covariance is pddlvm.Isotropic and case.reduced.n_modes < case.problem.n_free:
        pytest.skip("in a small basis |r| and |V^T r| have different minimisers")
    log_prob = covariance(TOLERANCE).likelihood(
        case.reduced, Interpolated(case.reduced), case.scales
    )

    def gradient(c):
        c = c.clone().requires_grad_()
        return torch.autograd.grad(log_prob(c, case.z, case.xi).sum(), c)[0]

    zero = torch.zeros_like(case.c[0])
    # Rounding, relative to the gradient elsewhere, times the condition number of K.
    at_solution = gradient(solve_reduced(case.reduced, case.z))
    assert at_solution.abs().max() < 1e-11 * gradient(zero).abs().max()


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_ten_times_the_tolerance_is_a_hundred_times_less_likelihood(covariance, case):
    def gain(tolerance):
        log_prob = covariance(tolerance).likelihood(
            case.reduced, Interpolated(case.reduced), case.scales
        )
        return log_prob(case.c[0], case.z, case.xi) - log_prob(case.c[1], case.z, case.xi)

    close(gain(0.05), 100 * gain(0.5))


def test_energy_norm_refuses_flux_terms():
    with pytest.raises(pddlvm.ProblemError, match="Whitened"):
        pddlvm.LatentVariableModel(
            transport(), basis=pddlvm.Nodal(), covariance=pddlvm.EnergyNorm()
        )


def test_a_secant_gives_the_gradient_of_the_energy_norm():
    case = Case(nonlinear_poisson.make_quasilinear(5, 2), pddlvm.EnergyModes(6))
    log_prob = pddlvm.EnergyNorm(TOLERANCE).likelihood(
        case.reduced, Interpolated(case.reduced), case.scales
    )
    c = case.c[0].requires_grad_()
    (gradient,) = torch.autograd.grad(log_prob(c, case.z, case.xi).sum(), c)
    eps2 = TOLERANCE**2 * case.scales.energy(case.xi)
    close(gradient, -case.reduced.residual(c, case.z).detach() / eps2[:, None])


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (lambda: nonlinear_poisson.make_quasilinear(4, 2), pddlvm.EnergyNorm),
        (poisson.make_1d, pddlvm.EnergyNorm),
        (transport, pddlvm.Whitened),
    ],
)
def test_default_follows_the_potential(problem, kind):
    assert isinstance(default_covariance(problem(), is_dual=False), kind)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("tolerance", [0.0, -0.1, 1.0, float("nan"), float("inf")])
def test_impossible_tolerances_are_refused(covariance, tolerance):
    with pytest.raises(pddlvm.InputError, match="tolerance"):
        covariance(tolerance)


@pytest.mark.parametrize(("draws", "expected"), [(10, 64), (100, 64), (200, 128), (10_000, 256)])
def test_batches_are_as_large_as_their_physics_is_cheap(draws, expected, monkeypatch):
    model = pddlvm.LatentVariableModel(nonlinear_poisson.make_quasilinear(5, 2))
    monkeypatch.setattr(covariances, "_STRAINS_PER_STEP", draws * model.reduced.n_strains)
    assert model.batch_size == expected


def test_physics_that_no_step_evaluates_makes_no_batch_smaller(monkeypatch):
    assert pddlvm.LatentVariableModel(poisson.make_1d()).batch_size == 256
    problem = waves.helmholtz()
    reduction = reduce(problem)
    reduced = reduction.model(problem, torch.float64)
    monkeypatch.setattr(type(reduced), "n_strains", 10**9)
    sizes = LogQuadratic(problem.n_parameters).double()
    scales, few = Scales(sizes, sizes, force=1.0), Interpolated(reduced)
    found = (kind().likelihood(reduced, few, scales) for kind in (pddlvm.Dual, pddlvm.Natural))
    assert [likelihood.batch_size for likelihood in found] == [64, 256]
