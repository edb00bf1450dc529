"""Training: repeatable, improving, and stopping cleanly when something goes wrong."""

import pytest
import torch
from torch import nn

import pddlvm
from problems import poisson


def small_model(seed: int = 0, **options) -> pddlvm.LatentVariableModel:
    options.setdefault("basis", pddlvm.ResidualEnriched(n_modes=8))
    return pddlvm.LatentVariableModel(poisson.make(6, n_terms=2), seed=seed, **options)


def weights(model: pddlvm.LatentVariableModel) -> torch.Tensor:
    maps = (model.forward_map, model.inverse_map)
    return torch.cat([p.detach().flatten() for m in maps for p in m.parameters()])


def test_a_limit_in_steps_is_repeatable():
    first, second = small_model(), small_model()
    for model in (first, second):
        pddlvm.train(model, max_steps=15, calibrate=False)
    assert torch.equal(weights(first), weights(second))


def test_another_seed_gives_other_draws():
    first, second = small_model(), small_model()
    pddlvm.train(first, max_steps=5, seed=1, calibrate=False)
    pddlvm.train(second, max_steps=5, seed=2, calibrate=False)
    assert not torch.equal(weights(first), weights(second))


def test_global_random_state_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    pddlvm.train(small_model(), max_steps=2, calibrate=False)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.slow
def test_the_bound_and_the_solutions_improve():
    model = small_model()
    z = model.problem.prior.sample((20,), seed=5)
    u = model.problem.solve(z)

    def error() -> float:
        return float(((model.forward(z).mean - u).norm(dim=1) / u.norm(dim=1)).mean())

    before = error()
    result = pddlvm.train(model, max_steps=300, calibrate=False)
    assert result.history[-1]["elbo"] > result.history[0]["elbo"]
    assert set(result.history[0]) == {"step", "seconds", "stage", "elbo"}
    assert result.n_steps == 300
    # Untrained the mean is near zero (error 1); 300 steps reach a few per cent.
    assert before > 0.5 and error() < 0.1


def test_time_limits_the_whole_call():
    model = pddlvm.LatentVariableModel(poisson.make_1d())
    result = pddlvm.train(model, max_seconds=1.0, calibrate=False)
    # One step may overrun; generous, because machines are shared.
    assert result.seconds < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "max_seconds"),
        ({"max_seconds": 0}, "positive"),
        ({"max_steps": -1}, "positive"),
        ({"max_steps": 1, "batch_size": 0}, "batch_size"),
        ({"max_steps": 1, "device": "abacus"}, "cannot be used here"),
        ({"max_steps": 1, "device": "cuda:77"}, "cannot be used here"),
        ({"max_steps": 1, "device": "meta"}, "cannot be used here"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    model = pddlvm.LatentVariableModel(poisson.make_1d())
    with pytest.raises(pddlvm.InputError, match=message):
        pddlvm.train(model, **arguments)


class Breaking(nn.Module):
    """Returns NaN from its n-th call on."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 16)
        self.calls_left = n

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls_left -= 1
        mean, log_variance = self.layer(x).chunk(2, dim=-1)
        return (mean if self.calls_left >= 0 else mean * torch.nan), log_variance


def test_a_run_that_goes_non_finite_stops_and_keeps_the_last_good_state():
    model = small_model(forward_network=Breaking(25), basis=pddlvm.EnergyModes(8))
    with pytest.raises(pddlvm.NonFiniteError, match="forward map"):
        pddlvm.train(model, max_steps=100, calibrate=False)
    assert torch.isfinite(weights(model)).all()


def test_progress_is_shown_on_request(capsys):
    pddlvm.train(small_model(), max_steps=12, progress=True, calibrate=False)
    shown = capsys.readouterr().err
    assert "elbo" in shown and "100%" in shown


def test_an_own_module_serves_as_forward_network():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 8))
            self.log_variance = nn.Parameter(torch.full((8,), -6.0))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.mean(x), self.log_variance.expand(len(x), -1)

    model = small_model(forward_network=Own(), basis=pddlvm.EnergyModes(8))
    before = weights(model)
    result = pddlvm.train(model, max_steps=60, calibrate=False)
    assert result.history[-1]["elbo"] > result.history[0]["elbo"]
    assert not torch.equal(weights(model), before)


def test_history_goes_forward_and_ends_with_the_last_step():
    history = pddlvm.train(small_model(), max_steps=25, calibrate=False).history
    assert [row["step"] for row in history] == [0, 10, 20, 25]
    seconds = [row["seconds"] for row in history]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_auto_takes_a_device_that_exists():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    result = pddlvm.train(small_model(), max_steps=1, device="auto", calibrate=False)
    assert result.device.type == expected


@pytest.mark.parametrize("n", [1, 11, 37])
def test_a_broken_inverse_map_stops_the_run_too(n):
    # Whatever the step: the check looks at every tenth, and whatever comes between must not pass.
    class BreakingInverse(Breaking):
        def __init__(self) -> None:
            super().__init__(n)
            self.layer = nn.Linear(8 + 1, 4)

    model = small_model(inverse_network=BreakingInverse(), basis=pddlvm.EnergyModes(8))
    with pytest.raises(pddlvm.NonFiniteError, match="inverse map"):
        pddlvm.train(model, max_steps=45, calibrate=False)
    assert torch.isfinite(weights(model)).all()
