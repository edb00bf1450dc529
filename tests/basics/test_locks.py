"""One process at a time writes a folder; a lock ends with its owner."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pddlvm
from pddlvm.basics.locks import owned
from pddlvm.runs.config import RunConfig
from pddlvm.runs.folder import Run
from problems import poisson

OWNER = """
import sys, time
from pathlib import Path
from pddlvm.basics.locks import owned
with owned(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_owner_who_is_named(tmp_path: Path):
    with owned(tmp_path), pytest.raises(pddlvm.RunFileError, match=f"process {os.getpid()} on"):
        with owned(tmp_path):
            pass
    # Nothing is left, and it is free again.
    assert not list(tmp_path.iterdir())
    with owned(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"in\n"
    with pytest.raises(pddlvm.RunFileError, match=f"process {process.pid} on"):
        with owned(tmp_path):
            pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / ".lock").exists()
    with owned(tmp_path):
        pass


def test_a_folder_that_was_made_in_vain_is_removed(tmp_path: Path):
    with owned(tmp_path / "new"):
        pass
    (tmp_path / "old").mkdir()
    with owned(tmp_path / "old"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "precious").write_text("words")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(pddlvm.RunFileError, match="cannot write"), owned(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "words"


def test_two_trainings_do_not_share_their_checkpoints(tmp_path: Path):
    model = pddlvm.LatentVariableModel(poisson.make_1d(6), basis=pddlvm.ResidualEnriched(n_modes=3))
    checkpoints = pddlvm.Checkpoints(tmp_path / "all")

    def another(row: dict[str, float]) -> None:
        with pytest.raises(pddlvm.RunFileError, match="in use"):
            pddlvm.train(model, max_steps=1, checkpoints=checkpoints, device="cpu")

    pddlvm.train(
        model, max_steps=1, calibrate=False, checkpoints=checkpoints, record=another, device="cpu"
    )
    assert len(checkpoints.files) == 1


@pytest.mark.slow
def test_of_two_trainings_into_one_folder_one_is_refused(tmp_path: Path):
    code = "from pddlvm.cli.app import main; main()"
    options = ["train", "poisson-1d", "--set", "n=8", "--max-steps", "40", "--device", "cpu"]
    for moment in range(20):
        out = tmp_path / f"run_{moment}"
        both = [
            subprocess.Popen(
                [sys.executable, "-c", code, *options, "--seed", seed, "--out", str(out)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for seed in ("1", "2")
        ]
        said = [process.communicate()[1].decode() for process in both]
        codes = [process.returncode for process in both]
        assert sorted(codes) == [0, 1], said
        loser = said[codes.index(1)]
        assert "in use" in loser or "not empty" in loser
        seed = 1 + codes.index(0)
        assert f"seed = {seed}\n" in (out / "config.toml").read_text()
        assert pddlvm.load(out / "model.pt", poisson.make_1d(8)).seed == seed
        steps = [line.split(",")[0] for line in (out / "metrics.csv").read_text().splitlines()]
        assert steps == ["step", "0", "10", "20", "30", "40"]


@pytest.mark.slow
def test_of_two_that_go_on_with_a_run_one_is_refused(tmp_path: Path):
    code = "from pddlvm.cli.app import main; main()"
    options = {"settings": {"n": 8}, "max_steps": 40, "device": "cpu"}
    for moment in range(3):
        out = tmp_path / f"run_{moment}"
        Run.create(out, RunConfig(problem="poisson-1d", **options)).start([])
        both = [
            subprocess.Popen(
                [sys.executable, "-c", code, "train", "--resume", "--out", str(out)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        said = [process.communicate()[1].decode() for process in both]
        codes = [process.returncode for process in both]
        assert sorted(codes) == [0, 1], said
        loser = said[codes.index(1)]
        # The other one may be done before it looks.
        assert "in use" in loser or "is finished" in loser
        steps = [line.split(",")[0] for line in (out / "metrics.csv").read_text().splitlines()]
        assert steps == ["step", "0", "10", "20", "30", "40"]
