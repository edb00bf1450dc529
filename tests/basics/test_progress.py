"""A progress bar overwrites itself on a terminal; a file has one line for each percent."""

import sys
from io import StringIO

import pytest
import small

import pddlvm
from pddlvm.basics.progress import ProgressBar
from problems import poisson


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def said(monkeypatch, stream: StringIO, is_shown: bool = True) -> str:
    """What is shown of a hundred records in each of two percents."""
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar(is_shown) as bar:
        for k in range(200):
            bar.show(0.01 * (1 + k // 100), step=k)
    return stream.getvalue()


def test_a_file_has_one_line_for_each_percent(monkeypatch):
    lines = said(monkeypatch, StringIO()).splitlines()
    assert [line.split("%")[0].strip() for line in lines] == ["0", "1", "2"]
    assert "step=0" in lines[1] and "step=100" in lines[2]


def test_a_terminal_sees_each_record(monkeypatch):
    text = said(monkeypatch, Terminal())
    assert "step=199" in text and text.count("\n") == 1


def test_nothing_is_shown_unasked(monkeypatch):
    assert said(monkeypatch, StringIO(), False) == said(monkeypatch, Terminal(), False) == ""


def test_a_training_logs_a_line_for_each_percent(monkeypatch):
    model = small.galerkin()
    monkeypatch.setattr(sys, "stderr", log := StringIO())
    pddlvm.train(model, max_steps=5, calibrate=False, progress=True)
    percents = [line.split("%")[0].strip() for line in log.getvalue().splitlines()]
    assert percents[-1] == "100" and "elbo=" in log.getvalue()


def test_a_model_says_what_it_prepares(monkeypatch):
    monkeypatch.setattr(sys, "stderr", log := StringIO())
    pddlvm.LatentVariableModel(poisson.make(2, n_terms=2), progress=True)
    lines = log.getvalue().splitlines()
    assert [line.split("%")[0].strip() for line in lines[-4:]] == ["20", "60", "80", "100"]
    assert "basis" in lines[-4]


@pytest.mark.slow
def test_chains_say_how_far_they_are(monkeypatch):
    model = small.galerkin()
    observation = pddlvm.PointObservation(model.problem, [[0.5, 0.5]], 0.01)
    monkeypatch.setattr(sys, "stderr", log := StringIO())
    options = {"n_samples": 16, "n_chains": 4, "seed": 0}
    model.infer([0.1], observation, "nuts", **options, progress=True)
    percents = [int(line.split("%")[0]) for line in log.getvalue().splitlines()]
    # A line for each draw of a chain, the 50 that adapt it included.
    assert percents == sorted(percents) and percents[-1] == 100 and len(percents) > 50
