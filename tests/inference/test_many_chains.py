"""Chains of several densities side by side: each as it would be alone."""

import pytest
import torch

import pddlvm
from pddlvm.inference import of_each as of_each_module
from pddlvm.inference.laplace import laplace
from pddlvm.inference.surrogate_density import SurrogateDensity, SurrogateTarget, standardise
from pddlvm.parameters.space import Block
from pddlvm.sampling.charts import Charts
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.explore import begin, cautious, dispersed, explore
from pddlvm.sampling.hmc import StepSize
from pddlvm.sampling.local import LocalDensity
from pddlvm.sampling.nuts import nuts
from pddlvm.sampling.statistics import bulk_size, rhat
from problems import poisson

POINTS = [-0.6, -0.2, 0.2, 0.6]
PLACES = torch.linspace(-0.95, 0.95, 150, dtype=torch.float64)[:, None]


class Normals(LocalDensity):
    """Normal densities of eta, one each; the last two modes are those of a mixture, 1 to 3."""

    means = torch.tensor([[0.0, 1.0], [10.0, -5.0], [-4.0, 0.0], [4.0, 0.0]]).double()
    stds = torch.tensor([1.0, 0.01, 0.5, 0.5]).double()
    shares = torch.tensor([1.0, 1.0, 0.25, 0.75]).double()

    def __init__(self):
        prior = pddlvm.ParameterSpace({"z": Block(2, pddlvm.Normal())})
        # Coordinates that are a little off.
        factors = 1.2 * self.stds[:, None, None] * torch.eye(2).double()
        super().__init__(Coordinates(prior, self.means + 0.1 * self.stds[:, None], factors))
        self.left_for = []

    def value(self, w, mode):
        change = (self.coordinates.of(mode).eta(w) - self.means[mode]) / self.stds[mode][:, None]
        return (self.shares / self.stds**2)[mode].log() - 0.5 * change.square().sum(-1)

    def value_and_gradient(self, w, mode):
        with torch.enable_grad():
            at = w.detach().requires_grad_()
            value = self.value(at, mode)
            (gradient,) = torch.autograd.grad(value.sum(), at)
        return value.detach(), gradient

    def left_out(self, w, mode):
        self.left_for.append(len(w))
        return torch.zeros_like(w[:, 0])


def three():
    """Densities of one, one and two modes, for no chains."""
    return Charts(Normals(), [1, 1, 2], torch.zeros(0, dtype=torch.long))


def test_chains_of_several_densities_have_the_moments_of_each(generator):
    masses = [torch.ones(1), torch.ones(1), torch.tensor([0.5, 0.5])]
    target, w = begin(three(), [m.double() for m in masses], 16, generator)
    assert target.which.tolist() == [0] * 16 + [1] * 16 + [2] * 16
    visited, step = explore(target, w, 30, generator, torch.full((3,), 0.3).double(), cautious)
    assert visited.shape == (30, 48, 2) and step.shape == (3,)
    target, start = dispersed(target, visited[-1], 8, generator)
    draws = nuts(target, start, step.repeat_interleave(8), 150, generator)
    for k, own in enumerate(draws.unflatten(0, (3, 8))):
        assert (rhat(own) < 1.05).all()
        size = float(bulk_size(own).min())
        assert size > 100
        if k < 2:
            flat, std = own.flatten(0, 1), Normals.stds[k]
            torch.testing.assert_close(
                flat.mean(0), Normals.means[k], rtol=0, atol=4 * float(std) / size**0.5
            )
            torch.testing.assert_close(flat.std(0), std.expand(2), rtol=0.15, atol=0)
    # Chains of the third have jumped.
    share = float((draws[16:, :, 0] > 0).double().mean())
    assert share == pytest.approx(0.75, abs=0.1)


def test_no_chain_waits_for_the_slowest(generator):
    target = three().on(torch.arange(3).repeat_interleave(8))
    start = Normals.means[[0] * 8 + [1] * 8 + [2] * 8]
    calls = []
    at_once = target.local.value_and_gradient

    def counted(w, mode):
        calls.append(len(w))
        return at_once(w, mode)

    target.local.value_and_gradient = counted
    # Steps of a density that are a tenth of the others' take trajectories ten times as long.
    step = torch.tensor([1.0, 0.1, 1.0]).double().repeat_interleave(8)
    nuts(target, start, step, 20, generator)
    alone = target.on(torch.ones(8, dtype=torch.long))
    own_calls, calls[:] = len(calls), []
    nuts(alone, start[8:16], step[8:16], 20, generator)
    assert own_calls < 2.5 * len(calls)
    # What trajectories leave out is computed for many at once.
    assert max(target.local.left_for) > 8


@pytest.fixture(scope="module")
def model():
    model = pddlvm.LatentVariableModel(poisson.make_1d(8))
    pddlvm.train(model, max_steps=100)
    return model


NOISES = {
    "Gaussian": {"noise_std": 0.01},
    "heavy tails": {"noise_std": pddlvm.StudentT(0.01, len(POINTS))},
    "unknown level": {"noise_std": pddlvm.UnknownStd(0.01, 0.5, len(POINTS))},
    "model error": {"noise_std": 0.01, "model_error": pddlvm.ModelError(0.02, 0.3)},
    "many sensors": {"noise_std": 0.01, "points": PLACES},
}


