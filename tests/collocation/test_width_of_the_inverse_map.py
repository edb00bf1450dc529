"""Where the inverse map in strong form is wide, though the forward map tells more, it is said."""

import pytest
import torch

import pddlvm
from pddlvm.latent.widths import Widths, verdict_on_width

BOX = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))


def fed(u_t, u_xx, x, rate, source):
    """u_t = rate u_xx + source sin(2 pi x), from sin(pi x)."""
    return u_t - rate * u_xx - source * torch.sin(2 * torch.pi * x)


@pytest.fixture(scope="module")
def problem():
    return pddlvm.CollocationProblem(
        "fed",
        BOX,
        fed,
        fields={
            "rate": pddlvm.Constant(pddlvm.Uniform(0.05, 0.2)),
            "source": pddlvm.Constant(pddlvm.Uniform(0.0, 1.0)),
        },
        lift=lambda x: torch.sin(torch.pi * x),
        hard=[BOX.start("t"), BOX.start("x"), BOX.end("x")],
        grid=(12, 10),
        nodes=(12, 9),
    )


def trained(problem, n_steps):
    model = pddlvm.LatentVariableModel(
        problem, points=pddlvm.UniformPoints(64), n_functions=12, seed=0
    )
    result = pddlvm.train(model, max_steps=n_steps, calibrate=False)
    assert "inverse" not in result.verdict
    model.calibrate(64)
    return model


def test_a_short_training_is_told_to_go_on(problem, tmp_path):
    model = trained(problem, 40)
    assert model.inverse_verdict.startswith("refine: the error bar of z[")
    assert "train longer" in model.inverse_verdict
    u = problem.solve(problem.prior.sample((20,), seed=3))
    said = [text for text in model.inverse(u).verdict if not text.startswith("reject")]
    assert said
    assert all(text.startswith("refine") and "noise_std" in text for text in said)
    # What it says then: the forward map tells more.
    narrow = model.inverse(u, noise_std=1e-3)
    assert narrow.std.mean() < 0.3 * model.inverse(u).std.mean()
    model.save(tmp_path / "model.pt")
    assert pddlvm.load(tmp_path / "model.pt", problem).inverse_verdict == model.inverse_verdict


def test_the_end_of_a_training_says_it(problem):
    model = pddlvm.LatentVariableModel(
        problem, points=pddlvm.UniformPoints(64), n_functions=12, seed=0
    )
    assert model.inverse_verdict == "accept"
    result = pddlvm.train(model, max_steps=40)
    assert result.inverse_verdict == model.inverse_verdict
    assert result.inverse_verdict in result.verdict
    assert "error bar of z[" in result.verdict


def test_a_step_from_the_truth_errs_by_what_the_solutions_are_off(generator):
    slopes = torch.randn(200, 30, 2, generator=generator, dtype=torch.float64)
    errors = 0.01 * torch.randn(200, 30, generator=generator, dtype=torch.float64)
    # Nothing is seen of a third parameter.
    slopes = torch.cat([slopes, torch.zeros(200, 30, 1, dtype=torch.float64)], dim=-1)
    widths = Widths(3)
    widths.fit(torch.full((50, 3), 0.2), slopes, errors)
    # The covariance of least squares: 0.01^2 / (30 - 2 - 1).
    expected = 0.01 / 27**0.5
    torch.testing.assert_close(
        widths.told[:2], torch.full((2,), expected).double(), rtol=0.15, atol=0
    )
    assert widths.told[2] == 1


@pytest.mark.parametrize(
    ("std", "told", "accepted"),
    [
        ((0.05, 0.09), (1e-4, 1e-4), True),
        ((0.05, 0.2), (1e-4, 0.01), False),
        ((0.5, 0.9), (0.2, 0.4), True),
        ((0.5, 0.9), (0.1, 1.0), False),
    ],
)
def test_what_is_narrow_or_told_no_better_is_accepted(std, told, accepted):
    verdict = verdict_on_width(torch.tensor(std), torch.tensor(told, dtype=torch.float64))
    assert (verdict == "accept") == accepted
    if not accepted and std[1] == 0.2:
        assert "z[1] is 20 % of the spread of its prior" in verdict
        assert "tells it to 1 %" in verdict
