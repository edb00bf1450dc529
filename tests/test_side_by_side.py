"""What workers of joblib compute is what is computed in turn, bit by bit."""

import dataclasses

import joblib
import pytest
import torch
from linear import linear_problem
from side_by_side import deadly_problem, linear, nonlinear, problem_of, rounded, singular
from small import strong

import pddlvm

THREADS, LOKY = (("threading", 2), ("loky", 2))
engines = pytest.mark.parametrize(
    "engine", [THREADS, pytest.param(LOKY, marks=pytest.mark.slow)], ids=["threads", "loky"]
)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    """Small problems are solved a thousand at once."""
    monkeypatch.setattr("pddlvm.weak.problem._CHUNKS", 2**40)


def on(engine):
    backend, n_jobs = engine
    return joblib.parallel_config(backend=backend, n_jobs=n_jobs)


def draws(problem, n=20):
    return problem.prior.sample((n,), seed=0)


@engines
@pytest.mark.parametrize(
    "make",
    [lambda: problem_of(linear), lambda: problem_of(nonlinear), lambda: strong().problem],
    ids=["linear", "nonlinear", "strong form"],
)
def test_solutions_are_equal(make, engine):
    problem = make()
    z = draws(problem)
    u = problem.solve(z)
    with on(engine):
        assert torch.equal(problem.solve(z.reshape(4, 5, -1)).flatten(0, 1), u)
    with joblib.parallel_config(n_jobs=1):
        assert torch.equal(problem.solve(z), u)


@pytest.mark.slow
def test_processes_solve_alike_and_name_what_failed():
    """All that needs processes and no time, with those of one start."""
    with on(LOKY):
        for density in (linear, nonlinear):
            problem = problem_of(density)
            found = problem.solve(draws(problem))
            with joblib.parallel_config(n_jobs=1):
                assert torch.equal(problem.solve(draws(problem)), found)
        problem = problem_of(singular)
        z = draws(problem)
        z[[13, 18], 0] = 3.0
        with pytest.raises(pddlvm.ConvergenceError, match=r"sample 13 .*singular") as caught:
            problem.solve(z)
        assert "in _solve_chunk" in caught.value.__notes__[0]


@pytest.mark.slow
def test_constants_have_the_type_of_this_process():
    torch.set_default_dtype(torch.float64)
    try:
        problem = problem_of(rounded)
        z = draws(problem)
        u = problem.solve(z)
        with on(LOKY):
            assert torch.equal(problem.solve(z), u)
    finally:
        torch.set_default_dtype(torch.float32)


@engines
def test_an_error_names_the_sample(engine):
    problem = problem_of(singular)
    z = draws(problem)
    z[[13, 18], 0] = 3.0
    with pytest.raises(pddlvm.ConvergenceError) as serial:
        problem.solve(z)
    with on(engine), pytest.raises(pddlvm.ConvergenceError) as caught:
        problem.solve(z)
    assert str(caught.value) == str(serial.value)
    assert "sample 13 " in str(caught.value)


def test_a_problem_that_cannot_be_pickled_is_refused():
    problem = linear_problem()
    with on(LOKY), pytest.raises(pddlvm.InputError, match=r"term number 0.*top of a module"):
        problem.solve(draws(problem))


def test_threads_need_no_pickle():
    problem = linear_problem()
    u = problem.solve(draws(problem))
    with on(THREADS):
        assert torch.equal(problem.solve(draws(problem)), u)


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_that_says_where():
    problem = deadly_problem()
    z = draws(problem)
    with on(LOKY), pytest.raises(pddlvm.WorkerError, match=r"samples 0 to 7.*fewer jobs"):
        problem.solve(z)
    # The next workers are new.
    with on(LOKY):
        good = problem_of(linear)
        assert len(good.solve(z)) == len(z)


# Models


@pytest.fixture(scope="module")
def model():
    return pddlvm.LatentVariableModel(problem_of(nonlinear), basis=pddlvm.EnergyModes(4))


