"""Answers do not depend on what happens to arrays, and to the model, after they were given."""

import copy

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from small import galerkin, strong

import pddlvm
from pddlvm import fem
from problems import poisson


def trained(make):
    model = make()
    pddlvm.train(model, max_steps=2, calibrate=False, device="cpu")
    model.calibrate(32)
    return model


@pytest.fixture(scope="module", params=[galerkin, strong], ids=["finite elements", "strong form"])
def model(request):
    return trained(request.param)


# Each public function that takes tensors: the arrays that it is given, and the answer to them.


def z_of(model):
    return model.problem.prior.sample((2,), seed=0)


def forward(model):
    z = z_of(model)
    return [z], model.forward(z)


def corrected(model):
    z = z_of(model)
    return [z], model.forward(z, corrections=1)


def inverse(model):
    u = model.problem.solve(z_of(model))
    return [u], model.inverse(u)


def inverse_of_noise(model):
    u = model.problem.solve(z_of(model))
    std = torch.full((u.shape[-1],), 0.1, dtype=u.dtype)
    return [u, std], model.inverse(u, noise_std=std)


def data_of(model):
    rows = torch.eye(model.problem.n_dofs, dtype=torch.float64)[14:16]
    return rows, model.problem.solve(z_of(model)) @ rows.T


def posterior(method):
    def ask(model):
        rows, y = data_of(model)
        covariance = 0.01 * torch.eye(2, dtype=torch.float64)
        observation = pddlvm.LinearObservation(model.problem, rows, covariance)
        if method == "amortized":
            model.amortize(observation, max_steps=2)
        given = [y, rows, covariance]
        return given, model.infer(y, observation, method, n_samples=16, n_chains=2)

    return ask


FORWARD = {
    "mean": lambda f: f.mean,
    "std": lambda f: f.std,
    "residual_norm": lambda f: f.residual_norm,
    "interval": lambda f: torch.stack(f.interval(0.9)),
    "sample": lambda f: f.sample((2,), seed=0),
    "covariance": lambda f: f.covariance(torch.ones(1, f.mean.shape[-1]).to(f.mean)),
    "log_prob": lambda f: f.log_prob(torch.zeros_like(f.mean)),
}
INVERSE = {
    "mean": lambda p: p.mean,
    "std": lambda p: p.std,
    "median": lambda p: p.median,
    "interval": lambda p: torch.stack(p.interval(0.9)),
    "sample": lambda p: p.sample((2,), seed=0),
    "log_prob": lambda p: p.log_prob(p.mean),
    "misfit": lambda p: p.misfit,
    "verdict": lambda p: p.verdict,
}
POSTERIOR = {
    "mean": lambda p: p.mean,
    "std": lambda p: p.std,
    "sample": lambda p: p.sample((2,), seed=0),
    "quantiles": lambda p: p.quantiles([0.1, 0.9]),
    "solution": lambda p: p.solution(2).mean,
    "predictive": lambda p: p.predictive(p.sample(seed=0)),
    "verdict": lambda p: p.diagnostics.verdict,
    "p_value": lambda p: p.diagnostics.p_value,
    "masses": lambda p: p.diagnostics.masses,
    "y": lambda p: p.y,
}
CASES = {
    "forward": (forward, FORWARD),
    "corrected": (corrected, FORWARD),
    "inverse": (inverse, INVERSE),
    "inverse with noise": (inverse_of_noise, INVERSE),
    "laplace": (posterior("laplace"), POSTERIOR),
    "amortized": (posterior("amortized"), POSTERIOR),
    "nuts": (posterior("nuts"), POSTERIOR),
}
SLOW = {"amortized", "nuts"}
each_case = pytest.mark.parametrize(
    ("ask", "parts"),
    [pytest.param(*v, marks=[pytest.mark.slow] * (k in SLOW), id=k) for k, v in CASES.items()],
)


