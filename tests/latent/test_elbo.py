"""The noise-reduced ELBO against Pyro's own: same expectation, less noise, detached by default."""

import pytest
import torch
from pyro.infer import Trace_ELBO

import pddlvm
from pddlvm import fem
from pddlvm.latent.elbo import AntitheticELBO
from problems import poisson

BATCH = 64
N_DRAWS, MANY = 50, 320
"""Draws, and the batch of each."""


def diffusion(u, du, x, kappa):
    return 0.5 * kappa * (du * du).sum() - u


def quartic(u, du, x, kappa):
    return 0.5 * kappa * (du * du).sum() + 3 * u**4 - 10 * u


def line(density) -> pddlvm.Problem:
    """Three unknowns; two blocks of parameters where boundary values vary."""
    space = fem.Space(fem.interval(4))
    return pddlvm.Problem(
        "line",
        space,
        terms=[pddlvm.Energy(space.interior(), density)],
        fields={
            "kappa": pddlvm.Constant(pddlvm.LogNormal(0.0, 0.3)),
            "g": pddlvm.Constant(pddlvm.Uniform(0.5, 1.0)),
        },
        dirichlet=[pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right", lambda x, g: g)],
    )


PROBLEMS = {
    "one parameter": lambda: poisson.make_1d(4),
    "two blocks": lambda: line(diffusion),
    "nonlinear": lambda: line(quartic),
}


def make(problem: pddlvm.Problem, **options) -> pddlvm.LatentVariableModel:
    """A tiny model in float64 whose spread matters: a tolerance of one half.

    Its inverse map starts as the prior: an untrained one, given a u that no z has, would return
    large numbers, and their noise would hide everything else.
    """
    model = pddlvm.LatentVariableModel(
        problem,
        basis=pddlvm.Nodal(),
        covariance=pddlvm.EnergyNorm(0.5),
        dtype=torch.float64,
        **options,
    )
    torch.nn.init.zeros_(model.inverse_map.network.head.weight)
    return model


@pytest.fixture(scope="module")
def models() -> dict[str, pddlvm.LatentVariableModel]:
    return {name: make(problem()) for name, problem in PROBLEMS.items()}


def loss(
    model, kind=AntitheticELBO, *, draws: int = 0, noise: int = 0, batch: int = BATCH
) -> torch.Tensor:
    """One estimate, from parameters drawn with one seed and noise of u with another."""
    torch.manual_seed(noise)
    generator = torch.Generator().manual_seed(draws)
    return kind().differentiable_loss(model.model, model.guide, batch, generator)


def gradients(module: torch.nn.Module, value: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value, list(module.parameters()), retain_graph=True))


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.slow
def test_expectation_is_that_of_the_plain_estimator(name, models):
    with torch.no_grad():
        pairs = torch.tensor(
            [
                [
                    float(loss(models[name], kind, draws=i, noise=i, batch=MANY))
                    for i in range(N_DRAWS)
                ]
                for kind in (AntitheticELBO, Trace_ELBO)
            ]
        )
    # The same draws for both: the mean difference, in units of its own standard error.
    difference = pairs[0] - pairs[1]
    assert abs(difference.mean()) < 4 * difference.std() / N_DRAWS**0.5


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.slow
def test_gradient_has_the_expectation_of_the_plain_one(name, models):
    model = models[name]
    weight = model.forward_map.network.head.bias

    def samples(kind):
        values = [loss(model, kind, draws=i, noise=i, batch=MANY) for i in range(N_DRAWS)]
        return torch.stack([torch.autograd.grad(value, weight)[0] for value in values])

    difference = samples(AntitheticELBO) - samples(Trace_ELBO)
    error = difference.std(0) / N_DRAWS**0.5
    # 4.5 standard errors: a few outputs are looked at together.
    assert (difference.mean(0).abs() < 4.5 * error + 1e-12).all()


@pytest.mark.parametrize("name", ["one parameter", "two blocks"])
def test_mean_head_has_no_noise_for_a_linear_problem(name, models):
    model = models[name]
    head = model.forward_map.network.head
    m = model.reduced.n_modes
    one, two = (torch.autograd.grad(loss(model, noise=seed), head.bias)[0][:m] for seed in (1, 2))
    # Float64 rounding of sums over the batch.
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10 * float(one.norm()))


def test_spread_head_has_noise(models):
    # The counterpart of the test above: the two seeds do give other draws.
    model = models["one parameter"]
    head = model.forward_map.network.head
    m = model.reduced.n_modes
    one, two = (torch.autograd.grad(loss(model, noise=seed), head.bias)[0][m:] for seed in (1, 2))
    assert (one - two).norm() > 1e-3 * one.norm()


def test_mean_head_has_less_noise_than_with_the_plain_estimator_for_a_nonlinear_problem(models):
    model = models["nonlinear"]
    head, m = model.forward_map.network.head, model.reduced.n_modes

    def noise(kind):
        values = [loss(model, kind, noise=i) for i in range(20)]
        heads = torch.stack([torch.autograd.grad(v, head.bias)[0][:m] for v in values])
        return heads.std(0).norm()

    # A standard deviation of 20 draws is good to 16 %; the ratio is about one half.
    assert noise(AntitheticELBO) < 0.8 * noise(Trace_ELBO)


@pytest.mark.parametrize("name", PROBLEMS)
def test_loss_is_finite(name, models):
    assert torch.isfinite(loss(models[name]))


@pytest.mark.parametrize("batch", [1, 7, 9])
def test_any_batch_size_will_do(batch, models):
    # The spread is estimated on an eighth of the batch, rounded up.
    model = models["one parameter"]
    value = AntitheticELBO().differentiable_loss(model.model, model.guide, batch, None)
    assert torch.isfinite(value)


def forward_gradients(objective: str, shift: float) -> list[torch.Tensor]:
    """Gradients of the forward map while the inverse map's mean is shifted by some amount."""
    model = make(line(diffusion), objective=objective)
    head = model.inverse_map.network.head
    with torch.no_grad():
        head.weight[0] = 0.1  # of the mean of the first parameter: it reads u
        head.bias += shift
    return gradients(model.forward_map, loss(model))


def test_detached_inverse_term_does_not_reach_the_forward_map():
    # Bit for bit: the inverse map does not take part in the computation.
    pairs = zip(forward_gradients("detached", 0), forward_gradients("detached", 1), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_coupled_inverse_term_reaches_the_forward_map():
    pairs = zip(forward_gradients("coupled", 0), forward_gradients("coupled", 1), strict=True)
    assert any((one - two).norm() > 1e-3 * one.norm() for one, two in pairs)


@pytest.mark.parametrize("objective", ["detached", "coupled"])
def test_inverse_map_learns_in_either_objective(objective):
    model = make(line(diffusion), objective=objective)
    assert all(g.norm() > 0 for g in gradients(model.inverse_map.network.head, loss(model)))


def test_unknown_objective_is_refused():
    with pytest.raises(pddlvm.InputError, match="objective"):
        pddlvm.LatentVariableModel(poisson.make_1d(4), objective="joint")
