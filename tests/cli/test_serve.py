"""`pddlvm serve`: a run over the loopback, and what it answers to misuse."""

import json
import re
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from line_run import line_run
from until_ctrl_c import until_ctrl_c

import pddlvm
from pddlvm.cli.app import main
from problems import poisson

OWN = """
import numpy as np
import pddlvm

def make(problem):
    return pddlvm.Quantity(problem, np.ones(problem.n_dofs) / problem.n_dofs, "average")

def wrong(problem):
    return 3
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder, with what a training leaves there."""
    folder = line_run(tmp_path_factory.mktemp("run") / "line")
    (folder / "sensors.csv").write_text("x,value,std\n-0.5,0.6,0.1\n0.5,0.8,0.1\n")
    (folder / "places.csv").write_text("sensor,x\nleft,-0.5\nright,0.5\n")
    (folder / "own.py").write_text(OWN)
    return folder


def refused(monkeypatch, capsys, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["pddlvm", "serve", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (1, 2)
    return capsys.readouterr().err


@pytest.mark.slow
def test_a_run_answers_and_ctrl_c_ends_it(run: Path):
    options = ["--port", "0", "--data", run / "sensors.csv", "--sensors", run / "places.csv"]
    options += ["--quantities", f"{run / 'own.py'}:make"]
    with until_ctrl_c("serve", run, *options) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines[:3] == [
            "forward: 1 -> 2 numbers\n",
            "average: 1 -> 1 numbers\n",
            "posterior: 1 -> 1 numbers\n",
        ]
        found = re.fullmatch(r"(http://127\.0\.0\.1:\d+) .*\n", lines[3])
        assert found
        body = json.dumps({"name": "forward", "input": [[0.3]]}).encode()
        with urllib.request.urlopen(f"{found[1]}/Evaluate", body, timeout=60) as answer:
            output = json.loads(answer.read())["output"]
    model = pddlvm.load(run / "model.pt", poisson.make_1d(8))
    observation = pddlvm.PointObservation(model.problem, [-0.5, 0.5], 1.0)
    z = torch.tensor([[0.3]], dtype=torch.float64)
    assert output == observation.apply(model.forward(z).mean).tolist()


def test_a_port_in_use_is_named(run: Path, monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(monkeypatch, capsys, run, "--port", port)
    assert f"port {port} of 127.0.0.1 is in use" in said


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--quantities", "numpy:ones"], "a function in a file"),
        (["--quantities", "own.py:wrong"], "must return a pddlvm.Quantity"),
        (["--data", "sensors.csv", "--noise-std", "1"], "the noise must be given once"),
        (["--sensors", "sensors.csv"], "no column sensor"),
        (["--corrections", "-1"], "corrections"),
    ],
)
def test_misuse_is_said(run: Path, monkeypatch, capsys, options, word):
    monkeypatch.chdir(run)
    assert word in refused(monkeypatch, capsys, run, "--port", 0, *options)