def same(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@each_case
def test_answers_do_not_read_what_was_given_again(model, ask, parts):
    _, plain = ask(model)
    before = {name: read(plain) for name, read in parts.items()}
    given, answer = ask(model)
    for x in given:
        x.fill_(2.0)
    assert [name for name, read in parts.items() if not same(read(answer), before[name])] == []


CHANGES = {
    "trained": lambda m: pddlvm.train(m, max_steps=1, calibrate=False, device="cpu"),
    "calibrated": lambda m: m.calibrate(32, seed=7),
    "loaded": lambda m: m.load_state_dict({k: v + v for k, v in m.state_dict().items()}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_answers_are_those_of_the_model_that_was_asked(model, change):
    cases = [CASES[name] for name in ("forward", "corrected", "inverse", "laplace")]
    model = copy.deepcopy(model)
    asked = [(ask(model)[1], parts) for ask, parts in cases]
    before = [{k: read(answer) for k, read in parts.items()} for answer, parts in asked]
    answers = [ask(model)[1] for ask, _ in cases]
    change(model)
    n_refused = 0
    for answer, expected, (_, parts) in zip(answers, before, cases, strict=True):
        for name, read in parts.items():
            try:
                assert same(read(answer), expected[name]), name
            except pddlvm.StaleError:
                n_refused += 1
    assert n_refused


def test_what_was_read_in_time_stays(model):
    _, answer = forward(model)
    std = answer.std.clone()
    touch(model)
    assert torch.equal(answer.std, std)
    with pytest.raises(pddlvm.StaleError, match="ask the model again"):
        answer.sample()


def touch(model):
    for value in model.state_dict().values():
        value.copy_(value.clone())


# What is made once, of numbers and arrays


def sensors(kind):
    def make():
        problem = poisson.make_1d(6)
        points = np.array([[0.1], [0.5]])
        std = torch.full((2,), 0.1, dtype=torch.float64)
        if kind == "points":
            given = [points, std]
            made = pddlvm.PointObservation(problem, points, std)
            return given, lambda: np.append(made.points, made.noise.covariance())
        rows = sp.csr_matrix(np.eye(7)[2:4])
        made = pddlvm.LinearObservation(problem, rows, std)
        u = torch.ones(7, dtype=torch.float64)
        return [rows.data], lambda: made.apply(u)

    return make


def noise(make):
    def prepare():
        scale = torch.tensor(0.1, dtype=torch.float64)
        made = make(scale)
        return [scale], lambda: made.log_prob(torch.ones(2).double())

    return prepare


def prior(make):
    def prepare():
        number = np.array(1.0)
        made = make(number)
        return [number], lambda: made.unstandardise(torch.ones(2))

    return prepare


def covariance():
    matrix = np.diag([0.1, 0.2])
    made = pddlvm.Gaussian(matrix, 2)
    return [matrix], made.covariance


def field():
    space = fem.Space(fem.interval(4))
    labels, shift = torch.tensor([0, 0, 1, 1]), torch.tensor(3.0)
    made = pddlvm.Piecewise(labels=labels, n_parts=2, shift=shift)
    at = made.at(space.centroids)
    assert at(torch.ones(2).double()).shape == (4,)
    z = torch.tensor([1.0, 2.0], dtype=torch.float64)
    return [labels, shift], lambda: made.at(space.centroids)(z)


def energy(u, du, x, k, load):
    return 0.5 * k * (du * du).sum() - load * u.sum()


def problem():
    mesh = fem.interval(4)
    load, value = torch.tensor(1.0).double(), np.array(0.5)
    space = fem.Space(mesh)
    made = pddlvm.Problem(
        "own",
        space,
        [pddlvm.Energy(space.interior(), energy)],
        {"k": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)), "load": load},
        [pddlvm.Dirichlet("left", value)],
    )
    z = torch.tensor([1.5])
    return [load, value, mesh.p], lambda: torch.cat(
        [made.solve(z), made.discretisation(torch.float32, torch.device("cpu")).lift(z[None])[0]]
    )


def space_of_a_mesh():
    mesh = fem.interval(4)
    made = fem.Space(mesh)
    return [mesh.p, mesh.t], lambda: made.interior().weights


def surface():
    mesh = fem.hare(0)
    p, t = mesh.p.copy(), mesh.t.copy()
    made = fem.SurfaceMesh(p, t)
    return [p, t], lambda: made.area_vectors


MADE = {
    "points": sensors("points"),
    "matrix": sensors("matrix"),
    "covariance": covariance,
    "Student": noise(lambda s: pddlvm.StudentT(s, 2)),
    "AR1": noise(lambda s: pddlvm.AR1(s, [0.0, 1.0], correlation=0.5)),
    "unknown": noise(lambda s: pddlvm.UnknownStd(s, 0.5, 2)),
    "normal": prior(lambda x: pddlvm.Normal(x, x)),
    "uniform": prior(lambda x: pddlvm.Uniform(0.0, x)),
    "log-normal": prior(lambda x: pddlvm.LogNormal(x, x)),
    "field": field,
    "problem": problem,
    "space": space_of_a_mesh,
    "surface": surface,
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
def test_what_is_made_of_arrays_owns_them(make):
    _, plain = make()
    given, read = make()
    for x in given:
        x.fill(0) if isinstance(x, np.ndarray) else x.fill_(0)
    np.testing.assert_array_equal(read(), plain())
