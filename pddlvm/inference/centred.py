"""Where a Gaussian stands for a posterior that is not symmetric: at its mean, not at its maximum.

    mean  =  eta_max + 1/2 L L^T sum_j D^2 g [L_j, L_j] + ...,     g = d log p / deta

L_j are the columns of L, L L^T the covariance at the maximum (Lindley, Trabajos de Estadística 31,
1980): there g vanishes on average over the Gaussian, and to that order it is the closest one. The
second derivatives are differences of g over a part of a standard deviation, along the columns of a
triangular L: of strong bends differences depend on their directions, and another search for the
same maximum must end at the same mean. Of a bent ridge the maximum is off by a tenth of a standard
deviation in each parameter, to the same side for most data.
"""

from functools import partial

import torch
from torch import Tensor

from pddlvm.basics.parallel import Watch, each
from pddlvm.inference.climb import Points, newton_system, points, spread
from pddlvm.inference.modes import objective
from pddlvm.latent.surrogate import Surrogate
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sensors.widened import WidenedGaussian

__all__ = ["MOST_CENTRED", "centred"]

MOST_CENTRED = 12
"""Parameters, which take two derivatives of the data each."""
_STEP = 0.05
"""Of the differences, in standard deviations."""
_FARTHEST = 0.5
"""That a parameter is moved, in its standard deviations: beyond, the series says nothing."""
_CHUNK, _PER_WORKER = 64, 1024
"""Data sets that are held at once; those of a part for workers."""


def centred(surrogate: Surrogate, y: Tensor, modes: Coordinates) -> Coordinates:
    """The same Gaussians around means.

    Args:
        surrogate: predicts the data.
        y: (batch, n), float64; NaN where nothing was measured.
        modes: coordinates in which the Gaussian of each maximum is standard, (n_modes, batch, ...).
    """
    n_modes, n_data = modes.centre.shape[:2]
    eta, factor = modes.centre.flatten(0, 1), modes.factor.flatten(0, 1)
    parts = (x.split(_PER_WORKER) for x in (y.repeat(n_modes, 1), eta, factor))
    found = each(_shifts, surrogate, list(zip(*parts, strict=True)), what=_in_words)
    centre = modes.centre + torch.cat(found).unflatten(0, (n_modes, n_data))
    return Coordinates(modes.prior, centre, modes.factor)


def _in_words(part: tuple[Tensor, ...]) -> str:
    return f"the means of {len(part[0])} data sets"


def _shifts(surrogate: Surrogate, part: tuple[Tensor, ...], watch: Watch) -> Tensor:
    parts = zip(*(x.split(_CHUNK) for x in part), strict=True)
    return torch.cat([_shift(surrogate, *few) for few in parts])


def _shift(surrogate: Surrogate, y: Tensor, eta: Tensor, factor: Tensor) -> Tensor:
    """From maxima eta (batch, d), of data sets (batch, n)."""
    error = surrogate.error(Coordinates.plain(surrogate.prior).xi_of(eta))
    noise = surrogate.observation.noise
    both = noise.widened(~torch.isnan(y), error)

    def gradient(of: Tensor, at: Points) -> Tensor:
        if isinstance(both, WidenedGaussian):
            precision = both.precision.at(of)
        else:
            # That of noise which is not Gaussian depends on the misfit.
            precision = noise.precision(y[of] - at.data).widened(error.at(of))
        return newton_system(surrogate.prior, at, y[of], precision)[1]

    here = points(surrogate, eta, partial(objective, surrogate, y))
    # Of what g is the derivative of: a ridge that is turned by little lies beside itself.
    own = spread(surrogate, y, here, error)
    step = _STEP * own.permute(2, 0, 1)
    around = torch.cat([eta + step, eta - step]).flatten(0, 1)
    of = torch.arange(len(y)).repeat(len(around) // len(y))
    g = gradient(of, points(surrogate, around, partial(objective, surrogate, y[of])))
    middle = gradient(of[: len(y)], here)
    second = (g.unflatten(0, (-1, len(y))).sum(0) - 2 * len(step) * middle) / _STEP**2
    shift = 0.5 * (own @ (own.mT @ second[..., None]))[..., 0]
    far = (shift.abs() / factor.square().sum(-1).sqrt()).amax(-1, keepdim=True)
    return torch.where(torch.isfinite(far), shift * (_FARTHEST / far).clamp(max=1), 0.0)
