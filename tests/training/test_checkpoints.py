"""A training that was interrupted goes on as if it had not been."""

import os
import signal
import tracemalloc
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch

import pddlvm
from pddlvm.basics.files import read_content
from pddlvm.training.state import Progress
from problems import pinn, poisson

STEPS = 24


@pytest.fixture(scope="module")
def line() -> pddlvm.Problem:
    return poisson.make_1d(8)


@cache
def reduction_of(problem):
    return pddlvm.reduce(problem, seed=3)


def new_model(problem) -> pddlvm.LatentVariableModel:
    return pddlvm.LatentVariableModel(problem, reduction=reduction_of(problem), seed=3)


def state(model: pddlvm.LatentVariableModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def train(model, max_steps: int, checkpoints: pddlvm.Checkpoints, **options):
    """Maps only: a calibration does not matter here."""
    return pddlvm.train(
        model,
        max_steps=max_steps,
        device="cpu",
        calibrate=False,
        checkpoints=checkpoints,
        **options,
    )


class Interrupted(Exception):
    pass


def interrupt_at(step: int):
    """Ends a training from inside, without its consent, as kill -9 does."""

    def record(row: dict[str, float]) -> None:
        if row["step"] >= step:
            raise Interrupted

    return record


@pytest.mark.parametrize("step", [pytest.param(10, marks=pytest.mark.slow), 20])
def test_a_resumed_training_is_the_uninterrupted_one_bit_by_bit(line, step, tmp_path: Path):
    whole = new_model(line)
    expected = pddlvm.train(whole, max_steps=STEPS, device="cpu")
    checkpoints = pddlvm.Checkpoints(tmp_path, every=0)
    with pytest.raises(Interrupted):
        pddlvm.train(
            new_model(line),
            max_steps=STEPS,
            device="cpu",
            checkpoints=checkpoints,
            record=interrupt_at(step),
        )
    # Drawing other numbers in between must not matter.
    torch.randn(7)
    model = pddlvm.load(checkpoints.files[0], line)
    result = pddlvm.train(
        model, max_steps=STEPS, device="cpu", checkpoints=checkpoints, resume=True
    )
    assert same(state(model), state(whole))
    rows = [[{**row, "seconds": 0} for row in r.history] for r in (result, expected)]
    assert rows[0] == rows[1]


@pytest.mark.slow
@pytest.mark.parametrize("step", [10, 100], ids=["forward map", "inverse map"])
def test_both_stages_of_a_problem_in_strong_form_resume(step, tmp_path: Path):
    problem = pinn.make_burgers((20, 20))

    def make() -> pddlvm.LatentVariableModel:
        points = pddlvm.AdaptivePoints(64, every=7)
        return pddlvm.LatentVariableModel(problem, points=points, n_functions=16, seed=0)

    options = {"max_steps": 120, "device": "cpu"}
    whole = make()
    pddlvm.train(whole, **options)
    checkpoints = pddlvm.Checkpoints(tmp_path, every=0)
    with pytest.raises(Interrupted):
        pddlvm.train(make(), **options, checkpoints=checkpoints, record=interrupt_at(step))
    model = pddlvm.load(checkpoints.files[0], problem)
    pddlvm.train(model, **options, checkpoints=checkpoints, resume=True)
    assert same(state(model), state(whole))


def test_only_the_last_ones_stay(line, tmp_path: Path):
    checkpoints = pddlvm.Checkpoints(tmp_path, every=0, keep=2)
    train(new_model(line), 5, checkpoints)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["step-000000004.pt", "step-000000005.pt"]


def test_a_checkpoint_is_a_model(line, tmp_path: Path):
    checkpoints = pddlvm.Checkpoints(tmp_path, every=0)
    model = new_model(line)
    train(model, 5, checkpoints)
    z = line.prior.sample((3,), seed=0)
    loaded = pddlvm.load(checkpoints.files[0], line)
    assert torch.equal(loaded.forward(z).mean, model.forward(z).mean)


def test_a_checkpoint_does_not_warn_of_error_bars_that_nobody_asked_for(line, tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", pddlvm.UncalibratedWarning)
        train(new_model(line), 2, pddlvm.Checkpoints(tmp_path))
    with pytest.warns(pddlvm.UncalibratedWarning):
        new_model(line).forward(line.prior.sample((1,), seed=0)).std  # noqa: B018


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_the_training_with_a_checkpoint(line, number, tmp_path: Path):
    checkpoints = pddlvm.Checkpoints(tmp_path, every=1e9)

    def record(row: dict[str, float]) -> None:
        if row["step"] == 10:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(line), STEPS, checkpoints, record=record)
    assert signal.getsignal(number) is before
    assert [path.name for path in checkpoints.files] == ["step-000000011.pt"]


def test_without_resume_nothing_is_overwritten(line, tmp_path: Path):
    checkpoints = pddlvm.Checkpoints(tmp_path)
    train(new_model(line), 3, checkpoints)
    with pytest.raises(pddlvm.InputError, match="resume=True"):
        train(new_model(line), 3, checkpoints)


def test_other_arguments_are_refused(line, tmp_path: Path):
    checkpoints = pddlvm.Checkpoints(tmp_path)
    train(new_model(line), 3, checkpoints)
    with pytest.raises(pddlvm.InputError, match="max_steps"):
        train(new_model(line), 4, checkpoints, resume=True)


def test_the_checkpoint_of_another_model_is_refused(line, tmp_path: Path):
    checkpoints = pddlvm.Checkpoints(tmp_path)
    train(new_model(line), 3, checkpoints)
    other = new_model(poisson.make_1d(9))
    with pytest.raises(pddlvm.RunFileError):
        train(other, 3, checkpoints, resume=True)


def test_the_checkpoint_of_another_problem_is_refused(tmp_path: Path):
    checkpoints = pddlvm.Checkpoints(tmp_path)
    basis = pddlvm.EnergyModes(4)
    problems = [poisson.make(4, n_terms=2, **o) for o in ({}, {"source": 20.0}, {"length": 0.6})]
    first, *others = (pddlvm.LatentVariableModel(p, basis=basis) for p in problems)
    train(first, 3, checkpoints)
    for other in others:
        with pytest.raises(pddlvm.RunFileError, match="another model or problem"):
            train(other, 3, checkpoints, resume=True)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 4},
        {"dtype": torch.float64},
        {"objective": "coupled"},
        {"covariance": pddlvm.Whitened()},
        {"covariance": pddlvm.EnergyNorm(0.2)},
        {"basis": pddlvm.EnergyModes(2)},
        {"forward_network": pddlvm.NeuralGaussian(1, 7, width=8)},
        {"inverse_network": pddlvm.NeuralGaussian(8, 1, depth=2)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_checkpoint_of_a_model_of_other_arguments_is_refused(line, options, tmp_path: Path):
    checkpoints = pddlvm.Checkpoints(tmp_path)
    basis = {"basis": pddlvm.Nodal()}
    train(pddlvm.LatentVariableModel(line, **{"seed": 3, **basis}), 3, checkpoints)
    other = pddlvm.LatentVariableModel(line, **{"seed": 3, **basis, **options})
    with pytest.raises(pddlvm.InputError, match=r"another model|other arguments"):
        train(other, 3, checkpoints, resume=True)


def test_the_checkpoint_of_other_points_is_refused(tmp_path: Path):
    problem = pinn.make_burgers((6, 6))
    checkpoints = pddlvm.Checkpoints(tmp_path, every=0)
    made = {"n_functions": 4, "points": pddlvm.Sobol(16)}
    with pytest.raises(Interrupted):
        pddlvm.train(
            pddlvm.LatentVariableModel(problem, **made),
            max_steps=20,
            device="cpu",
            checkpoints=checkpoints,
            record=interrupt_at(10),
        )
    other = pddlvm.LatentVariableModel(problem, **{**made, "points": pddlvm.UniformPoints(16)})
    with pytest.raises(pddlvm.RunFileError, match="points"):
        pddlvm.train(other, max_steps=20, device="cpu", checkpoints=checkpoints, resume=True)


EDITS = {
    "stage": {"stage": 1},
    "stage that never was": {"stage": 7},
    "step": {"step": 3},
    "later step": {"step": 19},
    "first": {"first": 5},
    "begin": {"begin": None},
    "negative begin": {"begin": -0.5},
    "seconds": {"seconds": 0.0},
    "no history": {"history": []},
    "no optimizers": {"optimizers": None},
}


@pytest.fixture(scope="module")
def interrupted(line, tmp_path_factory) -> Path:
    """A checkpoint after ten steps."""
    checkpoints = pddlvm.Checkpoints(tmp_path_factory.mktemp("ck"), every=0)
    with pytest.raises(Interrupted):
        train(new_model(line), STEPS, checkpoints, record=interrupt_at(10))
    return checkpoints.files[0]


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_edited_counters_do_not_fit_the_rest(line, interrupted, edit, tmp_path: Path):
    content = read_content(interrupted)
    content["training"] |= edit
    # Written with a digest of its own, under the name that fits its step.
    checkpoints = pddlvm.Checkpoints(tmp_path)
    checkpoints.write(content, content["training"]["step"])
    with pytest.raises(pddlvm.RunFileError, match="damaged"):
        train(new_model(line), STEPS, checkpoints, resume=True)


def test_another_number_of_steps_of_the_optimizer_is_refused(line, interrupted, tmp_path: Path):
    content = read_content(interrupted)
    for state in content["training"]["optimizers"][0].values():
        state["step"] += 5
    checkpoints = pddlvm.Checkpoints(tmp_path)
    checkpoints.write(content, content["training"]["step"])
    with pytest.raises(pddlvm.RunFileError, match="damaged"):
        train(new_model(line), STEPS, checkpoints, resume=True)


def test_an_edited_checkpoint_is_left_out(line, interrupted, tmp_path: Path):
    content = torch.load(interrupted, weights_only=True)
    content["training"]["step"] = 20
    torch.save(content, tmp_path / "step-000000020.pt")
    with (
        pytest.warns(UserWarning, match="not what was saved"),
        pytest.raises(pddlvm.RunFileError, match="can be read"),
    ):
        pddlvm.Checkpoints(tmp_path).newest()


def test_a_damaged_checkpoint_is_left_out(line, tmp_path: Path):
    checkpoints = pddlvm.Checkpoints(tmp_path, every=0)
    train(new_model(line), 3, checkpoints)
    newest, second = checkpoints.files[:2]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="left out"):
        found = checkpoints.newest()
    assert found is not None and found[0] == second


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path):
    (tmp_path / "step-000000001.pt").write_bytes(b"nothing")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(pddlvm.RunFileError, match="can be read"),
    ):
        pddlvm.Checkpoints(tmp_path).newest()


