"""Where a Gaussian stands for a posterior that is not symmetric: at its mean, not at its maximum.

    mean  =  eta_max + 1/2 L L^T sum_j D^2 g [L_j, L_j] + ...,     g = d log p / deta

L_j are the columns of L, L L^T the covariance at the maximum (Lindley, Trabajos de Estadística 31,
1980): there g vanishes on average over the Gaussian, and to that order it is the closest one. The
second derivatives are differences of g over a part of a standard deviation. Of a bent ridge the
maximum is off by a tenth of a standard deviation in each parameter, to the same side for most data.
"""

from functools import partial

import torch
from torch import Tensor

from pddlvm.inference.climb import newton_system, points
from pddlvm.inference.modes import objective
from pddlvm.latent.surrogate import Surrogate
from pddlvm.sampling.coordinates import Coordinates

__all__ = ["MOST_CENTRED", "centred"]

MOST_CENTRED = 12
"""Parameters, which take two derivatives of the data each."""
_STEP = 0.2
"""Of the differences, in standard deviations."""
_FARTHEST = 0.5
"""That a parameter is moved, in its standard deviations: beyond, the series says nothing."""
_CHUNK = 64


def centred(surrogate: Surrogate, y: Tensor, modes: Coordinates) -> Coordinates:
    """The same Gaussians around means.

    Args:
        surrogate: predicts the data.
        y: (batch, n), float64; NaN where nothing was measured.
        modes: coordinates in which the Gaussian of each maximum is standard, (n_modes, batch, ...).
    """
    n_modes, n_data = modes.centre.shape[:2]
    eta, factor = modes.centre.flatten(0, 1), modes.factor.flatten(0, 1)
    parts = (x.split(_CHUNK) for x in (y.repeat(n_modes, 1), eta, factor))
    shift = torch.cat([_shift(surrogate, *part) for part in zip(*parts, strict=True)])
    centre = modes.centre + shift.unflatten(0, (n_modes, n_data))
    return Coordinates(modes.prior, centre, modes.factor)


def _shift(surrogate: Surrogate, y: Tensor, eta: Tensor, factor: Tensor) -> Tensor:
    """From maxima eta (batch, d), of data sets (batch, n)."""
    prior, noise = surrogate.prior, surrogate.observation.noise
    step = _STEP * factor.permute(2, 0, 1)
    around = torch.cat([eta[None], eta + step, eta - step])
    of = torch.arange(len(eta)).repeat(len(around))
    at = points(surrogate, around.flatten(0, 1), partial(objective, surrogate, y[of]))
    error = surrogate.error(Coordinates.plain(prior).xi_of(eta))
    precision = noise.precision(y[of] - at.data).widened(error.at(of))
    g = newton_system(prior, at, y[of], precision)[1].unflatten(0, around.shape[:2])
    second = (g[1:].sum(0) - (len(g) - 1) * g[0]) / _STEP**2
    shift = 0.5 * (factor @ (factor.mT @ second[..., None]))[..., 0]
    far = (shift.abs() / factor.square().sum(-1).sqrt()).amax(-1, keepdim=True)
    return torch.where(torch.isfinite(far), shift * (_FARTHEST / far).clamp(max=1), 0.0)
