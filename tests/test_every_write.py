"""kill -9 or a full disk at the k-th write of a program: nothing is lost, and it can be run again.

A hook of Python counts what the program opens to write, renames, removes and makes in its folder.
A limit on the size of files stands for the disk.
"""

import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path
from shutil import copytree
from typing import Any, Literal
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest

from pddlvm.cli.app import main
from pddlvm.runs.folder import Run
from problems import poisson

Fault = Literal["kill", "full disk"]

CONFIG = """
problem = "poisson-1d"
max_steps = 4
checkpoint_seconds = 0.0
n_validation = 2
[settings]
n = 6
"""
WRITERS = {
    "u.vtu": ["forward", "--draws", "1"],
    "u.xdmf": ["forward", "--draws", "1"],
    "u.csv": ["forward", "--draws", "3"],
    "sweep.pvd": ["forward", "--draws", "2"],
    "z.csv": ["infer"],
    "z.nc": ["infer"],
    "density.pt": ["infer", "--method", "amortized", "--max-time", "0.1"],
}
N_MOMENTS, N_MOMENTS_OF_A_WRITER = 13, 4


def program(arguments: list[str], folder: Path, moment: int, fault: Fault, count: Any) -> None:
    """Run it in this process, with a fault at one of its writes."""

    def hook(event: str, values: tuple[Any, ...]) -> None:
        is_write = event in ("os.rename", "os.remove", "os.mkdir") or (
            event == "open" and (values[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        )
        if not is_write or not str(values[0]).startswith(str(folder)):
            return
        count.value += 1
        if count.value == moment and fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif count.value == moment:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))

    sys.addaudithook(hook)
    sys.argv = ["pddlvm", *arguments]
    sys.stdout = sys.stderr = open(os.devnull, "w")
    code: Any = 70
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        os._exit(code)


def run(
    arguments: list[str], folder: Path, moment: int = 0, fault: Fault = "kill"
) -> tuple[int, int]:
    """Exit code and number of writes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pddlvm.cli.app", "matplotlib.pyplot"])
    count = context.Value("i", 0)
    process = context.Process(target=program, args=(arguments, folder, moment, fault, count))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, count.value


def moments(n_writes: int, n: int) -> list[int]:
    """Spread over all of them."""
    return sorted({int(k) for k in np.linspace(1, n_writes, min(n, n_writes)).round()})


def check_code(code: int, fault: Fault) -> None:
    """Killed, or in words; a full disk may come after the last byte."""
    assert code == -signal.SIGKILL if fault == "kill" else code in (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "full disk"])
def test_a_training_goes_on_after_any_write(fault: Fault, tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    first = ["train", "--config", str(config), "--device", "cpu", "--out"]
    code, n_writes = run([*first, str(tmp_path / "quiet")], tmp_path / "quiet")
    assert code == 0
    quiet = Run.open(tmp_path / "quiet")
    expected = quiet.model(poisson.make_1d(6)).state_dict()
    for moment in moments(n_writes, N_MOMENTS):
        path = tmp_path / f"run_{moment}"
        code, _ = run([*first, str(path)], path, moment, fault)
        check_code(code, fault)
        # The report comes last: then only the lock was left.
        if not (path / "report.html").is_file():
            again = (path / "config.toml").is_file()
            assert not again or Run.open(path).config == quiet.config
            args = ["train", "--resume", "--out", str(path)] if again else [*first, str(path)]
            code, _ = run(args, path)
            assert code == 0, moment
        found = Run.open(path)
        state = found.model(poisson.make_1d(6)).state_dict()
        assert all(bool((state[name] == expected[name]).all()) for name in expected), moment
        assert found.is_finished and list((path / "figures").iterdir())
        # None twice, none missing; the seconds differ.
        elbo = [[(row["step"], row["elbo"]) for row in r.metrics] for r in (found, quiet)]
        assert elbo[0] == elbo[1], moment


def content(path: Path) -> Any:
    """What must be equal."""
    if path.suffix == ".nc":
        # It has the time in it.
        with h5py.File(path) as file:
            return {name: values[:].tolist() for name, values in file["posterior"].items()}
    if path.suffix == ".pvd":
        entries = ElementTree.parse(path).getroot().findall("./Collection/DataSet")
        files = [(path.parent / entry.attrib["file"]).read_bytes() for entry in entries]
        return [entry.attrib["timestep"] for entry in entries], files
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "full disk"])
def test_a_file_is_the_old_or_the_new_one_after_any_write(fault: Fault, tmp_path: Path):
    config, sensors = tmp_path / "config.toml", tmp_path / "sensors.csv"
    config.write_text(CONFIG)
    sensors.write_text("x,value,std\n-0.5,0.2,0.1\n0.5,0.3,0.1\n")
    trained = tmp_path / "trained"
    assert run(["train", "--config", str(config), "--out", str(trained)], trained)[0] == 0
    for name, words in WRITERS.items():
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        is_density = name == "density.pt"
        options = ["--data", str(sensors)] if words[0] == "infer" else []
        path = folder / name
        command = [words[0], str(trained), *words[1:], *options]
        command += ["--density" if is_density else "--out", str(path)]
        if not is_density:
            assert run([*command, "--seed", "1"], folder)[0] == 0
        before = tmp_path / f"before_{folder.name}"
        copytree(folder, before)
        code, n_writes = run(command, folder)
        assert code == 0
        for moment in moments(n_writes, N_MOMENTS_OF_A_WRITER):
            here = tmp_path / f"{folder.name}_{moment}"
            copytree(before, here)
            there = [*command[:-1], str(here / name)]
            code, _ = run(there, here, moment, fault)
            check_code(code, fault)
            if is_density:
                # Trained for some time: never equal, but whole or not there.
                assert not (here / name).exists() or run(there, here)[0] == 0
                continue
            found = content(here / name)
            assert found in (content(before / name), content(path))
            assert run(there, here)[0] == 0
            assert content(here / name) == content(path)
            # Of a sweep only the last files are left.
            left = [len(list(at.glob("sweep/[0-9]*/*.vtu"))) for at in (here, folder)]
            assert left[0] == left[1]
