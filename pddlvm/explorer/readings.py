"""Sensors of the page: what they see, what they measured, and what follows from it.

y = H u + e,   e ~ N(0, std^2)      p(z | y) by Laplace, and u by draws of it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.explorer.domains import Domain
from pddlvm.explorer.message import finite
from pddlvm.explorer.state import MOST_SENSORS, Sensor
from pddlvm.inference.posterior import Posterior
from pddlvm.models import LatentVariableModel
from pddlvm.runs.tables import table_of
from pddlvm.sensors.observation import LinearObservation

__all__ = ["Readings", "sensor_rows", "sensors_of"]

_TABLE = Path("the table")
_N_DRAWS = 64
_N_PARAMETERS = 2000


def sensor_rows(domain: Domain, sensors: Sequence[Sensor]) -> sp.csr_matrix:
    """Matrix from u to what sensors see, row after row all components of one.

    Raises:
        InputError: a sensor is outside of the domain.
    """
    field = next(iter(domain.fields))
    rows = [domain.rows(np.array([s.x]), s.k, field)[: domain.fields[field]] for s in sensors]
    return sp.csr_matrix(sp.vstack(rows, format="csr"))


def sensors_of(text: str, domain: Domain) -> list[dict[str, Any]]:
    """Sensors of a table, as a state has them: coordinates, t where there are times, and readings.

    Raises:
        InputError: it is no such table, or has too many rows.
    """
    n = next(iter(domain.fields.values()))
    values = ("value",) if n == 1 else tuple(f"value_{i}" for i in range(n))
    names = (*domain.axes, *(("t",) if domain.times else ()))
    table = table_of(text.removeprefix("\ufeff"), _TABLE).named((*names, *values))
    if len(table.rows) > MOST_SENSORS:
        raise InputError(f"the table has {len(table.rows)} rows, at most {MOST_SENSORS} are shown")
    places, y = table.numbers(names).tolist(), table.numbers(values, may_miss=True).tolist()
    found = []
    for place, readings in zip(places, y, strict=True):
        one = {"x": place[: len(domain.axes)], "y": [finite(v) for v in readings]}
        if domain.times:
            one["time"] = int(np.argmin(np.abs(np.array(domain.times) - place[-1])))
        found.append(one)
    return found


@dataclass(frozen=True)
class Readings:
    """What sensors measured, and the posterior.

    Attributes:
        model: trained.
        domain: where u lives.
        sensors: at least one of them with a reading.
        noise_std: of the readings.
    """

    model: LatentVariableModel
    domain: Domain
    sensors: tuple[Sensor, ...]
    noise_std: float

    @cached_property
    def posterior(self) -> Posterior:
        """p(z | y).

        Raises:
            InputError: no reading, or a sensor outside of the domain.
            ConvergenceError: predictions are not finite where the readings lead.
        """
        y = [np.nan if v is None else v for s in self.sensors for v in s.y]
        if np.isnan(y).all():
            raise InputError("no sensor has a reading yet")
        rows = sensor_rows(self.domain, self.sensors)
        observation = LinearObservation(self.model.problem, rows, self.noise_std)
        return self.model.infer(torch.tensor(y, dtype=torch.float64), observation)

    @cached_property
    def parameters(self) -> Tensor:
        """Draws of z, (n, d)."""
        return self.posterior.sample((_N_PARAMETERS,), seed=0)

    @cached_property
    def solutions(self) -> Tensor:
        """Draws of u, (n, *solution_shape)."""
        return self.posterior.solution(_N_DRAWS, seed=0).samples
