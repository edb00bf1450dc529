"""Searches from several starts, but for starts in the basin of a maximum that is known.

The best start of a data set goes first. Another one, s, lies in the basin of the maximum e that was
found if the log density climbs all the straight way from s to e. The predicted data along it,

    h(s + t (e - s))  ~  cubic in t with the values h and derivatives J (e - s) of both ends,

cost nothing. Only starts that a valley parts from e are searched from: that one maximum is all
there is, as for most data sets, is found by one search.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pddlvm.inference.climb import Maximum, Points, maximise, points, spread
from pddlvm.inference.modes import VALLEY, distinct, objective, value_at
from pddlvm.latent.surrogate import Surrogate
from pddlvm.sampling.coordinates import Coordinates

__all__ = ["N_BETWEEN", "Explored", "explore", "explore_roughly", "points_of"]

_ROUGH_DECREMENT = 0.1
N_BETWEEN = 15
"""Places on the way from a start to a maximum."""
_WAY = torch.linspace(0, 1, N_BETWEEN + 2, dtype=torch.float64)[1:-1, None, None]


@dataclass(frozen=True)
class Explored:
    """Result of searches.

    Attributes:
        kept: starts from which a search was made, (batch, n_starts); its `nonzero` are their order.
        start: the points there.
        found: where they ended.
    """

    kept: Tensor
    start: Points
    found: Maximum


def explore(
    surrogate: Surrogate, y: Tensor, at: Points, asked: Tensor, tolerance: float
) -> Explored:
    """Maxima of searches from those of the starts that are not in the basin of a better one's.

    Args:
        surrogate: predicts the data.
        y: (batch, n), float64; NaN where nothing was measured.
        at: the points of starts, in the order of those that are asked.
        asked: whose they are, one of each data set at least, (batch, n_starts).
        tolerance: squared Newton decrement at which a search ends.
    """
    of = asked.nonzero()[:, 0]
    value = torch.full(asked.shape, -torch.inf, dtype=y.dtype).masked_scatter(asked, at.value)
    # Of starts outside of all predictions the first one.
    value = torch.where(asked & ~torch.isfinite(value), -torch.finfo(y.dtype).max, value)
    is_best = torch.zeros_like(asked).scatter(1, value.argmax(1, keepdim=True), True)[asked]
    best = maximise(surrogate, y, at.of(is_best), tolerance)
    rest = (~is_best).nonzero()[:, 0]
    rest = rest[~_climbs(surrogate, y[of[rest]], at.of(rest), best.at.of(of[rest]))]
    rows, order = torch.cat([is_best.nonzero()[:, 0], rest]).sort()
    if len(rest):
        best = best.joined(maximise(surrogate, y[of[rest]], at.of(rest), tolerance), order)
    kept = torch.zeros_like(is_best).index_fill(0, rows, True)
    return Explored(torch.zeros_like(asked).masked_scatter(asked, kept), at.of(rows), best)


def _climbs(surrogate: Surrogate, y: Tensor, start: Points, end: Points) -> Tensor:
    """Does the log density climb all the way from a start to an end? (batch,)."""
    t, change = _WAY, end.eta - start.eta
    leave, arrive = ((p.jacobian @ change[..., None])[..., 0] for p in (start, end))
    data = (1 + 2 * t) * (1 - t) ** 2 * start.data + t * (1 - t) ** 2 * leave
    data = data + t**2 * (3 - 2 * t) * end.data - t**2 * (1 - t) * arrive
    value = objective(surrogate, y, start.eta + t * change, data)
    value = torch.cat([start.value[None], value, end.value[None]])
    return (value[1:] >= value.cummax(0).values[:-1] - VALLEY).all(0)


def points_of(surrogate: Surrogate, y: Tensor, start: Tensor, asked: Tensor) -> Points:
    """Those of starts (batch, n_starts, d) that are asked."""
    of = asked.nonzero()[:, 0]
    return points(surrogate, start[asked], partial(objective, surrogate, y[of]))


def explore_roughly(surrogate: Surrogate, y: Tensor, start: Tensor) -> tuple[Points, Tensor, int]:
    """Searches on a rough surrogate: corrected points at their ends, of which starts, iterations.

    One that meets predictions which the noise cannot hide from their correction may have crossed
    into the basin of another maximum: the search begins again at its start, and so do those that
    were left out for it. Where the best end of each mode is none of these, the others are not
    asked.
    """
    rough, every = surrogate.rough(), torch.ones(start.shape[:2], dtype=torch.bool)
    searched = explore(rough, y, points_of(rough, y, start, every), every, _ROUGH_DECREMENT)
    kept, found = searched.kept, searched.found
    of = kept.nonzero()[:, 0]
    rows, flat, eta = y[of], start[kept], found.at.eta
    data = _mean(surrogate, flat)
    before = objective(surrogate, rows, flat, data)
    is_hidden = _is_hidden(surrogate, rows, searched.start.data - data)
    factor = torch.eye(start.shape[-1], dtype=y.dtype).repeat(*kept.shape, 1, 1)
    factor[kept] = spread(surrogate, rows, found.at)

    def modes(ends: Tensor, value: Tensor) -> Tensor:
        """Which of the ends, of this log density, are modes of their own, (n_searches,)."""
        places = start.masked_scatter(kept[..., None], ends)
        values = torch.full(kept.shape, -torch.inf, dtype=y.dtype).masked_scatter(kept, value)
        return distinct(places, values, factor, partial(value_at, rough, y))[kept]

    ends, is_good = found.at, is_hidden.clone()
    is_asked = torch.zeros_like(is_hidden)
    asked = modes(eta, torch.where(is_hidden, found.at.value, -torch.inf))
    while asked.any():
        log_density = partial(objective, surrogate, rows[asked])
        new = points(surrogate, eta[asked], log_density)
        ends = ends.with_rows(asked.nonzero()[:, 0], new)
        is_fine = _is_hidden(surrogate, rows[asked], found.at.data[asked] - new.data)
        is_good[asked] &= is_fine & (new.value >= before[asked])
        # Then all of the data sets of one that is not.
        lost = torch.zeros(len(y), dtype=torch.bool)
        lost[of[is_hidden & ~is_good]] = True
        is_asked = is_asked | asked
        asked = lost[of] & is_hidden & ~is_asked
    is_known = is_good & is_asked
    value = torch.where(is_known, ends.value, torch.where(is_good, -torch.inf, before))
    eta = torch.where(is_good[:, None], eta, flat)
    is_new = modes(eta, value) | ~is_good
    chosen = torch.zeros_like(kept).masked_scatter(kept, is_new)
    lost = torch.zeros(len(y), dtype=torch.bool)
    lost[of[~is_good]] = True
    chosen |= lost[:, None] & ~kept
    chosen[:, 0] |= ~chosen.any(1)
    known = torch.zeros_like(kept).masked_scatter(kept, is_known & is_new)
    at, unknown = ends.of(is_known & is_new), chosen & ~known
    if unknown.any():
        start = start.masked_scatter(kept[..., None], eta)
        order = torch.cat([known.flatten().nonzero(), unknown.flatten().nonzero()])[:, 0].argsort()
        at = at.joined(points_of(surrogate, y, start, unknown)).of(order)
    return at, chosen, found.iterations


def _mean(surrogate: Surrogate, eta: Tensor) -> Tensor:
    """Predicted data: many searches begin at the same places."""
    xi, index = Coordinates.plain(surrogate.prior).xi_of(eta).unique(dim=0, return_inverse=True)
    return surrogate.mean(xi)[index]


def _is_hidden(surrogate: Surrogate, y: Tensor, error: Tensor) -> Tensor:
    """Does the noise hide an error of predicted data? (batch,)."""
    seen = ~torch.isnan(y)
    return surrogate.observation.noise.square(torch.where(seen, error, y)) <= seen.sum(-1)
