"""What functions answer, without a network; what is not of the protocol is refused in words."""

import json

import pytest
import torch
from small import in_time, strong

import pddlvm
from pddlvm.basics.errors import InputError
from pddlvm.umbridge.protocol import answer
from pddlvm.umbridge.served import NOTHING, served
from problems import poisson

Z = [1.2, -0.7]


@pytest.fixture
def ask(functions):
    def run(path, status=200, **asked):
        found = answer(functions, "POST", path, json.dumps(asked).encode())
        assert found.status == status, found
        return found.content if status == 200 else found.content["error"]

    return run


def test_names_and_sizes(functions, ask):
    found = answer(functions, "GET", "/Info", b"").content
    assert found == {"protocolVersion": 1.0, "models": ["forward", "fluxes", "posterior"]}
    assert ask("/ModelInfo", name="fluxes")["support"]["Gradient"] is True
    assert ask("/InputSizes", name="fluxes") == {"inputSizes": [2]}
    assert ask("/OutputSizes", name="forward", config={}) == {"outputSizes": [17]}


@pytest.mark.parametrize("corrections", [0, 1])
def test_values_and_derivatives_are_those_of_the_model(linear_model, functions, ask, corrections):
    z = torch.tensor([Z], dtype=torch.float64, requires_grad=True)
    mean = linear_model.forward(z, corrections=corrections).mean
    asked = {"name": "forward", "input": [Z], "config": {"corrections": corrections}}
    found = torch.tensor(ask("/Evaluate", **asked)["output"], dtype=torch.float64)
    torch.testing.assert_close(found, mean, rtol=1e-12, atol=1e-14)
    asked |= {"outWrt": 0, "inWrt": 0}
    weights = torch.linspace(-1, 1, 17, dtype=torch.float64)
    (expected,) = torch.autograd.grad(mean, z, weights[None], retain_graph=True)
    assert ask("/Gradient", **asked, sens=weights.tolist())["output"] == expected[0].tolist()
    rows = [torch.autograd.grad(mean[0, i], z, retain_graph=True)[0][0] for i in range(17)]
    found = ask("/ApplyJacobian", **asked, vec=[0.3, 2.0])["output"]
    expected = torch.stack(rows) @ torch.tensor([0.3, 2.0], dtype=torch.float64)
    # Batches of the map in single precision.
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), expected, rtol=1e-5, atol=1e-7
    )


def test_the_jacobian_of_a_model_in_double_precision():
    problem = poisson.make(4, n_terms=3)
    model = pddlvm.LatentVariableModel(problem, dtype=torch.float64)
    forward = served(model)[0]
    z = problem.prior.sample(seed=0)
    vector = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(lambda x: model.forward(x[None]).mean[0], z)
    torch.testing.assert_close(
        forward.apply_jacobian(z, vector, {}), expected @ vector, rtol=1e-12, atol=1e-14
    )


def test_the_posterior_is_that_of_mean_data_and_prior(linear_model, ask):
    z = torch.tensor([Z], dtype=torch.float64, requires_grad=True)
    observation = pddlvm.PointObservation(linear_model.problem, [0.3, 0.7], 0.01)
    y = torch.tensor([0.05, 0.04], dtype=torch.float64)
    u = linear_model.forward(z).mean
    value = observation.log_prob(y, u) + linear_model.problem.prior.log_prob(z)
    asked = {"name": "posterior", "input": [Z]}
    assert ask("/Evaluate", **asked)["output"][0] == pytest.approx(value.tolist(), rel=1e-12)
    (slope,) = torch.autograd.grad(value, z)
    found = ask("/Gradient", **asked, outWrt=0, inWrt=0, sens=[1.0])["output"]
    assert found == pytest.approx(slope[0].tolist(), rel=1e-12)


