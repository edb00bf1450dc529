"""Two processes under torchrun train as one does; what ends one of them ends both."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import pddlvm
from pddlvm.training.devices import usable_device
from pddlvm.training.ranks import Ranks
from problems import poisson

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TOGETHER = Path(__file__).resolve().parents[1] / "together.py"
# Float64 rounding of sums over the batch in another order, grown over fifty steps.
CLOSE = 1e-10


def torchrun(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*TORCHRUN, *arguments], capture_output=True, text=True, timeout=300)


def both(what: str, folder: Path) -> list[dict]:
    """What the two processes found."""
    done = torchrun(str(TOGETHER), what, str(folder))
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> list[dict]:
    return both("quick", tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def thorough(tmp_path_factory) -> list[dict]:
    return both("thorough", tmp_path_factory.mktemp("thorough"))


def check_as_alone(together: dict, alone: dict) -> None:
    assert together["n_steps"] == alone["n_steps"] == 50
    assert together["elbo"] == pytest.approx(alone["elbo"], rel=CLOSE)
    # Another order of the sums: were the weights the same, nothing was shared out.
    assert together["weights"] != alone["weights"]


@pytest.mark.slow
def test_two_processes_train_as_one(quick):
    for found in quick:
        check_as_alone(found["together"], found["alone"])


@pytest.mark.slow
def test_both_end_with_the_same_weights(quick):
    first, second = (found["together"] for found in quick)
    assert first["weights"] == second["weights"]
    assert first["elbo"] == second["elbo"]


@pytest.mark.slow
def test_the_first_alone_records(quick):
    assert [found["together"]["n_recorded"] for found in quick] == [6, 0]
    assert [found["alone"]["n_recorded"] for found in quick] == [6, 6]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("not a number", "NonFiniteError", "loss nan, the forward map and"),
        ("another error", "ZeroDivisionError", "only here"),
        ("too few", "InputError", "batch_size is 1, for 2 processes"),
        ("another seed", "InputError", "process 1 trains with another seed than process 0"),
    ],
)
def test_an_error_of_one_is_that_of_both(name, kind, message, quick):
    first, second = (found[name] for found in quick)
    assert first == second
    assert first["kind"] == kind and message in first["message"]
    assert first["is_finite"]


@pytest.mark.slow
def test_the_strong_form_too(thorough):
    for found in thorough:
        check_as_alone(found["strong form"], found["strong form alone"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["calibrated", "strong form calibrated", "seconds", "resumed"])
def test_both_end_alike(name, thorough):
    first, second = (found[name] for found in thorough)
    assert first["weights"] == second["weights"]
    assert first["n_steps"] == second["n_steps"]


@pytest.mark.slow
def test_the_first_has_the_clock(thorough):
    assert thorough[0]["seconds"]["n_steps"] == thorough[1]["seconds"]["n_steps"] > 1


@pytest.mark.slow
def test_an_interrupted_training_goes_on(thorough):
    for found in thorough:
        assert found["interrupted"]["kind"] == "KeyboardInterrupt"
        assert found["resumed"]["weights"] == found["uninterrupted"]["weights"]


@pytest.mark.slow
def test_a_group_of_the_user_is_used_and_left(tmp_path):
    for found in both("own_group", tmp_path):
        check_as_alone(found["together"], found["alone"])
        assert found["total"] == 2


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_train_as_one(tmp_path):
    for found in both("gpus", tmp_path):
        check_as_alone(found["together"], found["alone"])


@pytest.mark.slow
def test_the_death_of_one_ends_both(tmp_path):
    start = time.perf_counter()
    done = torchrun(str(TOGETHER), "death", str(tmp_path))
    # A process that waits for another one does so for half an hour.
    assert done.returncode != 0 and time.perf_counter() - start < 60
    assert "(exitcode: 3)" in done.stderr


@pytest.mark.slow
def test_the_program_under_torchrun(tmp_path):
    run = tmp_path / "run"
    options = ["poisson-1d", "--set", "n=16", "--max-steps", "50", "--json", "--device", "cpu"]
    options += ["--out", str(run)]
    done = torchrun("-m", "pddlvm", "train", *options)
    assert done.returncode == 0, done.stderr
    # One answer, that of the first process.
    assert json.loads(done.stdout)["steps"] == 50
    assert (run / "report.html").is_file() and not (run / ".lock").exists()
    assert pddlvm.load(run / "model.pt", poisson.make_1d(16)).is_calibrated
    again = torchrun("-m", "pddlvm", "train", *options)
    assert again.returncode != 0
    assert again.stderr.count("is not empty; go on with its run") == 2


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_leaves_a_checkpoint(tmp_path):
    run = tmp_path / "run"
    options = ["poisson-1d", "--set", "n=16", "--max-steps", "200", "--device", "cpu"]
    command = [*TORCHRUN, "-m", "pddlvm", "train", *options, "--out", str(run)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = run / "metrics.csv"
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(0.05)
    # All processes of a terminal get it, and those of torchrun once more from there.
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said.count("interrupted; go on with: pddlvm train --resume") == 1
    assert not (run / "model.pt").exists() and len(list((run / "checkpoints").iterdir())) == 1
    # A single process may go on with it.
    resume = [sys.executable, "-m", "pddlvm", "train", "--resume", "--json", "--out", str(run)]
    done = subprocess.run(resume, capture_output=True, text=True, timeout=300)
    assert json.loads(done.stdout)["steps"] == 200


def test_a_single_process_exchanges_nothing():
    gradient = torch.ones(2)
    with Ranks.of_environment() as ranks:
        ranks.sum_([gradient])
        assert ranks.is_first and ranks.agree(3.0) == [3.0] and ranks.broadcast("a") == "a"
        assert len(ranks.rows(5)) == 5
    assert torch.equal(gradient, torch.ones(2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_process_without_its_device_says_so():
    assert usable_device("auto", local=1) == torch.device("cpu")
    with pytest.raises(pddlvm.InputError, match="cannot be used here"):
        usable_device("cuda", local=1)
