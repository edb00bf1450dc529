"""Run folders of anybody, and runs that cannot be: nothing is executed, nothing is left."""

import json
import os
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import pddlvm
from pddlvm.basics.files import check_folder_of, replacing, write_text
from pddlvm.basics.locks import owned
from pddlvm.cli.app import main
from pddlvm.cli.common import printable
from pddlvm.runs import folder
from pddlvm.runs.config import RunConfig
from pddlvm.runs.folder import Run
from pddlvm.runs.strict_json import strict_json
from pddlvm.runs.tables import number

QUICK = {"settings": {"n": 6}, "max_steps": 2, "n_validation": 2, "device": "cpu"}


def run_program(arguments: list[str], monkeypatch, capsys) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["pddlvm", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def call(monkeypatch, capsys):
    return lambda *arguments: run_program(list(arguments), monkeypatch, capsys)


# --- runs that cannot be -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "seed must be between"),
        (["--seed", "9" * 23], "seed must be between"),
        (["--device", "nonsense"], "cannot be used here"),
        (["--batch-size", "10000000000"], "not enough memory"),
        (["--set", "source=nan"], ""),
        (["--set", "source=1e300"], ""),
    ],
)
def test_a_run_that_cannot_be_leaves_no_folder(options, message, call, tmp_path: Path):
    out = tmp_path / "run"
    code, _, err = call(
        "train", "poisson-1d", "--max-steps", "2", "--device", "cpu", *options, "--out", out
    )
    assert code == 1 and message in err and "Traceback" not in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_validation", 1), ("checkpoint_seconds", -1.0), ("checkpoint_seconds", float("nan"))],
)
def test_a_configuration_that_cannot_be_is_refused(name: str, value: float):
    with pytest.raises(pddlvm.InputError, match=name):
        RunConfig.of({"problem": "poisson-1d", name: value})


def test_dates_are_no_settings(tmp_path: Path):
    (tmp_path / "run.toml").write_text('problem = "poisson-1d"\n[settings]\nn = [2026-01-01]\n')
    with pytest.raises(pddlvm.InputError, match=r"settings\['n'\]\[0\] must be"):
        RunConfig.read(tmp_path / "run.toml")


# --- folders of strangers ------------------------------------------------------------------------


@pytest.fixture
def stranger(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run", RunConfig(problem="poisson-1d", **QUICK))
    run.start([])
    return run


def test_info_says_what_is_there_whatever_the_folder_claims(stranger: Run, call):
    stranger.describe(state="trained", seed=7, note="\x1b[2J\x1b]0;title\x07")
    code, out, _ = call("info", stranger.path)
    assert code == 0 and "\x1b" not in out and "\\x1b[2J" in out
    found = json.loads(call("info", stranger.path, "--json")[1])
    assert found["state"].startswith("not finished") and found["seed"] == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("info.json", "[" * 100_000, "cannot be read"),
        ("config.toml", "x = " + "[" * 100_000, "not a TOML file"),
        ("metrics.csv", "step,seconds,elbo,stage\ninf,1,1,0\n", "not finite"),
    ],
)
def test_files_that_are_none_are_refused(name, text, message, stranger: Run, call):
    (stranger.path / name).write_text(text)
    code, _, err = call("info", stranger.path)
    assert code == 1 and message in err


def test_a_run_that_goes_on_elsewhere_is_left_alone(stranger: Run, call):
    stranger.add_metrics({"step": 0, "seconds": 0.1, "elbo": -3.0, "stage": 0})
    before = (stranger.path / "metrics.csv").read_bytes()
    with owned(stranger.path):
        code, _, err = call("train", "--resume", "--out", stranger.path)
    assert code == 1 and f"in use by 'process {os.getpid()}" in err
    assert (stranger.path / "metrics.csv").read_bytes() == before


def test_advice_quotes_what_a_file_says(tmp_path: Path):
    run = Run.create(tmp_path / "run", RunConfig(problem="a;touch x.py:make", **QUICK))
    with pytest.raises(pddlvm.RunFileError, match=r"train 'a;touch x\.py:make' --resume"):
        run.problem()


def test_nothing_is_written_through_links(stranger: Run, call, tmp_path: Path):
    (tmp_path / "precious").write_text("words")
    (stranger.path / "model.pt").symlink_to(tmp_path / "precious")
    code, _, err = call("train", "--resume", "--out", stranger.path)
    assert code == 1 and "model.pt" in err
    assert (tmp_path / "precious").read_text() == "words"


