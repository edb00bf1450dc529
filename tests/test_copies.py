"""Copies and pickles of problems, models, observations and posteriors answer as these do."""

import copy
import pickle

import pytest
import torch
import torch.multiprocessing
from small import galerkin, in_time, strong

import pddlvm
from pddlvm import fem
from pddlvm.linalg import SuperLU
from problems import (
    bayesian_poisson,
    cookies,
    elasticity,
    elastodynamics,
    heat,
    helmholtz,
    homogenisation,
    nafems,
    navier_stokes,
    nonlinear_heat,
    nonlinear_poisson,
    nonstationary_thermal_block,
    pinn,
    poisson,
    shell,
    stokes,
    transport,
)

WAYS = {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "deepcopy": copy.deepcopy}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())

READY = {
    "square": lambda: poisson.make(4, 2),
    "flux": lambda: poisson.make(4, 2, dirichlet={"left": 0.0}, flux={"right": 1.0}),
    "line": poisson.make_1d,
    "missing middle": lambda: poisson.make_missing_middle(20),
    "benchmark": lambda: bayesian_poisson.make(8),
    "nonlinear": lambda: nonlinear_poisson.make_1d(8),
    "quasilinear": lambda: nonlinear_poisson.make_quasilinear(4, 2),
    "advection": lambda: nonlinear_poisson.make_advection_diffusion(4, 2),
    "channel": lambda: stokes.make_channel(3, 2),
    "cavity": lambda: stokes.make_cavity(2, 2),
    "waves": lambda: helmholtz.make(3),
    "damped waves": lambda: helmholtz.make_damped(3),
    "resonances": lambda: helmholtz.make_crossing(3),
    "flow with inertia": lambda: navier_stokes.make(3),
    "incompressible": lambda: elasticity.make_incompressible(3, 2),
    "rubber": lambda: elasticity.make_neo_hookean(2, 2),
    "bracket": lambda: elasticity.make_bracket(4),
    "cell": lambda: homogenisation.make(8),
    "membrane": lambda: nafems.make_le1(2),
    "thick plate": lambda: nafems.make_le10(4),
    "losing heat": lambda: nafems.make_t4(5),
    "shell": lambda: shell.make(fem.hare(0)),
    "roof": lambda: shell.make_roof(3, 2),
    "plate": lambda: heat.make(10, 2, 10),
    "hot plate": lambda: nonlinear_heat.make(10, 2, 10),
    "pulse": lambda: elastodynamics.make(3, 2, 10),
    "bump": lambda: transport.make(6, 10),
    "cookies": lambda: cookies.make(10),
    "discs": lambda: nonstationary_thermal_block.make(10, 10),
    "heat": lambda: pinn.make_heat((6, 6)),
    "Burgers": lambda: pinn.make_burgers((6, 6)),
    "reaction": lambda: pinn.make_reaction_diffusion(grid=(6, 6)),
}


@pytest.mark.parametrize("make", READY.values(), ids=READY.keys())
def test_copies_of_ready_problems_are_equal(make):
    problem = make()
    for way in WAYS.values():
        other = way(problem)
        assert other.fingerprint == problem.fingerprint
        assert torch.equal(other.probe, problem.probe)


@each_way
def test_copies_solve_alike(way):
    problem = nonlinear_poisson.make_1d(8)
    z = problem.prior.sample((2,), seed=0)
    # Solved before it is copied: there are factors that have to be left behind.
    u = problem.solve(z)
    assert torch.equal(way(problem).solve(z), u)


def local_problem(density, value=0.0, link=torch.exp):
    space = fem.Space(fem.interval(3))
    return pddlvm.Problem(
        "own",
        space,
        [pddlvm.Energy(space.interior(), density)],
        {"k": pddlvm.Constant(pddlvm.Normal(), link=link)},
        [pddlvm.Dirichlet("left", value)],
    )


def energy(u, du, x, k):
    return 0.5 * k * (du * du).sum() - u


def test_a_problem_of_functions_of_a_module_can_be_pickled():
    problem = local_problem(energy)
    assert torch.equal(WAYS["pickle"](problem).probe, problem.probe)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"density": lambda u, du, x, k: k * (du * du).sum()}, "term number 0"),
        ({"density": energy, "value": lambda x: x[0]}, "Dirichlet value on 'left'"),
        ({"density": energy, "link": lambda g: g.exp()}, "field 'k'"),
    ],
    ids=["term", "boundary", "field"],
)
def test_a_local_function_cannot_be_pickled_and_is_named(parts, named):
    with pytest.raises(pddlvm.InputError, match=f"{named}.*top of a module"):
        pickle.dumps(local_problem(**parts))