@pytest.mark.parametrize("noise", NOISES)
def test_a_density_of_many_data_sets_is_that_of_each(model, noise, generator):
    sensors = pddlvm.PointObservation(model.problem, **{"points": POINTS, **NOISES[noise]})
    z = model.problem.prior.sample((3,), seed=1)
    y = (
        sensors.apply(model.problem.solve(z))
        + 0.01 * torch.randn(3, sensors.n, generator=generator).double()
    )
    y[1, 0] = torch.nan
    surrogate = model.surrogate(sensors, corrections=1)
    found = laplace(surrogate, y).coordinates
    many = SurrogateDensity(surrogate, y, found, torch.Generator().manual_seed(0))
    w = torch.randn(7, 1, generator=generator, dtype=torch.float64)
    mode = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    value, gradient = many.value_and_gradient(w, mode)
    left_out = many.left_out(w, mode)
    for k in range(3):
        alone = SurrogateTarget(surrogate, y[k], found.of(k), torch.Generator().manual_seed(0))
        rows = mode == k
        expected = alone.value_and_gradient(w[rows])
        torch.testing.assert_close(value[rows], expected[0], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(gradient[rows], expected[1], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(left_out[rows], alone.left_out(w[rows]), rtol=1e-4, atol=1e-4)


def test_corrections_that_fail_for_some_are_left_out_there(model):
    sensors = pddlvm.PointObservation(model.problem, POINTS, 0.01)
    y = sensors.apply(model.problem.solve(torch.tensor([[0.3], [0.3]]).double()))
    surrogate = model.surrogate(sensors, corrections=1)
    at_any = surrogate.mean
    surrogate.mean = lambda xi: torch.where(xi.abs() < 6, at_any(xi), torch.nan)
    # Nearly all draws around the second are out there.
    centre, factor = torch.tensor([[0.3], [0.0]]), torch.tensor([[[0.02]], [[1e6]]])
    coordinates = Coordinates(surrogate.prior, centre.double(), factor.double())
    many = SurrogateDensity(surrogate, y, coordinates, torch.Generator().manual_seed(0))
    assert many.is_fitted.tolist() == [True, False]
    w, mode = torch.tensor([[0.5], [3e-7]]).double(), torch.arange(2)
    assert many.left_out(w, mode)[1] == 0
    value, gradient = many.value_and_gradient(w, mode)
    for k in range(2):
        generator = torch.Generator().manual_seed(0)
        alone = SurrogateTarget(surrogate, y[k], coordinates.of(k), generator)
        expected = alone.value_and_gradient(w[[k]])
        torch.testing.assert_close((value[[k]], gradient[[k]]), expected, rtol=1e-4, atol=1e-3)


def test_coordinates_of_each_become_those_of_its_draws(model, generator):
    sensors = pddlvm.PointObservation(model.problem, POINTS, 0.01)
    y = sensors.apply(model.problem.solve(model.problem.prior.sample((3,), seed=1)))
    surrogate = model.surrogate(sensors, corrections=1)
    found = laplace(surrogate, y).coordinates
    # Those of the second are five times too wide.
    scale = torch.tensor([1.0, 5.0, 1.0]).double()[:, None, None]
    modes = [
        [Coordinates(found.prior, found.centre[k], (scale * found.factor)[k])] for k in range(3)
    ]
    masses = [torch.ones(1).double()] * 3
    settled = standardise(surrogate, y, modes, masses, generator)
    ratio = settled.target.factors[:, 0, 0] / found.factor[:, 0, 0]
    assert ((ratio - 1).abs() < 0.35).all()
    assert settled.target.which.unique().tolist() == [0, 1, 2]


@pytest.mark.slow
def test_posteriors_of_a_batch_are_those_of_smaller_ones(model, monkeypatch):
    sensors = pddlvm.PointObservation(model.problem, POINTS, 0.01)
    y = sensors.simulate(model.problem.solve(model.problem.prior.sample((3,), seed=1)), seed=2)
    together = model.infer(y, sensors, "nuts", n_samples=400)
    monkeypatch.setattr(of_each_module, "_AT_ONCE", 2)
    apart = model.infer(y, sensors, "nuts", n_samples=400)
    for posterior in (together, apart):
        assert posterior.sample((3,)).shape == (3, 3, 1)
        assert (posterior.diagnostics.rhat < 1.1).all()
    # Four standard errors of 200 effective draws.
    off = (together.mean - apart.mean) / together.std
    assert off.abs().max() < 4 * (2 / 200) ** 0.5
    z = together.sample((6,))
    torch.testing.assert_close(
        together._log_density(model.problem.prior.standardise(z)),
        apart._log_density(model.problem.prior.standardise(z)),
        rtol=0.05,
        atol=0.3,
    )


def test_a_step_that_is_liked_is_not_left_at_once():
    size = StepSize(torch.tensor([0.3]).double())
    size.update(torch.tensor([0.99]).double())
    assert 0.3 < float(size.current) < 0.9