def test_a_repository_is_asked_without_running_its_programs(tmp_path: Path):
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    (tmp_path / "file").write_text("2")
    program = tmp_path / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\ncat\n")
    program.chmod(0o755)
    git("config", "core.fsmonitor", str(program))
    git("config", "filter.x.clean", str(program))
    (tmp_path / ".gitattributes").write_text("* filter=x\n")
    assert len(folder._revision(tmp_path) or "") == 40
    assert not (tmp_path / "ran").exists()


def test_the_working_folder_is_not_asked(tmp_path: Path, monkeypatch):
    asked = []
    monkeypatch.setattr(folder, "_revision", asked.append)
    monkeypatch.chdir(tmp_path)
    Run.create(tmp_path / "run", RunConfig(problem="there/own.py:make", **QUICK)).start([])
    assert set(asked) <= {Path(pddlvm.__file__).parents[1], tmp_path / "there"}


# --- answers -------------------------------------------------------------------------------------


def test_json_has_no_nan():
    said = strict_json({"a": {"b": [1.0, float("nan")]}, "c": float("-inf"), "d": 1})
    assert json.loads(said, parse_constant=pytest.fail) == {
        "a": {"b": [1.0, None]},
        "c": None,
        "d": 1,
        "not_finite": {"a.b[1]": "nan", "c": "-inf"},
    }
    assert json.loads(strict_json({"d": 1})) == {"d": 1}


def test_a_null_has_a_reason():
    said = strict_json({"rhat": float("nan"), "khat": 0.1}, {"rhat": "few draws", "khat": "none"})
    assert json.loads(said) == {
        "rhat": None,
        "khat": 0.1,
        "not_finite": {"rhat": "nan: few draws"},
    }


def test_text_for_a_terminal_does_not_control_it():
    assert printable("a\x1b[1mb\r\u202ec\n") == "a\\x1b[1mb\\r\\u202ec\n"


def test_the_program_says_its_version(call):
    assert call("--version")[1].strip() == pddlvm.__version__


@pytest.mark.parametrize(("text", "value"), [("1_0", None), ("1e1", 10.0), (" 10", 10.0)])
def test_a_number_is_what_other_programs_read(text: str, value: float | None):
    assert number(text) == value


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_answer_that_is_lost_is_an_error():
    code = "from pddlvm.cli.app import main; main()"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, "--version"], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    assert done.stderr == b"error: No space left on device; the answer was not written\n"


def test_sigterm_ends_as_ctrl_c_does(monkeypatch, call, tmp_path: Path):
    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("pddlvm.cli.training.make", stop)
    code, *_ = call("train", "poisson-1d", "--max-steps", "2", "--out", tmp_path / "run")
    assert code == 130
    assert signal.getsignal(signal.SIGTERM) is before


# --- files ---------------------------------------------------------------------------------------


def test_a_file_keeps_its_permissions_and_its_place(tmp_path: Path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("before")
    real.chmod(0o600)
    link.symlink_to(real)
    write_text("after", link)
    assert link.is_symlink() and real.read_text() == "after"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_folder_that_takes_no_files_is_noticed_before():
    with pytest.raises(pddlvm.InputError, match="cannot write"):
        check_folder_of(Path("/proc/density.pt"))


def shared() -> list[object]:
    """2^60 parts in a few bytes."""
    part: list[object] = [0]
    for _ in range(60):
        part = [part, part]
    return part


class Greedy:
    """Unpickled by a call of bytearray(10**9)."""

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return bytearray, (10**9,)


@pytest.mark.parametrize("part", [shared(), Greedy()], ids=["shared", "greedy"])
def test_a_small_file_takes_little_time_and_memory(part: object, tmp_path: Path):
    path = tmp_path / "model.pt"
    torch.save({"format": "pddlvm-model-3", "part": part}, path)
    with pytest.raises(pddlvm.RunFileError, match="not a model saved by pddlvm"):
        pddlvm.basics.files.read_content(path)


def test_records_of_one_place_are_refused(tmp_path: Path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"x" * 1000)
        first = archive.infolist()[0]
        archive.filelist += [first] * 100
    with pytest.raises(pddlvm.RunFileError, match="not a model"):
        pddlvm.basics.files.read_content(path)


def test_what_fails_while_a_file_is_written_leaves_none(tmp_path: Path):
    with pytest.raises(KeyError), replacing(tmp_path / "file") as file:
        file.write(b"half")
        raise KeyError
    assert not list(tmp_path.iterdir())
