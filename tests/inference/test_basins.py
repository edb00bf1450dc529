"""Searches from several starts: one where there is one maximum, all where there are more."""

import scipy.sparse as sp
import torch

import pddlvm
from pddlvm.inference.basins import explore, points_of
from pddlvm.inference.laplace import laplace
from pddlvm.latent.surrogate import Surrogate
from pddlvm.linalg.low_rank import LowRank
from pddlvm.parameters.space import Block, ParameterSpace


class Predicts(Surrogate):
    """Data by a function of xi, as often as asked."""

    def __init__(self, prior, observation, function):
        super().__init__(prior, observation)
        self.function, self.n_asked = function, 0

    def mean(self, xi):
        return self.function(xi)

    predict = mean

    def linearise(self, xi):
        self.n_asked += len(xi)
        slope = torch.func.vmap(torch.func.jacrev(self.function))(xi)
        return self.function(xi), slope

    def error(self, xi):
        return LowRank.of_factor(xi.new_zeros(len(xi), self.observation.n, 0))


def surrogate_of(model, function, n=2):
    prior = ParameterSpace({"z": Block(2, pddlvm.Normal())})
    points = torch.linspace(0.1, 0.9, n).tolist()
    return Predicts(prior, pddlvm.PointObservation(model.problem, points, 0.05), function)


def folded(xi):
    """Two roots: xi_0 enters by its square."""
    return torch.stack([xi[..., 0] ** 2, xi[..., 1] + 0.1 * xi[..., 0] ** 2], dim=-1)


START = torch.tensor([[[-1.5, 0.5], [1.4, -0.2], [0.8, 0.1], [-0.7, 1.0]]], dtype=torch.float64)
ALL = torch.ones(1, 4, dtype=torch.bool)


def test_one_maximum_is_searched_once(linear_model):
    surrogate = surrogate_of(linear_model, lambda xi: xi @ torch.eye(2).double() * 3)
    y = torch.tensor([[0.4, -0.3]], dtype=torch.float64)
    found = explore(surrogate, y, points_of(surrogate, y, START, ALL), ALL, 1e-6)
    assert found.kept.sum() == 1
    # Where all starts are, and the end; the last step is predicted by the derivatives.
    assert surrogate.n_asked <= len(START[0]) + 3
    torch.testing.assert_close(found.found.at.eta, y / (3 + 0.05**2 / 3), rtol=0, atol=1e-5)


def test_beyond_a_valley_is_another_search(linear_model):
    surrogate = surrogate_of(linear_model, folded)
    y = torch.tensor([[1.0, 0.3]], dtype=torch.float64)
    found = explore(surrogate, y, points_of(surrogate, y, START, ALL), ALL, 1e-6)
    sides = START[found.kept][:, 0].sign()
    assert sorted(sides.unique().tolist()) == [-1.0, 1.0]
    torch.testing.assert_close(found.found.at.eta[:, 0], sides, rtol=0, atol=0.01)
    # In the order of the starts.
    torch.testing.assert_close(found.start.eta, START[found.kept])
    modes = laplace(surrogate, y, START).masses[:, 0]
    torch.testing.assert_close(modes, torch.full_like(modes, 0.5), rtol=0, atol=0.01)
    assert len(modes) == 2


def test_a_last_step_that_does_not_help_ends_the_search(linear_model):
    n, matrix = 200, torch.linspace(1, 2, 400, dtype=torch.float64).reshape(200, 2)
    surrogate = surrogate_of(linear_model, lambda xi: xi @ matrix.T, n)
    # Errors of many sensors in a band, of one data set or of several.
    rows = sp.csr_matrix(sp.diags([1.0, 0.5], [0, 1], shape=(n, n)))
    wide = torch.linspace(0.01, 2.0, n, dtype=torch.float64)

    def error(xi):
        return LowRank(xi.new_zeros(len(xi), n, 1), rows, wide.expand(len(xi), n))

    surrogate.error = error
    right = surrogate.linearise
    surrogate.linearise = lambda xi: (right(xi)[0], -right(xi)[1])
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(2, n, generator=generator, dtype=torch.float64)
    assert torch.isfinite(laplace(surrogate, y).modes.centre).all()


def test_a_maximum_past_which_each_step_leaps_is_found_soon(linear_model):
    """The misfit left bends the density more than J^T P J says: plain steps go past it for ever."""
    surrogate = surrogate_of(
        linear_model, lambda xi: torch.stack([xi[..., 0] + 0.4 * xi[..., 0] ** 2, xi[..., 1]], -1)
    )
    sensors = surrogate.observation
    surrogate.observation = pddlvm.PointObservation(linear_model.problem, sensors.points, 0.2)
    # Far below all that the model can say of the first value, -5/8.
    y = torch.tensor([[-2.0, 0.3]], dtype=torch.float64)
    start = torch.tensor([[[0.6, 0.0]]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.bool)
    found = explore(surrogate, y, points_of(surrogate, y, start, one), one, 1e-6)
    # Without B it is not found within 50.
    assert found.found.converged.all()
    assert found.found.iterations <= 8
