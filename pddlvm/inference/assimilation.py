"""Data that arrive one time after the other: a posterior after each arrival.

    p(z | y_1 ... y_k)  ~  p(z) p(y_1 | z) ... p(y_k | z)

The times that have not come yet are missing values. Each Laplace approximation begins at the modes
of the one before, where its maximum is close: nothing is begun anew.
"""

from collections.abc import Iterable, Iterator
from time import perf_counter

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pddlvm.basics.checks import check_kind, check_vectors
from pddlvm.basics.errors import InputError
from pddlvm.basics.grad_mode import with_gradients
from pddlvm.basics.owned import owned
from pddlvm.basics.progress import ProgressBar
from pddlvm.inference.methods import Network, Query, posterior_of
from pddlvm.inference.posterior import Posterior
from pddlvm.latent.core import LatentModel
from pddlvm.latent.surrogate import Surrogate
from pddlvm.sensors.observation import PointObservation

__all__ = ["Stream", "assimilate"]

Stream = Iterable[tuple[float, "Tensor | ArrayLike"]]
"""Times, each with the values (..., n_points) of all sensors; NaN where one has none."""

_SAME = 1e-6
"""Of the interval, by which a time may miss that of an observation."""


def assimilate(
    model: LatentModel, stream: Stream, observation: PointObservation, network: Network
) -> Iterator[Posterior]:
    """See `LatentVariableModel.assimilate`."""
    check_kind(PointObservation, observation=observation)
    check_kind(Iterable, stream=stream)
    times = observation.times
    if times is None:
        raise InputError(
            "assimilate takes sensors that read at times, PointObservation(problem, points, "
            "noise_std, times=...) of a problem in time; data of one time are for infer"
        )
    if len(times) > 1 and not (np.diff(times) > 0).all():
        raise InputError("the times of the observation must increase, each of them once")
    surrogate = model.surrogate(observation, corrections=1)
    state = _Assimilation(model, observation, times, surrogate, network)
    return (state.take(arrival) for arrival in stream)


class _Assimilation:
    """All data so far, and where the modes of their posterior are."""

    def __init__(
        self,
        model: LatentModel,
        observation: PointObservation,
        times: NDArray[np.float64],
        surrogate: Surrogate,
        network: Network,
    ) -> None:
        self._model, self._observation, self._times = model, observation, times
        self._surrogate, self._network = surrogate, network
        self._y: Tensor | None = None
        self._start: Tensor | None = None
        self._last = -1

    @with_gradients
    def take(self, arrival: object) -> Posterior:
        """The posterior after one more time."""
        begin, observation = perf_counter(), self._observation
        time, given = _pair(arrival)
        k, n = _place(time, self._times, self._last), observation.n // len(self._times)
        has = f"have {n} values on its last axis, one per sensor at t = {self._times[k]:g}"
        values = owned(check_vectors(given, "y", n, has))
        if self._y is None:
            self._y = values.new_full((*values.shape[:-1], observation.n), torch.nan)
        batch = self._y.shape[:-1]
        if values.shape[:-1] != batch:
            raise InputError(
                f"the data sets of t = {self._times[k]:g} have a batch of shape "
                f"{tuple(values.shape[:-1])}, those before {tuple(batch)}"
            )
        y = self._y.clone()
        y[..., k * n : (k + 1) * n] = values
        self._y, self._last = y, k
        # Before anything was measured the posterior is the prior.
        nothing = torch.isnan(y).all(-1, keepdim=True)
        observation.check(torch.where(nothing, 0.0, y))
        flat = y.reshape(-1, observation.n).double().cpu()
        if self._start is None:
            self._start = flat.new_zeros(len(flat), 1, self._surrogate.prior.size)
        query = Query(
            self._model, observation, self._network, self._surrogate, flat, start=self._start
        )
        found = posterior_of(query, "laplace", y, ProgressBar(False), begin)
        self._start = query.laplace.modes.centre.transpose(0, 1)
        return found


def _pair(arrival: object) -> tuple[float, object]:
    if isinstance(arrival, tuple | list) and len(arrival) == 2:
        try:
            return float(arrival[0]), arrival[1]
        except (TypeError, ValueError):
            pass
    raise InputError(f"each arrival must be a pair of a time and its values, got {arrival!r}")


def _place(time: float, times: NDArray[np.float64], last: int) -> int:
    """Number of a time, later than the last one."""
    k = int(np.abs(times - time).argmin())
    if not abs(times[k] - time) <= _SAME * max(abs(times).max(), times[-1] - times[0]):
        raise InputError(
            f"t = {time:g} is none of the {len(times)} times of the observation, the nearest is "
            f"{times[k]:g}; make the observation with all times that may come"
        )
    if k == last:
        raise InputError(f"t = {time:g} has come already: give all values of a time together")
    if k < last:
        raise InputError(
            f"t = {time:g} comes after t = {times[last]:g}: a stream must be in the order of time; "
            "sort it, or give the whole series to infer"
        )
    return k
