"""Parts of the amortised posteriors: compression of data, families, training loop."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import pddlvm
from pddlvm.amortized.amortized import Compression
from pddlvm.amortized.families import Diagonal, Flow, Full
from pddlvm.basics.files import read_content, write_content
from pddlvm.training.fit import Budget, fit
from problems import poisson


def test_compression_keeps_the_signal_and_drops_the_noise(generator):
    signal = torch.randn(4000, 1, generator=generator).double() * torch.tensor([[3.0, 4.0, 0.0]])
    noise = 0.1 * torch.randn(4000, 3, generator=generator).double()
    covariance = 0.01 * torch.eye(3).double()
    compression = Compression.of(1.0 + signal + noise, covariance)
    features = compression.of_data(1.0 + signal + noise)
    # One direction carries everything: unit variance there, next to nothing in the others.
    spread = features.std(0)
    assert spread[-1] == pytest.approx(1, abs=0.01)
    assert (spread[:-1] < 0.3).all()
    misfit = compression.of_misfit(0.1 * torch.tensor([[0.6, 0.8, 0.0]]).double())
    # One standard deviation of the noise along the signal: arsinh 1.
    assert float(misfit[0, -1].abs()) == pytest.approx(0.8814, abs=0.01)


@pytest.mark.parametrize("family", [Diagonal, Full, Flow])
def test_draws_have_the_density_of_their_family(family, generator):
    torch.manual_seed(0)
    prior = pddlvm.ParameterSpace({"a": pddlvm.parameters.space.Block(2, pddlvm.Normal(1.0, 2.0))})
    density = family(5, 2).density(torch.randn(1, 5, generator=generator), prior)
    with torch.no_grad():
        z = density.sample((20_000,), seed=0)[:, 0]
        # Integral of q over a box by importance, against the share of draws in it.
        low, high = z.quantile(0.2, dim=0), z.quantile(0.8, dim=0)
        box = low + (high - low) * torch.rand(20_000, 2, generator=generator).double()
        integral = density.log_prob(box[:, None]).exp().mean() * (high - low).prod()
    inside = ((z > low) & (z < high)).all(-1).double().mean()
    assert float(integral) == pytest.approx(float(inside), abs=0.02)


def test_fitting_finds_a_minimum_and_stops_in_time():
    weight = nn.Parameter(torch.zeros(3))
    target = torch.tensor([1.0, -2.0, 0.5])
    # The first optimiser of a process is slow: torch imports much for it.
    torch.optim.Adam([weight])
    history = fit(
        [weight],
        lambda: (weight - target).square().sum(),
        Budget(0.5, math.inf),
        rate=0.05,
        clip=1.0,
        name="w",
    )
    assert 0.4 < history[-1]["seconds"] < 2
    torch.testing.assert_close(weight.detach(), target, rtol=0, atol=1e-2)
    assert history[-1]["loss"] < 1e-3 < history[0]["loss"]


def test_fitting_stops_where_a_loss_is_not_finite():
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(pddlvm.NonFiniteError, match="of w stopped at step 0"):
        fit([weight], lambda: weight.sum() * torch.inf, Budget(1, 1), rate=0.1, clip=1.0, name="w")


POINTS = [-0.5, 0.0, 0.5]


@pytest.fixture(scope="module")
def line():
    model = pddlvm.LatentVariableModel(poisson.make_1d(8))
    pddlvm.train(model, max_steps=50, device="cpu")
    return model


@pytest.fixture(scope="module")
def sensors(line):
    return pddlvm.PointObservation(line.problem, POINTS, 0.01)


@pytest.mark.parametrize(
    "family", [Flow, *(pytest.param(f, marks=pytest.mark.slow) for f in (Diagonal, Full))]
)
def test_a_saved_density_is_the_same(family, line, sensors, tmp_path: Path):
    trained = line.amortize(sensors, family, max_steps=20)
    trained.save(tmp_path / "density.pt")
    y = torch.tensor([[0.1, 0.12, 0.1], [0.2, 0.25, 0.2]], dtype=torch.float64)
    before = line.infer(y, sensors, "amortized")
    same = pddlvm.PointObservation(line.problem, POINTS, 0.01)
    loaded = line.load_amortized(tmp_path / "density.pt", same)
    assert line.amortize(same) is loaded and repr(loaded) == repr(trained)
    after = line.infer(y, same, "amortized")
    torch.testing.assert_close(after.mean, before.mean, rtol=0, atol=0)
    torch.testing.assert_close(after.sample((9,), seed=1), before.sample((9,), seed=1))


def test_a_density_far_from_the_prior_is_read_as_it_was_saved(line, sensors, tmp_path: Path):
    # As a training that was cut off may leave it.
    trained = line.amortize(sensors, Full, max_steps=1, seed=4)
    with torch.no_grad():
        for weights in trained.family.parameters():
            weights.mul_(1e3)
    trained.save(tmp_path / "far.pt")
    loaded = line.load_amortized(tmp_path / "far.pt", sensors)
    y = torch.full((1, sensors.n), 0.1, dtype=torch.float64)
    assert torch.equal(loaded(y).mean, trained(y).mean)


def test_steps_alone_make_a_training_repeatable(line, sensors):
    y = torch.tensor([[0.1, 0.12, 0.1]], dtype=torch.float64)
    first, second = (
        line.amortize(sensors, Full, max_steps=12, seed=seed)(y).mean for seed in (3, 3)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    trained = line.amortize(sensors, Full, max_steps=30, seed=3)
    # Three tenths for the estimate, the rest for the density.
    assert trained.n_steps == 30
    for limits in ({"max_steps": 0}, {"max_seconds": 0.0}):
        with pytest.raises(pddlvm.InputError, match="must be a positive number"):
            line.amortize(sensors, **limits)


def test_a_density_of_something_else_is_refused(line, sensors, tmp_path: Path):
    path = tmp_path / "density.pt"
    line.amortize(sensors, Full, max_steps=20).save(path)
    p = line.problem
    for other in (
        pddlvm.PointObservation(p, [-0.5, 0.0, 0.6], 0.01),
        pddlvm.PointObservation(p, POINTS, 0.02),
        pddlvm.PointObservation(p, POINTS, pddlvm.StudentT(0.01, 3)),
        pddlvm.PointObservation(p, POINTS[:2], 0.01),
    ):
        with pytest.raises(pddlvm.RunFileError, match="other sensors"):
            line.load_amortized(path, other)
    untrained = pddlvm.LatentVariableModel(poisson.make_1d(8), seed=3)
    with pytest.raises(pddlvm.RunFileError, match="another model"):
        untrained.load_amortized(path, pddlvm.PointObservation(untrained.problem, POINTS, 0.01))
    line.save(path)
    with pytest.raises(pddlvm.RunFileError, match="no amortised posterior"):
        line.load_amortized(path, sensors)


CHANGES = {
    "weight": lambda c: c["density"]["network.6.bias"],
    "estimate": lambda c: c["estimate"]["network.6.bias"],
    "compression": lambda c: c["compression"]["matrix"],
}


@pytest.mark.parametrize("part", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("has_digest", [False, True], ids=["as it is", "written anew"])
def test_a_density_that_says_something_else_is_refused(
    line, sensors, part, has_digest, tmp_path: Path
):
    path = tmp_path / "density.pt"
    line.amortize(sensors, Full, max_steps=20).save(path)
    content = read_content(path) if has_digest else torch.load(path, weights_only=True)
    part(content).view(-1)[0] += 1
    write = write_content if has_digest else torch.save
    write(content, path)
    with pytest.raises(pddlvm.RunFileError, match="damaged"):
        line.load_amortized(path, sensors)


def test_a_family_of_ones_own_cannot_be_saved(line, sensors, tmp_path: Path):
    class Mine(Full):
        pass

    with pytest.raises(pddlvm.InputError, match="not Mine"):
        line.amortize(sensors, Mine, max_steps=20).save(tmp_path / "density.pt")