def test_a_local_function_is_shared_by_deep_copies():
    problem = local_problem(lambda u, du, x, k: k * (du * du).sum())
    assert copy.deepcopy(problem).terms[0].function is problem.terms[0].function


# Models


def skew():
    return pddlvm.LatentVariableModel(
        nonlinear_poisson.make_advection_diffusion(4, 2), basis=pddlvm.EnergyModes(4)
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(galerkin, id="finite elements"),
        pytest.param(skew, id="not symmetric", marks=pytest.mark.slow),
        pytest.param(strong, id="strong form"),
        pytest.param(in_time, id="in time"),
    ],
)
def model(request):
    trained = request.param()
    pddlvm.train(trained, max_steps=4, calibrate=False, device="cpu")
    trained.calibrate(64)
    return trained


def said(model):
    z = model.problem.prior.sample((2,), seed=0)
    plain, corrected = model.forward(z), model.forward(z, corrections=1)
    inverse = model.inverse(corrected.mean)
    return [plain.mean, plain.std, corrected.mean, corrected.std, inverse.mean, inverse.std]


def equal(a, b):
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


@each_way
def test_a_copy_of_a_model_predicts_the_same(model, way):
    assert equal(said(way(model)), said(model))


@each_way
def test_a_copy_of_a_model_has_weights_of_its_own(model, way):
    before = said(model)
    pddlvm.train(way(model), max_steps=1, calibrate=False, device="cpu")
    assert equal(said(model), before)


def test_double_precision_is_that_of_the_same_maps(model):
    doubled = copy.deepcopy(model).double()
    for a, b in zip(said(doubled), said(model), strict=True):
        # Rounding of float32, through features and exponentials.
        torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-4 * float(b.abs().max()))


def test_a_model_in_double_precision_trains(model):
    doubled = copy.deepcopy(model).double()
    pddlvm.train(doubled, max_steps=2, calibrate=False, device="cpu")
    assert all(torch.isfinite(part).all() for part in said(doubled))


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.to("meta"),
        lambda m: m.to(torch.float16),
    ],
    ids=["half", "bfloat16", "meta", "to"],
)
def test_a_conversion_without_meaning_is_refused_and_changes_nothing(model, convert):
    before = said(model)
    with pytest.raises(pddlvm.InputError, match="float32 or float64"):
        convert(model)
    assert equal(said(model), before)


def test_factors_of_a_copy_solve_the_same_system():
    matrix = bayesian_poisson.make(8).space.gram_matrices()[0].tocsc()
    b = torch.linspace(0, 1, matrix.shape[0]).double().numpy()
    factors = SuperLU().factorise(matrix, symmetric=True)
    for way in WAYS.values():
        assert (way(factors).solve(b) == factors.solve(b)).all()


# What is inferred


@pytest.fixture(scope="module")
def small():
    return galerkin()


@pytest.fixture(scope="module")
def sensors(small):
    return pddlvm.PointObservation(small.problem, [[0.3, 0.4], [0.6, 0.7]], 0.05)


@each_way
def test_a_copy_of_an_observation_measures_the_same(sensors, way):
    u = torch.linspace(0, 1, sensors.problem.n_dofs).double()
    y = sensors.apply(u)
    assert torch.equal(way(sensors).apply(u), y)


@each_way
@pytest.mark.parametrize(
    "method",
    [
        "laplace",
        pytest.param("amortized", marks=pytest.mark.slow),
        pytest.param("variational", marks=pytest.mark.slow),
        pytest.param("nuts", marks=pytest.mark.slow),
        pytest.param("exact", marks=pytest.mark.slow),
    ],
)
def test_a_copy_of_a_posterior_is_the_same(small, sensors, method, way):
    if method == "amortized":
        small.amortize(sensors, max_steps=2)
    y = torch.tensor([0.1, 0.2], dtype=torch.float64)
    posterior = small.infer(y, sensors, method, n_samples=16, n_chains=2)
    other = way(posterior)
    assert torch.equal(other.sample((4,), seed=1), posterior.sample((4,), seed=1))
    assert other.diagnostics.verdict == posterior.diagnostics.verdict
    assert torch.equal(other.solution(2).mean, posterior.solution(2).mean)


def test_trained_densities_travel_with_a_model(small, sensors):
    small.amortize(sensors, max_steps=2)
    model, observation = pickle.loads(pickle.dumps((small, sensors)))
    assert observation in model.amortized


def answer(model, queue):
    """In another process."""
    queue.put([part.numpy() for part in said(model)])


@pytest.mark.slow
def test_a_model_answers_in_a_process_that_was_spawned(small):
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=answer, args=(small, queue))
    process.start()
    found = [torch.from_numpy(part) for part in queue.get(timeout=120)]
    process.join()
    # Another process may have another number of threads, and so another order of sums.
    for a, b in zip(found, said(small), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
