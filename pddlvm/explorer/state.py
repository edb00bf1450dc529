"""What the page wants to see, as it comes from a browser: nothing of it is believed.

A state is a JSON object of numbers, lists of numbers, and names that the scene has listed. It is
read field by field; what is not known is refused, and nothing of it is evaluated, or opened.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.explorer.domains import Domain
from pddlvm.parameters.space import ParameterSpace

__all__ = ["MOST_SENSORS", "VIEWS", "Sensor", "State", "read_seed", "read_state"]

VIEWS = ("mean", "sigma", "draw", "parameter", "posterior mean", "posterior sigma", "error")
"""Of a field of u, but for `parameter`, the name of whose field is given by `field`."""

MOST_SENSORS = 200
_MOST_TEXT = 200
_MOST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Sensor:
    """A place, a time where there are times, and readings: None where there is none."""

    x: tuple[float, ...]
    k: int
    y: tuple[float | None, ...]


@dataclass(frozen=True)
class State:
    """What is shown.

    Attributes:
        z: parameters, (d,), float64, in the support of the prior.
        view: one of VIEWS.
        field: of u, or the name of a parameter field.
        component: of a vector; -1 for its length.
        corrections: 0, or 1 for a Newton step in the basis.
        seed: of the draw.
        k: number of the time.
        sensors: with readings.
        noise_std: of the readings.
    """

    z: Tensor
    view: str
    field: str
    component: int
    corrections: int
    seed: int
    k: int
    sensors: tuple[Sensor, ...]
    noise_std: float


def read_state(given: Any, prior: ParameterSpace, domain: Domain, drawn: Sequence[str]) -> State:
    """The state that a browser sent.

    Args:
        given: parsed JSON, whatever it is.
        prior: of z.
        domain: where u lives.
        drawn: names of the parameter fields that can be drawn.

    Raises:
        InputError, SupportError: it is none, or z is outside of the prior.
    """
    known = {"z", "view", "field", "component", "corrections", "seed", "time", "sensors", "noise"}
    if not isinstance(given, Mapping) or set(given) - known:
        raise InputError(f"a state is an object with {sorted(known)}")
    z = torch.tensor(_numbers(given.get("z"), "z", prior.size), dtype=torch.float64)
    view = _one_of(given.get("view", "mean"), VIEWS, "view")
    names = tuple(drawn) if view == "parameter" else tuple(domain.fields)
    if view.startswith("posterior"):
        names = (*names, *drawn)
    if not names:
        raise InputError("there is no parameter field to draw")
    field = _one_of(given.get("field", names[0]), names, "field")
    n = 1 if view == "parameter" else domain.fields.get(field, 1)
    most = n - 1 if n > 1 else -1
    last = max(len(domain.times) - 1, 0)
    k = _integer(given.get("time", last), 0, last, "time")
    return State(
        z=prior.check(z),
        view=view,
        field=field,
        component=_integer(given.get("component", -1), -1, most, "component"),
        corrections=_integer(given.get("corrections", 0), 0, 1, "corrections"),
        seed=read_seed(given.get("seed", 0)),
        k=k,
        sensors=_sensors(given.get("sensors", []), domain),
        noise_std=_noise(given.get("noise", 1.0)),
    )


def read_seed(given: Any) -> int:
    """A seed, or an InputError."""
    return _integer(given, 0, _MOST_SEED, "seed")


def _sensors(given: Any, domain: Domain) -> tuple[Sensor, ...]:
    if not isinstance(given, list) or len(given) > MOST_SENSORS:
        raise InputError(f"sensors must be a list of at most {MOST_SENSORS}")
    dim, last = len(domain.axes), max(len(domain.times) - 1, 0)
    n = next(iter(domain.fields.values()))
    found = []
    for one in given:
        if not isinstance(one, Mapping) or set(one) - {"x", "time", "y"}:
            raise InputError("a sensor is an object with x, time and y")
        x, y = _numbers(one.get("x"), "x of a sensor", dim), one.get("y", [None] * n)
        if not isinstance(y, list) or len(y) != n:
            raise InputError(f"y of a sensor must be a list of {n} readings")
        readings = [None if v is None else _number(v, "a reading") for v in y]
        k = _integer(one.get("time", last), 0, last, "time of a sensor")
        found.append(Sensor(tuple(x), k, tuple(readings)))
    return tuple(found)


def _noise(given: Any) -> float:
    std = _number(given, "the noise")
    if not 0 < std < 1e100:
        raise InputError(f"the noise must have a positive standard deviation, got {std:g}")
    return std


def _one_of(given: Any, names: Sequence[str], what: str) -> str:
    if not isinstance(given, str) or given not in names:
        shown = repr(given)[:_MOST_TEXT]
        raise InputError(f"{what} must be one of {', '.join(names)}, got {shown}")
    return given


def _numbers(given: Any, what: str, n: int) -> list[float]:
    if not isinstance(given, list) or len(given) != n:
        raise InputError(f"{what} must be a list of {n} numbers")
    return [_number(value, what) for value in given]


def _number(given: Any, what: str) -> float:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not abs(given) < 1e300 or not math.isfinite(given):
        raise InputError(f"{what} must be finite numbers, got {repr(given)[:_MOST_TEXT]}")
    return float(given)


def _integer(given: Any, least: int, most: int, what: str) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not least <= given <= most:
        shown = repr(given)[:_MOST_TEXT] if not isinstance(given, int) else "another number"
        raise InputError(f"{what} must be an integer between {least} and {most}, got {shown}")
    return given
