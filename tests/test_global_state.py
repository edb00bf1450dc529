"""What belongs to the user stays as it was: random numbers, and how distributions are checked."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from torch.distributions import Distribution

import pddlvm
from pddlvm import fem
from problems import poisson

ROOT = Path(__file__).resolve().parents[1]

CODE = """
import random
import sys
import numpy as np
import torch
from torch.distributions import Distribution

def state():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(), \\
        Distribution._validate_args, torch.get_default_dtype()

before = state()
import pddlvm
assert state() == before
assert 'matplotlib' not in sys.modules
"""


def test_an_import_changes_nothing_and_leaves_matplotlib_alone():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def model() -> pddlvm.GalerkinModel:
    return pddlvm.LatentVariableModel(poisson.make_1d(6), basis=pddlvm.ResidualEnriched(n_modes=3))


@pytest.mark.slow
@pytest.mark.parametrize("validates", [True, False])
def test_nuts_leaves_the_validation_of_distributions(validates: bool, model, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", validates)
    observation = pddlvm.PointObservation(model.problem, [0.0], 0.1)
    model.infer(torch.zeros(1).double(), observation, "nuts", n_samples=8, n_chains=2)
    assert Distribution._validate_args is validates


@pytest.mark.parametrize("make", [small.galerkin, small.strong, small.in_time])
def test_a_model_takes_no_random_numbers_of_the_user(make, tmp_path: Path):
    before = torch.get_rng_state()
    model = make()
    pddlvm.train(model, max_steps=1, calibrate=False)
    z = model.problem.prior.sample((2,), seed=0)
    model.forward(z, 1).sample(seed=0)
    pddlvm.validate(model, 2)
    model.save(tmp_path / "model.pt")
    pddlvm.load(tmp_path / "model.pt", model.problem)
    assert torch.equal(torch.get_rng_state(), before)


def test_to_load_a_model_draws_no_random_numbers(model, tmp_path: Path):
    model.save(tmp_path / "model.pt")
    before = torch.get_rng_state()
    pddlvm.load(tmp_path / "model.pt", model.problem)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_others_print_while_a_mesh_is_read_is_seen(tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    run = subprocess.run

    def slow(*arguments: Any, **options: Any) -> object:
        other = threading.Thread(target=print, args=("a line",))
        other.start()
        other.join()
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", slow)
    fem.read_mesh(tmp_path / "a.obj")
    assert capsys.readouterr().out == "a line\n"
