"""Where sensors tell most: greedy choice by the expected information gain.

    C_i = (I + sum_s B_s^T B_s)^-1,   B_s = sigma_s^-1 dh_s/dxi at z_i        s: sensors so far
    gain of a sensor  =  mean over draws z_i of  1/2 log |I + B C_i B^T|

It is Laplace's approximation of the mutual information of parameters and data, nats, with the prior
as a Gaussian of its mean and variance. With a goal q, A = dq/dxi, the mutual information of q and
the data: the gain of a sensor is then what it tells of all parameters, less what it would tell if
q were known,

    1/2 log |I + B C_i B^T| - 1/2 log |I + B D_i B^T|,    D_i that of C_i given A xi

Both covariances follow each sensor by an update of low rank. Information is submodular: greedy
choices reach at least 1 - 1/e of the best set of as many (Nemhauser et al., 1978) for all
parameters; for a goal there is no such promise. (Attia, Alexanderian and Saibaba, Inverse Problems
34, 2018, for goals.)
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind
from pddlvm.basics.errors import InputError
from pddlvm.basics.progress import ProgressBar
from pddlvm.decisions.answers import Answers
from pddlvm.decisions.draws import even_draws
from pddlvm.latent.core import LatentModel
from pddlvm.sensors.noise import Gaussian
from pddlvm.sensors.observation import LinearObservation, PointObservation
from pddlvm.sensors.quantity import Quantity

__all__ = ["Placement", "place_sensors"]

_STEP = 1e-2
"""Of differences, in standard deviations of the prior."""
_RANK = 1e-10
"""Part of the largest singular value of a goal's derivatives below which they tell nothing."""


@dataclass(frozen=True)
class Placement:
    """Sensors in the order in which they were chosen.

    Attributes:
        index: numbers of the candidates, (n,).
        gain: information of the first 1, 2, ... n sensors together, nats, (n,).
        alone: that of each candidate as the only sensor, (n_candidates,).
        points: of all candidates, (n_candidates, dim), where they are points.
        observation: the sensors that were chosen, for `model.infer`.
        goal: the quantity that they tell of; None: all parameters.
    """

    index: Tensor
    gain: Tensor
    alone: Tensor = field(repr=False)
    points: NDArray[np.float64] | None = field(repr=False)
    observation: LinearObservation = field(repr=False)
    goal: Quantity | None = None

    @property
    def chosen(self) -> NDArray[np.float64]:
        """The points that were chosen, (n, dim).

        Raises:
            InputError: the candidates are rows of a matrix, and no points.
        """
        if self.points is None:
            raise InputError("the candidates are rows of a LinearObservation, and have no points")
        chosen: NDArray[np.float64] = self.points[self.index.numpy()]
        return chosen


