"""What the page asks, answered by a model; nothing of a browser is in it.

    scene        what there is: sliders, fields, the picture without values
    answer       the values of a view at z, certificate, verdict, milliseconds
    bound        a rigorous bound of the error at z, where there is one
    posterior    what readings say about z
    solve        the true error at z, by the reference solver

A state is all that an answer depends on. What was dear is kept: the last solutions and posteriors.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.explorer.domains import domain_of
from pddlvm.explorer.message import Message, finite
from pddlvm.explorer.readings import Readings, sensor_rows, sensors_of
from pddlvm.explorer.sliders import blocks_of
from pddlvm.explorer.state import VIEWS, State, read_seed, read_state
from pddlvm.models import LatentVariableModel

__all__ = ["Session"]

_KEPT = 8
_N_FIELDS = 128
_SMALL, _LARGE = 0.1, 1.0
"""Relative residuals up to which a mean is accepted, and from which it is rejected."""

Array = NDArray[np.float64]
V = TypeVar("V")


class Session:
    """Answers of a model; safe in threads.

    Args:
        model: trained.
        title: of the page.
        verdict: on the whole training, where it is known.

    Attributes:
        model: trained.
        domain: where u lives.

    Raises:
        InputError: the problem has too many coordinates to be drawn.
    """

    def __init__(self, model: LatentVariableModel, title: str = "", verdict: str = "") -> None:
        self.model, self.domain = model, domain_of(model.problem)
        self.title, self.verdict = title or model.problem.name, verdict
        self._fields = self._drawn_fields()
        self._solved: _Kept[tuple[Tensor, float]] = _Kept()
        self._read: _Kept[Readings] = _Kept()

    def prepare(self) -> None:
        """Answer once: what is made at first use is there then."""
        middle, _ = self.model.problem.prior.units
        self.answer(self.read({"z": middle.tolist()}))

    def read(self, given: Any) -> State:
        """The state that a browser sent, see `read_state`."""
        return read_state(given, self.model.problem.prior, self.domain, self._fields)

    def scene(self) -> Message:
        """What there is to see."""
        problem, domain = self.model.problem, self.domain
        head = {
            "title": self.title,
            "verdict": self.verdict,
            "kind": domain.kind,
            "axes": domain.axes,
            "times": domain.times,
            "fields": domain.fields,
            "parameterFields": list(self._fields),
            "isShell": domain.is_shell,
            "solver": domain.solver,
            "isCalibrated": self.model.is_calibrated,
            "views": VIEWS,
            "blocks": blocks_of(problem.prior),
            "nDofs": problem.n_dofs,
            "nParameters": problem.n_parameters,
        }
        numbers = {"cells": domain.cells, "owners": domain.owners}
        return Message(head, {"points": domain.points, **numbers})

    def draw(self, seed: Any) -> Message:
        """Parameters of the prior at random."""
        z = self.model.problem.prior.sample(seed=read_seed(seed))
        return Message({"z": z.tolist()})

    def load(self, text: Any) -> Message:
        """Sensors with readings from the text of a table."""
        if not isinstance(text, str):
            raise InputError("a table is a text")
        return Message({"sensors": sensors_of(text, self.domain)})

    def answer(self, state: State) -> Message:
        """The values of a view, and how far to trust them."""
        start = time.perf_counter()
        found = self.domain.forward(self.model, state.z, state.corrections, state.k)
        mean = _numbers(found.mean).reshape(-1)
        seconds = time.perf_counter() - start
        residual = float(found.residual_norm)
        values = self._view(state, found, mean)
        shown = self._component(values, state) if values.ndim == 2 else values
        arrays: dict[str, Array] = {"values": shown}
        if self.domain.is_shell and state.view not in ("sigma", "posterior sigma", "error"):
            own = next(iter(self.domain.fields))
            displaced = values if values.ndim == 2 else self.domain.at_points(mean, own)
            arrays["displacement"] = displaced
        if self.domain.kind == "line" and state.view in ("mean", "draw"):
            arrays["sigma"] = self._component(self._sigma(found, state), state)
        head: dict[str, Any] = {
            "low": finite(shown.min()),
            "high": finite(shown.max()),
            "residual": finite(residual),
            "verdict": _verdict(residual, state.corrections),
            "milliseconds": 1e3 * seconds,
            "sensors": self._seen(state),
        }
        return Message(head, arrays)

    def bound(self, state: State) -> Message:
        """Upper bound of the error of the mean, relative to it; none where there is none.

        It may cost a hundred times what the mean does.
        """
        found = self.domain.forward(self.model, state.z, state.corrections, state.k)
        bound = getattr(found, "error_bound", None)
        return Message(
            {"bound": None if bound is None else finite(bound / self.model.norm(found.mean))}
        )

    def posterior(self, state: State) -> Message:
        """What the readings say of each parameter, and the verdict on that."""
        start = time.perf_counter()
        readings = self._readings(state)
        posterior, z = readings.posterior, readings.parameters
        levels = torch.tensor([0.025, 0.5, 0.975], dtype=z.dtype)
        head = {
            "mean": z.mean(0).tolist(),
            "std": z.std(0).tolist(),
            "quantiles": z.quantile(levels, dim=0).tolist(),
            "verdict": posterior.diagnostics.verdict,
            "pValue": finite(posterior.diagnostics.p_value),
            "milliseconds": 1e3 * (time.perf_counter() - start),
        }
        return Message(head)

    def solve(self, state: State) -> Message:
        """The true error of the mean, by a reference solution."""
        u, seconds = self._solution(state.z)
        found = self.domain.forward(self.model, state.z, state.corrections, state.k)
        true = _numbers(self.domain.state(u, state.k))
        mean, std = _numbers(found.mean).reshape(-1), _numbers(found.std).reshape(-1)
        free = std > 0
        size = float(np.linalg.norm(true))
        head = {
            "seconds": seconds,
            "relative": finite(np.linalg.norm(mean - true) / size) if size else None,
            "largest": finite(np.abs(mean - true).max()),
            "inside": finite((np.abs(mean - true) <= 2 * std)[free].mean()) if free.any() else None,
        }
        if self.domain.kind != "line" or state.field not in self.domain.fields:
            return Message(head)
        # In the picture of a line there is room for both.
        reference = self._component(self.domain.at_points(true, state.field), state)
        return Message(head, {"reference": reference})

    def _view(self, state: State, found: Any, mean: Array) -> Array:
        """Values at points (n, n_components), or of points or cells (n,)."""
        view, at, k = state.view, self.domain.at_points, state.k
        if view == "parameter":
            return self.domain.parameter(state.z, state.field, k)
        if view == "sigma":
            return self._sigma(found, state)
        if view == "draw":
            return at(_numbers(found.sample(seed=state.seed)).reshape(-1), state.field)
        if view == "error":
            true = _numbers(self.domain.state(self._solution(state.z)[0], k))
            return np.abs(at(mean - true, state.field))
        if view.startswith("posterior"):
            readings = self._readings(state)
            if state.field in self.domain.fields:
                draws = _numbers(self.domain.state(readings.solutions, k))
                values = np.stack([at(u, state.field) for u in draws])
            else:
                drawn = readings.parameters[:_N_FIELDS]
                values = np.stack([self.domain.parameter(z, state.field, k) for z in drawn])
            return np.asarray(values.mean(0) if view == "posterior mean" else values.std(0))
        return at(mean, state.field)

    def _sigma(self, found: Any, state: State) -> Array:
        """Standard deviations at points, (n, n_components)."""
        space = getattr(getattr(self.model.problem, "steady", self.model.problem), "space", None)
        if space is None or space.is_value.all():
            return self.domain.at_points(_numbers(found.std).reshape(-1), state.field)
        draws = _numbers(found.sample((200,), seed=0)).reshape(200, -1)
        return np.stack([self.domain.at_points(u, state.field) for u in draws]).std(axis=0)

    def _component(self, values: Array, state: State) -> Array:
        if values.shape[1] == 1:
            return values[:, 0]
        if state.component >= 0:
            return values[:, state.component]
        return np.asarray(np.linalg.norm(values, axis=1))

    def _seen(self, state: State) -> list[list[float]]:
        """What the sensors would read at z, (n_sensors, n_components)."""
        if not state.sensors:
            return []
        rows = sensor_rows(self.domain, state.sensors)
        u = self.model.forward(state.z, corrections=state.corrections).mean
        values: list[list[float]] = (
            (rows @ _numbers(u).reshape(-1)).reshape(len(state.sensors), -1).tolist()
        )
        return values

    def _readings(self, state: State) -> Readings:
        if not state.sensors:
            raise InputError("there is no sensor yet: click on the picture")
        key = (state.sensors, state.noise_std)
        made = Readings(self.model, self.domain, state.sensors, state.noise_std)
        return self._read.get(key, lambda: made)

    def _solution(self, z: Tensor) -> tuple[Tensor, float]:
        def solve() -> tuple[Tensor, float]:
            start = time.perf_counter()
            return self.model.problem.solve(z), time.perf_counter() - start

        return self._solved.get(tuple(z.tolist()), solve)

    def _drawn_fields(self) -> tuple[str, ...]:
        """Parameter fields that are not the same everywhere."""
        found, problem = [], self.model.problem
        z = problem.prior.sample(seed=0)
        for name, field in problem.random_fields.items():
            try:
                values = self.domain.parameter(z, name, 0)
            except InputError:
                continue
            if field.size > 1 or np.ptp(values) > 0:
                found.append(name)
        return tuple(found)


class _Kept(Generic[V]):
    """The last few values by their keys, made one at a time."""

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key."""
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
                if len(self._values) > _KEPT:
                    self._values.popitem(last=False)
            self._values.move_to_end(key)
            return self._values[key]


def _verdict(residual: float, corrections: int) -> str:
    if residual <= _SMALL:
        return "accept"
    advice = "train longer" if corrections else "switch the correction on"
    word = "refine" if residual <= _LARGE else "reject"
    return f"{word}: the residual is {100 * residual:.3g} % of the solution; {advice}"


def _numbers(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()
