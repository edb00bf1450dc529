"""The training of amortised posteriors on simulated data; see `pddlvm.amortized.amortized`."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pddlvm.amortized.amortized import Amortized, Compression, Context
from pddlvm.amortized.families import Diagonal, Family, Flow
from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import ConvergenceError, InputError
from pddlvm.basics.random import seeded
from pddlvm.latent.core import LatentModel
from pddlvm.latent.surrogate import Surrogate
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sensors.observation import Observation
from pddlvm.training.fit import Budget, fit

__all__ = ["amortize"]

_BATCH = 256
_RATE = 1e-3
_CLIP = 1.0
_N_SCALING = 2000
_CHUNK = 512
_MIN_CHUNKS, _MAX_CHUNKS = 8, 256
_POOL_SHARE, _STEPS_PER_CHUNK = 0.15, 50
_N_ERRORS = 64
_ESTIMATE_SHARE = 0.3
_N_RANGE = 4096
_LEAST_GOOD = 0.5


def amortize(
    model: LatentModel,
    observation: Observation,
    family: Callable[[int, int], Family] | None,
    budget: Budget,
    seed: int,
    gaps: float = 0.0,
) -> Amortized:
    """See `LatentVariableModel.amortize`."""
    start = time.perf_counter()
    check_kind(int | float, gaps=gaps)
    if not 0 <= gaps < 1:
        raise InputError(
            f"gaps must be from 0 to below 1, the largest share of y that is missing, got {gaps}"
        )
    surrogate = model.surrogate(observation, corrections=1)
    generator = torch.Generator().manual_seed(seed)
    simulator = _Simulator.of(surrogate, generator, budget)
    d = surrogate.prior.size
    size = Context.size(observation.n, d, gaps)
    with seeded(seed):
        estimate = Diagonal(size, d)
        density = (Flow if family is None else family)(size, d)
    check_kind(Family, **{"what family returns": density})
    data_alone = Context(surrogate, simulator.compression(), float(gaps))
    left = budget.since(start)
    n_steps = _train(estimate, data_alone, simulator, left.share(_ESTIMATE_SHARE))
    context = replace(data_alone, estimate=estimate)
    n_steps += _train(density, context, simulator, left.share(1 - _ESTIMATE_SHARE))
    seen = context(simulator(_N_RANGE, gaps)[1]).abs().amax(0)
    return Amortized(density, context, seen, time.perf_counter() - start, n_steps)


@dataclass(frozen=True)
class _Simulator:
    """Draws of xi and of their data: a pool of corrected predictions, with new noise each time."""

    surrogate: Surrogate
    xi: Tensor
    data: Tensor
    factor: Tensor
    generator: torch.Generator

    @classmethod
    def of(cls, surrogate: Surrogate, generator: torch.Generator, budget: Budget) -> "_Simulator":
        """Fill the pool until it is large, or until its time is over and it is not tiny.

        Raises:
            ConvergenceError: less than half of the predictions are finite.
        """
        start = time.perf_counter()
        for_time = budget.share(_POOL_SHARE)
        most = min(_MAX_CHUNKS, max(_MIN_CHUNKS, budget.steps / _STEPS_PER_CHUNK))
        xi: list[Tensor] = []
        data: list[Tensor] = []
        while len(xi) < most and (len(xi) < _MIN_CHUNKS or for_time.since(start).seconds > 0):
            part = surrogate.prior.sample_standard((_CHUNK,), generator=generator)
            with torch.no_grad():
                predicted = surrogate.mean(part)
            # Far in the tails of a wide prior a correction may fail.
            good = torch.isfinite(predicted).all(-1)
            xi.append(part[good])
            data.append(predicted[good])
        pool = torch.cat(xi)
        if len(pool) < _LEAST_GOOD * len(xi) * _CHUNK:
            raise ConvergenceError(
                f"only {len(pool)} of {len(xi) * _CHUNK} predictions for draws of the prior are "
                "finite; was the model trained, and is its prior not too wide?"
            )
        error = surrogate.error(pool[:_N_ERRORS]).mean().dense()[0]
        factor = torch.linalg.cholesky_ex(error)[0]
        return cls(surrogate, pool, torch.cat(data), factor, generator)

    def __call__(self, n: int, gaps: float = 0.0) -> tuple[Tensor, Tensor]:
        """xi (n, d) and data (n, n_sensors), of each of which a share up to gaps is missing."""
        rows = torch.randint(len(self.xi), (n,), generator=self.generator)
        white = torch.randn(n, len(self.factor), generator=self.generator, dtype=torch.float64)
        noise = self.surrogate.observation.noise.sample((n,), self.generator)
        y = self.data[rows] + white @ self.factor.T + noise
        if gaps:
            share = gaps * torch.rand(n, 1, generator=self.generator, dtype=torch.float64)
            # The values that come first of all in a random order are there, one at least.
            order = torch.rand(y.shape, generator=self.generator).argsort(-1).argsort(-1)
            y = torch.where(order < (y.shape[1] * (1 - share)).ceil(), y, torch.nan)
        return self.xi[rows], y

    def compression(self) -> Compression:
        """Of the data of this simulator."""
        noise = self.surrogate.observation.noise.covariance()
        return Compression.of(self(_N_SCALING)[1], noise + self.factor @ self.factor.T)


def _train(family: Family, context: Context, simulator: _Simulator, budget: Budget) -> int:
    prior = context.surrogate.prior
    plain = Coordinates.plain(prior)
    centre, scale = prior.units
    n_steps = 0
    for share, loss in family.losses():

        def drawn(loss: Callable[[Tensor, Tensor, Tensor], Tensor] = loss) -> Tensor:
            xi, y = simulator(_BATCH, context.gaps)
            z = (prior.unstandardise(xi) - centre) / scale
            return loss(plain.eta_of(xi).float(), z.float(), context(y))

        history = fit(
            family.parameters(),
            drawn,
            budget.share(share),
            rate=_RATE,
            clip=_CLIP,
            name="q(z | y)",
        )
        n_steps += len(history)
    family.eval()
    return n_steps