def place_sensors(
    model: LatentModel,
    candidates: "ArrayLike | Tensor | LinearObservation",
    n: int,
    noise_std: float | Tensor,
    goal: Quantity | None = None,
    *,
    n_draws: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Placement:
    """Choose n of the candidates so that their data tell most, one after the other.

    Args:
        model: a trained model.
        candidates: points (n_candidates, dim), where u is measured, all its components, in time at
            all steps; or a `LinearObservation` of which each row is a sensor.
        n: how many, at most as many as there are candidates; none is chosen twice.
        noise_std: of the data, a number or one for each candidate.
        goal: the quantity that the data are for; by default all parameters.
        n_draws: of the prior, at which data are linearised.
        seed: of the draws.
        progress: show a bar.

    Raises:
        InputError: a point outside, more sensors than candidates, noise that is not positive, a
            goal of another problem.
    """
    check_kind(LatentModel, model=model)
    check_kind(Quantity | None, goal=goal)
    check_count(1, n=n, n_draws=n_draws)
    sensors, groups = _sensors(model, candidates, noise_std)
    if n > len(groups):
        raise InputError(f"there are {len(groups)} candidates, and n = {n} sensors are asked for")
    prior = model.problem.prior
    xi = even_draws(prior, n_draws, seed).flatten(0, 1)[:n_draws]
    surrogate = model.surrogate(sensors, corrections=model.cheap_corrections)
    _, slopes = surrogate.linearise(xi)
    b = _compressed(slopes / sensors.noise.variance().sqrt()[:, None], groups)
    c = torch.eye(prior.size, dtype=torch.float64).expand(n_draws, -1, -1)
    covariances = [c] if goal is None else [c, _given(_derivatives(Answers(model, goal), xi))]
    index: list[int] = []
    gains: list[float] = []
    alone = torch.zeros(0)
    with ProgressBar(progress) as bar:
        bar.say("sensors")
        for k in range(n):
            found = _information(b, covariances)
            alone = found if not k else alone
            taken = torch.tensor(index, dtype=torch.int64)
            best = int(found.index_fill(0, taken, -torch.inf).argmax())
            index.append(best)
            gains.append(float(found[best]))
            covariances = [_updated(own, b[:, best]) for own in covariances]
            bar.show((k + 1) / n)
    chosen = torch.tensor(index)
    rows = groups[chosen].flatten()
    return Placement(
        index=chosen,
        gain=torch.tensor(gains, dtype=torch.float64).cumsum(0),
        alone=alone,
        points=getattr(sensors, "points", None),
        observation=_chosen(sensors, chosen, rows),
        goal=goal,
    )


def _sensors(
    model: LatentModel,
    candidates: "ArrayLike | Tensor | LinearObservation",
    noise_std: float | Tensor,
) -> tuple[LinearObservation, Tensor]:
    """All candidates as one observation, and the rows of each, (n_candidates, n_rows)."""
    problem = model.problem
    if isinstance(candidates, LinearObservation):
        found = LinearObservation(candidates.problem, candidates.matrix, noise_std)
        return found, torch.arange(found.n)[:, None]
    points = problem.as_points(candidates)
    rows = PointObservation(problem, points, 1.0)
    n_components = problem.evaluation(points[:1]).shape[0]
    # All points of a time after each other, of each all components.
    number = torch.arange(rows.n).reshape(-1, len(points), n_components)
    groups = number.transpose(0, 1).flatten(1)
    std = Gaussian(noise_std, len(points)).variance().sqrt()
    of_rows = std[torch.arange(rows.n) // n_components % len(points)]
    return PointObservation(problem, points, of_rows), groups


def _chosen(sensors: LinearObservation, chosen: Tensor, rows: Tensor) -> LinearObservation:
    std = sensors.noise.variance().sqrt()
    if isinstance(sensors, PointObservation):
        n_each = sensors.n // len(sensors.points)
        n_times = 1 if sensors.times is None else len(sensors.times)
        number = torch.arange(sensors.n).reshape(n_times, len(sensors.points), n_each // n_times)
        own = number[:, chosen].flatten()
        return PointObservation(sensors.problem, sensors.points[chosen.numpy()], std[own])
    return LinearObservation(sensors.problem, sensors.matrix[rows.numpy()], std[rows])


def _compressed(white: Tensor, groups: Tensor) -> Tensor:
    """B of each candidate, (n_draws, n_candidates, k, d), k at most d: its B^T B is the same."""
    b = white[:, groups]
    return torch.linalg.qr(b, mode="r").R if b.shape[2] > b.shape[3] else b


def _information(b: Tensor, covariances: list[Tensor]) -> Tensor:
    """Gain of each candidate, (n_candidates,)."""
    parts = [_gain(b, c).mean(0) for c in covariances]
    return parts[0] if len(parts) == 1 else parts[0] - parts[1]


def _gain(b: Tensor, c: Tensor) -> Tensor:
    """1/2 log |I + B C B^T|, (n_draws, n_candidates)."""
    bc = (b.flatten(1, 2) @ c).view_as(b)
    if b.shape[2] == 1:
        return 0.5 * torch.log1p((bc * b).sum((2, 3)))
    inner = torch.eye(b.shape[2], dtype=b.dtype) + bc @ b.mT
    return 0.5 * torch.linalg.slogdet(inner).logabsdet


def _updated(c: Tensor, b: Tensor) -> Tensor:
    """C - C B^T (I + B C B^T)^-1 B C, (n_draws, d, d), for B (n_draws, k, d)."""
    bc = b @ c
    inner = torch.eye(b.shape[1], dtype=b.dtype) + bc @ b.mT
    return c - bc.mT @ torch.linalg.solve(inner, bc)


def _given(a: Tensor) -> Tensor:
    """I - A^+ A, the covariance of xi ~ N(0, I) given A xi, for A (n_draws, n, d)."""
    _, sizes, right = torch.linalg.svd(a, full_matrices=False)
    kept = sizes > _RANK * sizes.amax(-1, keepdim=True).clamp(min=_RANK**2)
    right = right * kept[..., None]
    return torch.eye(a.shape[2], dtype=a.dtype) - right.mT @ right


def _derivatives(answers: Answers, xi: Tensor) -> Tensor:
    """dq/dxi, (n_draws, n, d), by differences towards the middle of the prior."""
    found, here = [], answers(xi)
    for i in range(xi.shape[1]):
        step = torch.zeros_like(xi)
        step[:, i] = torch.where(xi[:, i] > 0, -_STEP, _STEP)
        found.append((answers(xi + step) - here) / step[:, i, None])
    return torch.stack(found, dim=-1)
