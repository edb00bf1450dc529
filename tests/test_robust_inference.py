"""Bad models and absurd data: every method answers, says no in words, or names what is wrong."""

import pytest
import torch

import pddlvm
from pddlvm.inference.coordinates import Coordinates
from pddlvm.inference.laplace import laplace
from pddlvm.inference.proposals import Proposals
from pddlvm.inference.pushed import PushedGaussian
from pddlvm.inference.resampled import Resampled
from pddlvm.inference.surrogate import surrogate_of
from pddlvm.inference.target import SurrogateTarget
from problems import poisson

METHODS = [
    "laplace",
    "amortized",
    "variational",
    pytest.param("nuts", marks=pytest.mark.slow),
    pytest.param("exact", marks=pytest.mark.slow),
]
POINTS = [-0.5, 0.0, 0.5]


@pytest.fixture(scope="module")
def untrained():
    return pddlvm.LatentVariableModel(poisson.make_1d(8))


@pytest.fixture(scope="module")
def trained():
    model = pddlvm.LatentVariableModel(poisson.make_1d(8))
    pddlvm.train(model, max_steps=100)
    return model


@pytest.fixture(scope="module")
def sensors(trained):
    return pddlvm.PointObservation(trained.problem, POINTS, 0.01)


@pytest.fixture(scope="module")
def data(trained, sensors):
    u = trained.problem.solve(torch.tensor([0.3], dtype=torch.float64))
    return sensors.simulate(u, seed=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [-1e3, 1e6])
@pytest.mark.parametrize("which", ["untrained", "trained"])
def test_absurd_data_are_called_so(which, size, method, request):
    model = request.getfixturevalue(which)
    obs = pddlvm.PointObservation(model.problem, POINTS, 0.01)
    if method == "amortized":
        model.amortize(obs, max_steps=3)
    y = size * torch.tensor([1.0, -0.4, 0.7], dtype=torch.float64)
    posterior = model.infer(y, obs, method, n_samples=16, n_chains=2)
    z = posterior.sample((20,), seed=0)
    assert torch.isfinite(z).all() and torch.isfinite(posterior.mean + posterior.std).all()
    assert float(posterior.diagnostics.p_value) < 1e-3
    assert not posterior.check().diagnostics.verdict == "accept"


def cloud(problem, centre, std):
    """N(centre, std^2) of the one parameter, far wider than its prior."""
    shift, factor = torch.tensor([[centre]]).double(), torch.tensor([[[std]]]).double()
    return PushedGaussian(Coordinates(problem.prior, shift, factor))


def test_a_wild_network_is_put_right(trained, sensors, data):
    # Its draws have conductivities that vanish in float64: solutions of 1e30, or none.
    network = cloud(trained.problem, -0.4, 300.0)
    surrogate = surrogate_of(trained, sensors, corrections=1)
    gaussian = PushedGaussian(laplace(surrogate, data[None]).coordinates)
    proposals = Proposals(surrogate, data, network, False, lambda: gaussian)
    z = Resampled(network, [proposals]).sample((400,), seed=0)[:, 0]
    assert float((z.mean() - gaussian.mean) / gaussian.std) == pytest.approx(0, abs=0.1)
    assert float(z.std() / gaussian.std) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("std", [200.0, 1e6])
def test_corrections_that_fail_are_left_out(trained, sensors, data, std):
    coordinates = cloud(trained.problem, 0.0, std).coordinates.of(0)
    generator = torch.Generator().manual_seed(0)
    surrogate = surrogate_of(trained, sensors, corrections=1)
    target = SurrogateTarget(surrogate, data, coordinates, generator)
    value, slope = target.value_and_gradient(torch.tensor([[0.3], [1.0]]).double() / std)
    assert torch.isfinite(value).all() and torch.isfinite(slope).all()
    assert value[0] > value[1]


def test_a_value_whose_square_overflows_is_refused(trained, sensors):
    y = torch.tensor([0.1, 1e150, 0.1], dtype=torch.float64)
    with pytest.raises(pddlvm.InputError, match="overflow"):
        trained.infer(y, sensors)
