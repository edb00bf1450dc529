"""Tables of time series: long, wide, with gaps; and what is wrong with others."""

import math

import parabolic
import pytest
import torch

import pddlvm
from pddlvm.runs.series import read_series
from problems import poisson

PLACES = "sensor,x,y\nA,0.3,0.4\nB,0.7,0.6\n"
Y = torch.tensor([[1.0, 2.0], [3.0, math.nan], [math.nan, 6.0]], dtype=torch.float64)


@pytest.fixture(scope="module")
def problem():
    return parabolic.make("heat", n_steps=10)


@pytest.fixture
def read(problem, tmp_path):
    def found(text, places=PLACES, noise_std=0.1, problem=problem):
        (tmp_path / "data.csv").write_text(text)
        (tmp_path / "places.csv").write_text(places)
        return read_series(tmp_path / "data.csv", tmp_path / "places.csv", problem, noise_std)

    return found


@pytest.mark.parametrize(
    "text",
    [
        "t,A,B\n0.1,1,2\n0.2,3,\n0.4,,6\n",
        "Time;B;A\n0,2;NA;3\n0,1;2;1\n0,4;6;-\n",
        "t,sensor,value\n0.1,A,1\n0.1,B,2\n0.2,A,3\n0.4,B,6\n",
        "sensor,value,time\nB,6,0.4\nB,2,0.1\nA,3,0.2\nA,1,0.1\nA,,0.4\n",
    ],
)
def test_series_of_one_content_are_read_alike(read, problem, text):
    found = read(text)
    torch.testing.assert_close(found.y, Y.flatten(), equal_nan=True)
    expected = pddlvm.PointObservation(
        problem, [[0.3, 0.4], [0.7, 0.6]], 0.1, times=[0.1, 0.2, 0.4]
    )
    assert (found.observation.matrix != expected.matrix).nnz == 0
    assert found.observation.times.tolist() == [0.1, 0.2, 0.4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,A,C\n0.1,1,2\n", r"columns t, A, C; it needs t and sensor.*or t and columns.*A, B"),
        ("A,B\n1,2\n", "needs one column t"),
        ("t,sensor,value\n0.1,C,1\n", r"sensors \['C'\], without places"),
        ("t,sensor,value\n0.1,A,1\n0.1,A,2\n", "'A' twice at t = 0.1"),
        ("t,sensor,value,colour\n0.1,A,1,2\n", "colour"),
        ("t,sensor\n0.1,A\n", "no column value"),
        ("t,A\n0.1,1\n0.1,2\n", "a time twice"),
        ("t,A\n7.0,1\n", "outside of the interval"),
        ("t,A\nsoon,1\n", "'soon', which is no number"),
        ("t,A\n,1\n", "which is no number"),
    ],
)
def test_wrong_series_are_refused_in_a_sentence(read, text, message):
    with pytest.raises(pddlvm.InputError, match=message):
        read(text)


def test_wrong_places_problems_and_noise_are_refused(read):
    text = "t,A\n0.1,1\n"
    with pytest.raises(pddlvm.InputError, match="no column x"):
        read(text, "sensor,y\nA,0.1\n")
    with pytest.raises(pddlvm.InputError, match="no column y"):
        read(text, "sensor,x\nA,0.1\n")
    with pytest.raises(pddlvm.InputError, match="no column sensor"):
        read(text, "name,x,y\n0,0.1,0.2\n")
    with pytest.raises(pddlvm.InputError, match="a sensor twice"):
        read(text, "sensor,x,y\nA,0.1,0.2\nA,0.3,0.2\n")
    with pytest.raises(pddlvm.InputError, match="needs --noise-std"):
        read(text, noise_std=None)
    with pytest.raises(pddlvm.InputError, match="no steps in time"):
        read(text, problem=poisson.make(4, 2))