def test_a_full_disk_leaves_the_last_checkpoint(line, monkeypatch, tmp_path: Path):
    checkpoints = pddlvm.Checkpoints(tmp_path, every=0)
    save, count = torch.save, []

    def full(content, file) -> None:
        count.append(1)
        if len(count) == 3:
            file.write(b"half a file")
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(pddlvm.RunFileError, match="No space left"):
        train(new_model(line), 9, checkpoints)
    monkeypatch.undo()
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-000000001.pt",
        "step-000000002.pt",
    ]
    found = checkpoints.newest()
    assert found is not None and found[1]["training"]["step"] == 2


@pytest.mark.parametrize("options", [{"every": -1.0}, {"every": float("nan")}, {"keep": 0}])
def test_bad_options_are_refused(options, tmp_path: Path):
    with pytest.raises(pddlvm.InputError):
        pddlvm.Checkpoints(tmp_path, **options)


def test_a_count_of_stages_that_was_edited_takes_no_memory():
    row = {"step": 0, "seconds": 0.0, "elbo": 0.0, "stage": 0}
    at = Progress(stage=10**6, step=1, history=[row], begin=0.0, optimizers=[])
    tracemalloc.start()
    with pytest.raises(ValueError, match="does not fit the history"):
        at.check(3)
    # A number for each stage were 60 MB.
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
