"""Posteriors of a black box, beside closed forms."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from linear import closed_form
from serving import serving

import pddlvm
from pddlvm.basics.errors import ConvergenceError, InputError
from pddlvm.umbridge.client import RemoteModel
from pddlvm.umbridge.served import Served


def function(name, f, n_outputs=1, has_derivatives=True):
    return Served(name, 2, n_outputs, has_derivatives, 0, lambda z, corrections: f(z))


def gaussian(z):
    """Mean (1, -2), standard deviations 0.1 and 3, correlation 0.9."""
    a, b = (z[:, 0] - 1) / 0.1, (z[:, 1] + 2) / 3
    return (-0.5 * (a**2 - 1.8 * a * b + b**2) / (1 - 0.81))[:, None]


@pytest.fixture(scope="module")
def boxes():
    """A log posterior with and without a gradient, a likelihood, and a forward map."""
    matrix = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    with serving(
        [
            function("gaussian", gaussian),
            function("plain", gaussian, has_derivatives=False),
            function("map", lambda z: z @ matrix.T, 3),
            function("fails", lambda z: z[:, :1] * torch.nan),
        ]
    ) as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [("gaussian", "nuts"), ("plain", "random walk")])
def test_draws_of_a_gaussian(boxes, name, method):
    posterior = pddlvm.UMBridgePosterior(boxes, name, pddlvm.Normal(0.0, 5.0))
    n = 600 if method == "nuts" else 2000
    draws = posterior.sample(n, seed=1)
    assert draws.method == method and draws.z.shape == (4, n // 4, 2)
    std = torch.tensor([0.1, 3.0], dtype=torch.float64)
    # Four standard errors of the mean; of the spread, as many.
    error = 4 * std / draws.bulk_size.sqrt()
    assert ((draws.mean - torch.tensor([1.0, -2.0])).abs() < error).all()
    assert ((draws.std / std - 1).abs() < 4 / (2 * draws.bulk_size).sqrt()).all()
    flat = draws.z.flatten(0, 1)
    assert abs(float(torch.corrcoef(flat.T)[0, 1]) - 0.9) < 0.05
    assert draws.n_evaluations > n
    # Repeatable.
    assert torch.equal(posterior.sample(40, seed=3).z, posterior.sample(40, seed=3).z)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nuts", "random walk"])
def test_a_forward_map_with_data(boxes, method):
    matrix = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    y = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    posterior = pddlvm.UMBridgePosterior(boxes, "map", pddlvm.Normal(0.0, 2.0), y=y, noise_std=0.5)
    precision = matrix.T @ matrix / 0.25 + torch.eye(2) / 4
    mean = torch.linalg.solve(precision, matrix.T @ y / 0.25)
    std = torch.linalg.inv(precision).diagonal().sqrt()
    draws = posterior.sample(600 if method == "nuts" else 3000, method=method, seed=0)
    assert ((draws.mean - mean).abs() < 4 * std / draws.bulk_size.sqrt()).all()
    assert ((draws.std / std - 1).abs() < 4 / (2 * draws.bulk_size).sqrt()).all()


@pytest.mark.slow
def test_a_likelihood_within_bounds(boxes):
    """A bounded prior cuts a Gaussian: no draw is outside, and the first mean is known."""
    posterior = pddlvm.UMBridgePosterior(
        boxes, "gaussian", pddlvm.Uniform(-3.0, 1.0), is_likelihood=True
    )
    draws = posterior.sample(600, seed=0)
    assert (draws.z <= 1.0).all() and (draws.z >= -3.0).all()
    assert posterior.log_prob(torch.tensor([[2.0, 0.0]]).double()).tolist() == [-torch.inf]
    # By quadrature.
    x = torch.linspace(-3, 1, 2001, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    weights = gaussian(grid)[:, 0].softmax(0)
    mean = weights @ grid
    std = (weights @ (grid - mean) ** 2).sqrt()
    assert ((draws.mean - mean).abs() < 4 * std / draws.bulk_size.sqrt()).all()


@pytest.mark.slow
def test_a_model_served_by_ourselves(url, linear_model):
    problem = linear_model.problem
    observation = pddlvm.PointObservation(problem, [0.3, 0.7], 0.01)
    y = torch.tensor([0.05, 0.04], dtype=torch.float64)
    mean, covariance = closed_form(problem, observation, y)
    posterior = pddlvm.UMBridgePosterior(url, "posterior", problem.prior, config={"corrections": 1})
    draws = posterior.sample(600, seed=0)
    std = covariance.diagonal().sqrt()
    assert ((draws.mean - mean).abs() < 4 * std / draws.bulk_size.sqrt()).all()


def test_data_may_be_with_the_client(url, linear_model):
    problem = linear_model.problem
    other = pddlvm.UMBridgePosterior(
        url, "forward", problem.prior, y=torch.zeros(17), noise_std=1.0
    )
    z = problem.prior.sample((3,), seed=0)
    u = linear_model.forward(z).mean
    value = -0.5 * u.square().sum(-1) + problem.prior.log_prob(z)
    found = other.log_prob(z)
    torch.testing.assert_close(found - found[0], value - value[0], rtol=1e-6, atol=1e-6)


def test_what_does_not_fit_is_said(boxes):
    def make(name, prior=None, **options):
        return pddlvm.UMBridgePosterior(boxes, name, prior or pddlvm.Normal(), **options)

    with pytest.raises(InputError, match="has no model 'other'"):
        make("other")
    with pytest.raises(InputError, match="3 outputs"):
        make("map")
    with pytest.raises(InputError, match="2 parameters, the prior 4"):
        from problems import poisson

        make("gaussian", poisson.make(4, n_terms=4).prior)
    with pytest.raises(InputError, match=r"y must be \(3,\)"):
        make("map", y=torch.zeros(2), noise_std=1.0)
    with pytest.raises(InputError, match="offers no Gradient"):
        make("plain").sample(method="nuts")
    with pytest.raises(ConvergenceError, match="hardly a draw of the prior"):
        make("fails").sample(16)
    with pytest.raises(InputError, match=r"nobody answers at http://127\.0\.0\.1:1 "):
        RemoteModel("http://127.0.0.1:1", "forward")
    with pytest.raises(InputError, match="http://"):
        RemoteModel("file:///etc/passwd", "forward")


class Strange(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>" + b"[" * 100_000)

    def log_message(self, *values):
        pass


def test_a_server_of_something_else_is_named():
    with HTTPServer(("127.0.0.1", 0), Strange) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(ConvergenceError, match="not of UM-Bridge"):
            RemoteModel(f"http://127.0.0.1:{server.server_address[1]}", "forward")
        thread.join()
