"""kill -9 at random moments of a training, then --resume: the weights are those of a quiet run."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import pddlvm
from problems import poisson

N_MOMENTS = 25
CONFIG = """
problem = "poisson-1d"
max_steps = 300
checkpoint_seconds = 0.1
n_validation = 10
[settings]
n = 20
"""


def start(*arguments: str) -> "subprocess.Popen[bytes]":
    code = "from pddlvm.cli.app import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "train", *arguments], stdout=subprocess.DEVNULL
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return pddlvm.load(run / "model.pt", poisson.make_1d(20)).state_dict()


def wait_for(metrics: Path, n_lines: int, process: "subprocess.Popen[bytes]") -> None:
    """Until a training has written so many lines, or is over."""
    while process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= n_lines:
            return
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_training_goes_on(seed: int, tmp_path: Path):
    quiet, config = tmp_path / "quiet", tmp_path / "config.toml"
    config.write_text(CONFIG)
    assert start("--config", str(config), "--out", str(quiet)).wait() == 0
    expected, n_lines = weights(quiet), (quiet / "metrics.csv").read_bytes().count(b"\n")
    chance = random.Random(seed)
    n_killed = 0
    for moment in range(N_MOMENTS):
        run = tmp_path / f"run_{moment}"
        process = start("--config", str(config), "--out", str(run))
        wait_for(run / "metrics.csv", chance.randint(1, n_lines), process)
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (run / "report.html").is_file():
            continue
        n_killed += 1
        assert start("--resume", "--out", str(run)).wait() == 0, f"moment {moment}"
        found = weights(run)
        assert all(torch.equal(found[name], expected[name]) for name in expected), moment
    # Nearly all moments lie before the end.
    assert n_killed >= 0.8 * N_MOMENTS