@pytest.mark.parametrize("corrections", [0, 1])
def test_quantities_are_those_of_the_model(linear_model, ask, corrections):
    z = torch.tensor([Z], dtype=torch.float64, requires_grad=True)
    matrix = pddlvm.gradient_matrix(linear_model.problem, [0.1, 0.9])
    quantity = pddlvm.Quantity(linear_model.problem, matrix)
    mean = linear_model.forward(z, corrections=corrections).of(quantity).mean
    asked = {"name": "fluxes", "input": [Z], "config": {"corrections": corrections}}
    assert ask("/Evaluate", **asked)["output"][0] == pytest.approx(mean[0].tolist(), rel=1e-12)
    (slope,) = torch.autograd.grad(mean.sum(), z)
    found = ask("/Gradient", **asked, outWrt=0, inWrt=0, sens=[1.0, 1.0])["output"]
    assert found == pytest.approx(slope[0].tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("asked", "kind", "word"),
    [
        ({"name": "forward", "input": [[1.0]]}, "InvalidInput", "2 numbers"),
        ({"name": "forward", "input": [Z, Z]}, "InvalidInput", "one vector"),
        ({"name": "forward", "input": [[1.0, "__import__('os')"]]}, "InvalidInput", "numbers"),
        ({"name": "forward", "input": [[1.0, 10**400]]}, "InvalidInput", "large"),
        ({"name": "forward", "input": [[1.0, True]]}, "InvalidInput", "numbers"),
        ({"name": "forward", "input": [[1e308, float("inf")]]}, "InvalidInput", "finite"),
        ({"name": "forward"}, "InvalidInput", "list"),
        ({"name": "forward", "input": [Z], "config": {"x": 1}}, "InvalidInput", "corrections"),
        ({"name": "forward", "input": [Z], "config": {"corrections": -1}}, "InvalidInput", "corr"),
        ({"name": "forward", "input": [Z], "config": 3}, "InvalidInput", "config"),
        ({"name": "../model.pt", "input": [Z]}, "ModelNotFound", "forward"),
        ({"name": ["forward"], "input": [Z]}, "ModelNotFound", "forward"),
        ({"input": [Z]}, "ModelNotFound", "forward"),
    ],
)
def test_what_cannot_be_answered_is_refused(ask, asked, kind, word):
    found = ask("/Evaluate", 400, **asked)
    assert found["type"] == kind and word in found["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"[" * 100_000, b"\xff"])
def test_what_is_no_object_is_refused(functions, body):
    assert answer(functions, "POST", "/Evaluate", body).content["error"]["type"] == "InvalidInput"


@pytest.mark.parametrize("path", ["/", "/../../etc/passwd", "/EvaluateShMem", "/Evaluate?x"])
def test_there_are_no_other_paths(functions, path):
    assert answer(functions, "POST", path, b"{}").status == 404
    assert answer(functions, "GET", path, b"").status == 404


@pytest.mark.parametrize("asked", [{"sens": [1.0]}, {"sens": [1.0] * 17, "outWrt": 1}])
def test_derivatives_need_the_right_sizes(ask, asked):
    given = {"name": "forward", "input": [Z], "outWrt": 0, "inWrt": 0} | asked
    assert ask("/Gradient", 400, **given)["type"] == "InvalidInput"


def test_outside_of_the_prior_the_posterior_is_next_to_nothing():
    problem = poisson.make_missing_middle(8)
    model = pddlvm.LatentVariableModel(problem)
    observation = pddlvm.PointObservation(problem, [0.0], 0.1)
    y = torch.zeros(1, dtype=torch.float64)
    forward, posterior = served(model, data=(observation, y))
    outside = problem.prior.sample(seed=0)
    outside[0] = 100.0
    assert float(posterior.evaluate(outside, {})) == NOTHING
    assert posterior.gradient(outside, torch.ones(1, dtype=torch.float64), {}).abs().sum() == 0
    with pytest.raises(InputError, match="outside the prior"):
        forward.evaluate(outside, {})


def test_marches_have_no_derivatives():
    functions = served(in_time(), corrections=2)
    asked = json.dumps({"name": "forward"}).encode()
    support = answer(functions, "POST", "/ModelInfo", asked).content["support"]
    assert support == dict(Evaluate=True, Gradient=False, ApplyJacobian=False, ApplyHessian=False)
    found = answer(functions, "POST", "/Gradient", asked).content["error"]
    assert found["type"] == "UnsupportedFeature" and "marches" in found["message"]


@pytest.mark.parametrize("make", [strong, in_time])
def test_what_is_in_strong_form_or_in_time_has_derivatives(make):
    model = make()
    z = model.problem.prior.sample((1,), seed=0).requires_grad_()
    (slope,) = torch.autograd.grad(model.forward(z).mean.sum(), z)
    (forward,) = served(model)
    weights = torch.ones(forward.n_outputs, dtype=torch.float64)
    found = forward.gradient(z[0].detach(), weights, {})
    assert found.tolist() == pytest.approx(slope[0].tolist(), rel=1e-12)


def test_names_are_unique(linear_model):
    quantity = pddlvm.Quantity(linear_model.problem, torch.ones(17), "forward")
    with pytest.raises(InputError, match="names of its own"):
        served(linear_model, quantities=[quantity])
