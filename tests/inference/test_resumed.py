"""Jobs of inference that are interrupted and go on, bit by bit as if they had not been."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pytest
import torch

import pddlvm
from pddlvm.inference import finite_element_density as density_module
from pddlvm.inference import of_each as of_each_module
from pddlvm.inference import search as search_module
from pddlvm.inference.finite_element_density import FiniteElementPosterior, FiniteElementTarget
from pddlvm.inference.journal import journal
from pddlvm.inference.resumed import Kept, unpacked
from pddlvm.sampling.charts import Charts
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.hmc import start_at, transition
from pddlvm.validation import inference as validation_module
from problems import poisson

POINTS = [[-0.6], [0.0], [0.5]]


@pytest.fixture(scope="module")
def model():
    model = pddlvm.LatentVariableModel(poisson.make_1d(12), seed=0)
    pddlvm.train(model, max_steps=20)
    return model


@pytest.fixture(scope="module")
def sensors(model):
    return pddlvm.PointObservation(model.problem, POINTS, 0.01)


@pytest.fixture(scope="module")
def y(model, sensors):
    z = model.problem.prior.sample((4,), seed=1)
    y = sensors.simulate(model.problem.solve(z), seed=2)
    y[2, 1] = torch.nan
    return y


class Stop(Exception):
    """Stands for whatever ends a process."""


def stopping(function, after):
    """The function, which ends everything when it is called once more; and its calls."""
    calls = []

    def counted(*arguments, **named):
        if len(calls) == after:
            raise Stop
        calls.append(0)
        return function(*arguments, **named)

    return counted, calls


def asked(method):
    return {"method": method, "n_samples": 24, "n_chains": 2, "seed": 3}


def same(found, expected):
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.std, expected.std)
    assert torch.equal(found.sample((3,), seed=0), expected.sample((3,), seed=0))
    assert found.diagnostics.verdict == expected.diagnostics.verdict


CASES = {
    "laplace": (search_module, "laplace"),
    "variational": (of_each_module, "variational"),
    "nuts": (of_each_module, "nuts"),
    "exact": (of_each_module, "exact"),
}


@pytest.mark.parametrize(
    "method",
    ["laplace", *(pytest.param(m, marks=pytest.mark.slow) for m in CASES if m != "laplace")],
)
def test_what_was_found_is_not_computed_again(model, sensors, y, method, tmp_path, monkeypatch):
    (module, name), y, after = CASES[method], y[1:], 1
    if method == "laplace":
        monkeypatch.setattr(search_module, "_MOST", 1)
    monkeypatch.setattr(of_each_module, "_AT_ONCE", 1)
    expected = model.infer(y, sensors, **asked(method))
    checkpoints = pddlvm.Checkpoints(tmp_path / "job", every=1e6)
    counted, calls = stopping(getattr(module, name), after)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, counted)
        with pytest.raises(Stop):
            model.infer(y, sensors, **asked(method), checkpoints=checkpoints)
    assert len(calls) == after
    counted, calls = stopping(getattr(module, name), 100)
    monkeypatch.setattr(module, name, counted)
    found = model.infer(y, sensors, **asked(method), checkpoints=checkpoints, resume=True)
    same(found, expected)
    assert len(calls) == len(y) - after
    # All of it is there now.
    n_calls = len(calls)
    again = model.infer(y, sensors, **asked(method), checkpoints=checkpoints, resume=True)
    same(again, expected)
    assert len(calls) == n_calls
    if method == "nuts":
        xi = model.problem.prior.standardise(expected.sample((5,), seed=1))
        torch.testing.assert_close(again._log_density(xi), expected._log_density(xi))


def test_a_chain_goes_on_where_it_was(model, sensors, y, tmp_path, monkeypatch):
    """It asks for its solves in the same order, and is given those that were made."""
    kept = Kept(pddlvm.Checkpoints(tmp_path, every=0), "a job")

    def chain():
        with journal(kept, "chain") as solves:
            posterior = FiniteElementPosterior(sensors, y[2], solves)
            plain = Coordinates.plain(model.problem.prior)
            target = Charts.of_parts([FiniteElementTarget(posterior, plain)], 2)
            start = torch.zeros(2, model.problem.n_parameters, dtype=torch.float64)
            generator = torch.Generator().manual_seed(0)
            state = start_at(target, start)
            for _ in range(6):
                state, _ = transition(target, state, torch.tensor(0.1).double(), generator)
            return state.w

    counted, calls = stopping(density_module._each, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(density_module, "_each", counted)
        expected = chain()
        n_solves = len(calls)
        assert torch.equal(chain(), expected)
        assert len(calls) == n_solves > 8
    for path in tmp_path.iterdir():
        path.unlink()
    counted, _ = stopping(density_module._each, n_solves - 5)
    with monkeypatch.context() as patch:
        patch.setattr(density_module, "_each", counted)
        with pytest.raises(Stop):
            chain()
    counted, calls = stopping(density_module._each, 1000)
    monkeypatch.setattr(density_module, "_each", counted)
    assert torch.equal(chain(), expected)
    assert len(calls) == 5


def test_a_chain_that_takes_another_way_is_solved_anew(tmp_path):
    kept = Kept(pddlvm.Checkpoints(tmp_path, every=0), "a job")
    asked, points = [], torch.arange(8.0, dtype=torch.float64).reshape(4, 2)

    def solve(xi):
        asked.append(float(xi.sum()))
        return xi.sum(-1), torch.full_like(xi, torch.inf)

    def chain(points):
        asked.clear()
        with journal(kept, "chain") as solves:
            return [solves.answer(solve, x[None]) for x in points]

    first = chain(points)
    assert len(asked) == 4
    again = chain(points)
    assert not asked
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    other = points.clone()
    other[1] += 1e-12
    assert torch.equal(torch.cat([v for v, _ in chain(other)]), other.sum(-1))
    # From there on nothing of before counts.
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("backend", "method"),
    [("threading", "laplace"), pytest.param("loky", "exact", marks=pytest.mark.slow)],
)
def test_workers_go_on_too(model, sensors, y, tmp_path, monkeypatch, backend, method):
    monkeypatch.setattr(search_module, "_MOST", 1)
    expected = model.infer(y, sensors, **asked(method))
    checkpoints = pddlvm.Checkpoints(tmp_path / "job", every=0)
    module, name = CASES[method]
    counted, _ = stopping(getattr(module, name), 2)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, counted)
        with pytest.raises(Stop):
            model.infer(y, sensors, **asked(method), checkpoints=checkpoints)
    with joblib.parallel_config(backend=backend, n_jobs=2):
        found = model.infer(y, sensors, **asked(method), checkpoints=checkpoints, resume=True)
    same(found, expected)


@pytest.mark.parametrize("method", ["laplace", pytest.param("variational", marks=pytest.mark.slow)])
def test_a_validation_goes_on(model, sensors, tmp_path, monkeypatch, method):
    monkeypatch.setattr(validation_module, "_CHUNK", 7)
    judge = {"n_data": 20, "seed": 1}
    expected = pddlvm.validate_inference(model, sensors, method, **judge)
    checkpoints = pddlvm.Checkpoints(tmp_path / "job", every=0)
    for name, after in (("_observed", 1), ("_infer", 2)):
        counted, _ = stopping(getattr(validation_module, name), after)
        with monkeypatch.context() as patch:
            patch.setattr(validation_module, name, counted)
            with pytest.raises(Stop):
                pddlvm.validate_inference(
                    model, sensors, method, **judge, checkpoints=checkpoints, resume=True
                )
    counted, calls = stopping(validation_module._infer, 100)
    monkeypatch.setattr(validation_module, "_infer", counted)
    found = pddlvm.validate_inference(
        model, sensors, method, **judge, checkpoints=checkpoints, resume=True
    )
    assert len(calls) == 1
    assert torch.equal(found.ranks, expected.ranks) and found.error == expected.error


def test_other_jobs_are_refused(model, sensors, y, tmp_path):
    checkpoints = pddlvm.Checkpoints(tmp_path / "job")
    model.infer(y, sensors, checkpoints=checkpoints)
    with pytest.raises(pddlvm.InputError, match="resume=True"):
        model.infer(y, sensors, checkpoints=checkpoints)
    with pytest.raises(pddlvm.InputError, match="another y, another seed;"):
        model.infer(y + 1e-9, sensors, seed=1, checkpoints=checkpoints, resume=True)
    other = pddlvm.PointObservation(model.problem, POINTS, 0.02)
    with pytest.raises(pddlvm.InputError, match="another observation;"):
        model.infer(y, other, checkpoints=checkpoints, resume=True)
    again = pddlvm.LatentVariableModel(model.problem, seed=1)
    with pytest.raises(pddlvm.InputError, match="another model"):
        again.infer(y, sensors, checkpoints=checkpoints, resume=True)
    with pytest.raises(pddlvm.InputError, match="needs checkpoints"):
        model.infer(y, sensors, resume=True)
    with pytest.raises(pddlvm.InputError, match="'amortized' has nothing to keep"):
        model.infer(y, sensors, "amortized", checkpoints=pddlvm.Checkpoints(tmp_path / "none"))
    training = pddlvm.Checkpoints(tmp_path / "training")
    pddlvm.train(pddlvm.LatentVariableModel(model.problem), max_steps=2, checkpoints=training)
    with pytest.raises(pddlvm.InputError, match="checkpoints of a training"):
        model.infer(y, sensors, checkpoints=training, resume=True)


def test_damaged_answers_are_computed_again(model, sensors, y, tmp_path):
    checkpoints = pddlvm.Checkpoints(tmp_path / "job")
    expected = model.infer(y, sensors, checkpoints=checkpoints)
    (path,) = checkpoints.folder.glob("searches-*.pt")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="left out what was found before"):
        found = model.infer(y, sensors, checkpoints=checkpoints, resume=True)
    same(found, expected)
    assert not list(checkpoints.folder.glob(".*"))


def test_numbers_are_kept_bit_by_bit(tmp_path):
    kept = Kept(pddlvm.Checkpoints(tmp_path), "a job")
    x = torch.tensor([0.1, torch.nan, -torch.inf, -0.0], dtype=torch.float64)
    with kept.record("numbers") as record:
        record.add(3, [x, torch.tensor([True]), 7, torch.inf])
    with kept.record("numbers") as record:
        bits, flag, count, infinity = map(unpacked, record.known[3])
    assert torch.equal(bits.view(torch.int64), x.view(torch.int64))
    assert flag.dtype == torch.bool and count == 7 and infinity == torch.inf
    with Kept(kept.checkpoints, "another job").record("numbers") as record:
        assert not record.known


SCRIPT = """
import sys
import torch
import pddlvm
from problems import poisson
model = pddlvm.load(sys.argv[1], poisson.make_1d(12))
sensors = pddlvm.PointObservation(model.problem, [[-0.6], [0.0], [0.5]], 0.01)
y = torch.load(sys.argv[2])
checkpoints = pddlvm.Checkpoints(sys.argv[3], every=0) if len(sys.argv) > 4 else None
found = model.infer(
    y,
    sensors,
    "exact",
    n_samples=80,
    n_chains=2,
    checkpoints=checkpoints,
    resume=bool(checkpoints),
)
torch.save((found.mean, found.std), sys.argv[-1])
"""


@pytest.mark.slow
def test_a_killed_process_goes_on(model, y, tmp_path):
    """kill -9, more than once, in the midst of chains."""
    model.save(tmp_path / "model.pt")
    torch.save(y[:2], tmp_path / "y.pt")
    (tmp_path / "script.py").write_text(SCRIPT)
    folder, out = tmp_path / "job", tmp_path / "out.pt"
    root = Path(pddlvm.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, *(str(tmp_path / n) for n in ("script.py", "model.pt", "y.pt"))]

    def n_files():
        return len(list(folder.glob("solves-*.pt")))

    for _ in range(2):
        before = n_files()
        process = subprocess.Popen([*start, str(folder), str(out)], env=environment)
        deadline = time.monotonic() + 240
        while n_files() < before + 10 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None and n_files() > before
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists()
    subprocess.run([*start, str(folder), str(out)], env=environment, check=True)
    subprocess.run([*start, str(tmp_path / "expected.pt")], env=environment, check=True)
    for found, expected in zip(torch.load(out), torch.load(tmp_path / "expected.pt"), strict=True):
        assert torch.equal(found, expected)
