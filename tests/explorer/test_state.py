"""States from a browser: what is right is read, all else is refused in words."""

import json

import pytest

from pddlvm.basics.errors import InputError, SupportError

LONG = "x" * 10**6
HTML = "<script>alert(1)</script>"


def test_a_state_is_read(plane, given):
    sensors = [{"x": [0.3, 0.4], "y": [0.1]}, {"x": [0.5, 0.5]}]
    state = plane.read(
        given(plane, view="draw", seed=3, corrections=1, sensors=sensors, noise=0.01)
    )
    assert state.z.tolist() == [0.0] * 4 and (state.view, state.field) == ("draw", "u")
    assert [s.y for s in state.sensors] == [(0.1,), (None,)] and state.noise_std == 0.01
    assert plane.read(given(plane, view="parameter")).field == "kappa"


@pytest.mark.parametrize(
    "changes",
    [
        {"z": [0.0] * 3},
        {"z": [0.0] * 10**6},
        {"z": LONG},
        {"z": [0.0, 0.0, 0.0, LONG]},
        {"z": [0.0, 0.0, 0.0, "__import__('os').system('true')"]},
        {"z": [0.0, 0.0, 0.0, True]},
        {"z": [0.0, 0.0, 0.0, 10**400]},
        {"z": [0.0, 0.0, 0.0, float("nan")]},
        {"z": [0.0, 0.0, 0.0, float("-inf")]},
        {"z": None},
        {"view": "__class__"},
        {"view": HTML},
        {"view": LONG},
        {"view": ["mean"]},
        {"field": "../../etc/passwd"},
        {"field": "kappa"},
        {"field": {"u": 1}},
        {"component": 1},
        {"component": 0.5},
        {"corrections": 2},
        {"corrections": True},
        {"seed": -1},
        {"seed": 2**70},
        {"time": 1},
        {"sensors": {}},
        {"sensors": [3]},
        {"sensors": [{"x": [0.1]}]},
        {"sensors": [{"x": [0.1, 0.1], "y": [LONG]}]},
        {"sensors": [{"x": [0.1, 0.1], "y": [0.1, 0.2]}]},
        {"sensors": [{"x": [0.1, 0.1], "z": [0.1]}]},
        {"sensors": [{"x": [0.1, 0.1]}] * 201},
        {"noise": 0},
        {"noise": -1},
        {"noise": HTML},
        {"path": "/etc/passwd"},
    ],
)
def test_what_is_wrong_is_refused_in_few_words(plane, given, changes):
    with pytest.raises((InputError, SupportError)) as refused:
        plane.read(given(plane, **changes))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("whole", [None, [], 3, LONG, {}, {"z": {}}])
def test_what_is_no_state_is_refused(plane, whole):
    with pytest.raises(InputError):
        plane.read(json.loads(json.dumps(whole)))
