"""Sessions of small models."""

import pytest

import pddlvm
from pddlvm.explorer.session import Session


@pytest.fixture(scope="package")
def session(linear_model):
    """Of a line."""
    return Session(linear_model)


@pytest.fixture(scope="package")
def plane():
    """Of a square, with a field of four parameters."""
    from problems import poisson

    model = pddlvm.LatentVariableModel(poisson.make(8, n_terms=4))
    pddlvm.train(model, max_steps=30)
    return Session(model, "<img src=x onerror=alert(1)>", "accept")


@pytest.fixture
def given():
    """A state as a browser sends it, with changes."""

    def make(session, **changes):
        blocks = session.scene().head["blocks"]
        return {"z": [p["z"] for b in blocks for p in b["parameters"]], **changes}

    return make