@pytest.fixture(scope="module")
def sensors(model):
    return pddlvm.PointObservation(model.problem, [0.3, 0.6], 0.02)


@pytest.fixture(scope="module")
def linear_sensors():
    """A model whose corrected map is exact."""
    model = pddlvm.LatentVariableModel(problem_of(linear))
    return model, pddlvm.PointObservation(model.problem, [0.3, 0.6], 0.02)


@pytest.fixture(scope="module")
def y(model, sensors):
    return sensors.simulate(model.problem.solve(draws(model.problem, 2)), seed=1)


def numbers(report):
    """All that is no time."""
    found = dataclasses.asdict(report)
    return {k: v for k, v in found.items() if k not in ("seconds", "speedup")}


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return (
        bool((torch.as_tensor(a) == torch.as_tensor(b)).all()) if not isinstance(a, str) else a == b
    )


@engines
def test_validations_are_equal(model, engine):
    report = pddlvm.validate(model, 20)
    with on(engine):
        assert same(numbers(pddlvm.validate(model, 20)), numbers(report))


def test_the_reference_is_timed_in_turn(model, monkeypatch):
    asked = []

    def solve(z):
        asked.append(joblib.parallel.get_active_backend()[1])
        return type(model.problem).solve(model.problem, z)

    monkeypatch.setattr(model.problem, "solve", solve)
    with on(THREADS):
        pddlvm.validate(model, 20)
    assert asked[0] == 2 and asked[-1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", [THREADS, LOKY])
def test_validations_of_inference_are_equal(model, sensors, engine, monkeypatch):
    monkeypatch.setattr("pddlvm.validation.inference._CHUNK", 4)
    monkeypatch.setattr("pddlvm.validation.inference._LEAST_DATA", 8)
    report = pddlvm.validate_inference(model, sensors, n_data=8)
    with on(engine):
        assert same(numbers(pddlvm.validate_inference(model, sensors, n_data=8)), numbers(report))


def close(a, b):
    """Chains amplify rounding, which is not the same each time within one thread either."""
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


FEW = {"n_samples": 8, "n_chains": 2}


@pytest.mark.slow
@pytest.mark.parametrize("engine", [THREADS, LOKY])
def test_exact_posteriors_are_equal_and_each_has_a_seed(linear_sensors, engine):
    model, sensors = linear_sensors
    y = sensors.simulate(model.problem.solve(draws(model.problem, 1)), seed=1).expand(2, -1)
    found = model.infer(y, sensors, "exact", **FEW).chains(8, 0)
    with on(engine):
        close(model.infer(y, sensors, "exact", **FEW).chains(8, 0), found)
    assert (found[:, :, 0] - found[:, :, 1]).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("engine", [THREADS, LOKY])
@pytest.mark.parametrize("method", ["exact", "nuts", "variational"])
def test_posteriors_are_equal(model, sensors, y, method, engine):
    found = model.infer(y, sensors, method, **FEW)
    with on(engine):
        other = model.infer(y, sensors, method, **FEW)
    close(other.mean, found.mean)
    close(other.std, found.std)


@engines
def test_checks_of_posteriors_are_equal(model, sensors, y, engine):
    posterior = model.infer(y, sensors)
    found = posterior.check(32).diagnostics.khat
    with on(engine):
        assert torch.equal(posterior.check(32).diagnostics.khat, found)


@pytest.mark.slow
def test_a_posterior_from_processes_has_the_model_of_this_one(model, sensors, y, monkeypatch):
    monkeypatch.setattr("pddlvm.inference.of_each._AT_ONCE", 1)
    with on(LOKY):
        posterior = model.infer(y, sensors, "nuts", n_samples=16, n_chains=2)
    query, targets = posterior._log_density.args
    assert [list(rows) for rows, _ in targets] == [[0], [1]]
    for _, target in targets:
        assert target.local.surrogate is query.surrogate
    assert query.surrogate.model is model
