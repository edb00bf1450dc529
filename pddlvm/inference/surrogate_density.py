"""Unnormalised posterior densities, with gradients.

The forward map is cheap and a little off, its Galerkin correction accurate and dearer. Where the
posterior is, their difference is smooth:

    h(xi)  =  h_map(xi) + B (1, w),      |w_i| <= 4,

with B by least squares on draws w ~ N(0, I), makes the map about as accurate as its correction
there; draws are corrected by what that leaves out. Far in the tails of the prior, where the map
knows nothing, B (1, w) alone may fit better: then it stands alone. What the fit leaves, and the
error of the correction, widen the noise. Corrections that fail are left out; where many do, the map
stays as it is. Far beyond the prior, where a network may say anything, predictions stay what they
are at the edge, and the prior decides.

Chains on it start at the Laplace approximation. Where the draws of a mode are wider or narrower
than it says, its coordinates are standardised by the draws, and the chains go on. Small steps are
cheap here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError
from pddlvm.basics.parallel import Watch, nobody
from pddlvm.latent.surrogate import Surrogate
from pddlvm.linalg.low_rank import LowRank
from pddlvm.sampling.charts import Charts
from pddlvm.sampling.coordinates import FAR, Coordinates
from pddlvm.sampling.explore import STEP, begin, cautious, explore
from pddlvm.sampling.local import LocalDensity
from pddlvm.sampling.target import Target
from pddlvm.sensors.widened import Widened

__all__ = ["Standardised", "SurrogateDensity", "SurrogateTarget", "standardise"]

_N_DRAWS = 128
_REACH = 4.0
_LEAST_GOOD = 0.75
_LARGEST_RATIO = 1e6
_N_CHAINS = 64
_N_STEPS = 60
_MAX_WINDOWS = 6
_WIDEST = 1.5


class SurrogateDensity(LocalDensity):
    """N(y; h(xi), noise + error of h) p(xi) around modes, differentiable.

    Args:
        surrogate: predicts the data.
        y: data at each mode, (n_modes, n), float64; NaN where nothing was measured.
        coordinates: in which the density is about standard at each mode.
        generator: for the draws that B is fitted to, the same at all modes.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        y: Tensor,
        coordinates: Coordinates,
        generator: torch.Generator,
    ) -> None:
        super().__init__(coordinates)
        self.surrogate, self.data, self.seen = surrogate, y, ~torch.isnan(y)
        n_modes, d = coordinates.centre.shape
        nothing = _Fit(y.new_zeros(1 + d, y.shape[1]), y.new_zeros(y.shape[1], 0), True)
        fits, is_fitted = [nothing] * n_modes, [False] * n_modes
        if surrogate.corrections:
            w = torch.randn(_N_DRAWS + 4 * d, d, generator=generator, dtype=y.dtype)
            for k, xi in enumerate(_near(coordinates.of((slice(None), None)).xi_of(w))):
                with torch.no_grad():
                    corrected = surrogate.mean(xi)
                good = _plausible(corrected)
                if good.double().mean() > _LEAST_GOOD:
                    fits[k], is_fitted[k] = self._fit(w[good], xi[good], corrected[good]), True
        self.is_fitted = torch.tensor(is_fitted)
        self.weights = torch.stack([fit.weights for fit in fits])
        self.needs_map = torch.tensor([fit.needs_map for fit in fits])
        # Beyond its draws a correction of the map stays what it is; without the map it goes on.
        self.reach = torch.where(self.needs_map, _REACH, math.inf).double()
        centre = _near(coordinates.xi_of(torch.zeros(n_modes, d, dtype=y.dtype)))
        error, noise = self._error(centre), surrogate.observation.noise
        widest = max(fit.factor.shape[1] for fit in fits)
        left = [torch.nn.functional.pad(f.factor, (0, widest - f.factor.shape[1])) for f in fits]
        self.noise_of_corrected = noise.widened(self.seen, error)
        self.noise = noise.widened(self.seen, error.plus(torch.stack(left)))

    @classmethod
    def around(
        cls,
        surrogate: Surrogate,
        y: Tensor,
        modes: Sequence[Sequence[Coordinates]],
        generator: torch.Generator,
    ) -> "SurrogateDensity":
        """Of data sets y (n_data, n), around the modes of each, one after the other."""
        each = [mode for own in modes for mode in own]
        centre, factor = (torch.stack([getattr(m, k) for m in each]) for k in ("centre", "factor"))
        rows = torch.arange(len(y)).repeat_interleave(torch.tensor([len(own) for own in modes]))
        return cls(surrogate, y[rows], Coordinates(surrogate.prior, centre, factor), generator)

    def _error(self, centre: Tensor) -> LowRank:
        """Covariance of the error of what is believed at each mode."""
        if self.is_fitted.all() or not self.surrogate.corrections:
            return self.surrogate.error(centre)
        parts = [
            (self.surrogate if is_fitted else self.surrogate.uncorrected()).error(one[None])
            for is_fitted, one in zip(self.is_fitted.tolist(), centre, strict=True)
        ]
        return LowRank.joined(parts)

    def _fit(self, w: Tensor, xi: Tensor, corrected: Tensor) -> "_Fit":
        """B by corrected predictions, with the map or, where that is better, without."""
        with torch.no_grad():
            predicted = self.surrogate.predict(xi)
        with_map = _Fit.of(_linear(w, torch.tensor(_REACH)), corrected - predicted, True)
        alone = _Fit.of(_linear(w, torch.tensor(math.inf)), corrected, False)
        return with_map if with_map.size <= alone.size else alone

    def log_prob(self, xi: Tensor, w: Tensor, mode: Tensor) -> Tensor:
        """Log density of xi (n, d), (n,), which has the coordinates w at modes (n,)."""
        misfit = self._of(self.data, mode) - self._data(xi, w, mode)
        value = self._noise(self.noise, mode).log_prob(misfit)
        return _finite(value + self.surrogate.prior.standard_log_prob(xi))

    def value(self, w: Tensor, mode: Tensor) -> Tensor:  # noqa: D102
        coordinates = self._coordinates(mode)
        return self.log_prob(coordinates.xi_of(w), w, mode) + coordinates.log_jacobian(w)

    def value_and_gradient(self, w: Tensor, mode: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        with torch.enable_grad():
            at = w.detach().requires_grad_()
            value = self.value(at, mode)
            (gradient,) = torch.autograd.grad(value.sum(), at)
        return value.detach(), gradient

    @torch.no_grad()
    def left_out(self, w: Tensor, mode: Tensor) -> Tensor:
        """What the fit of the correction leaves, of log densities at w (n, d), (n,)."""
        found, rows = w.new_zeros(len(w)), self._of(self.is_fitted, mode).expand(len(w)).nonzero()
        if len(rows):
            w, mode = w[rows[:, 0]], mode[rows[:, 0]]
            xi, data = self._coordinates(mode).xi_of(w), self._of(self.data, mode)
            corrected = data - self.surrogate.mean(_near(xi))
            fitted = data - self._data(xi, w, mode)
            after = self._noise(self.noise_of_corrected, mode).log_prob(corrected)
            before = self._noise(self.noise, mode).log_prob(fitted)
            found[rows[:, 0]] = _finite(after) - _finite(before)
        return found

    def _data(self, xi: Tensor, w: Tensor, mode: Tensor) -> Tensor:
        data = xi.new_zeros(len(xi), self.data.shape[1])
        if self.needs_map.any():
            predicted = self.surrogate.predict(_near(xi))
            data = torch.where(self._of(self.needs_map, mode)[:, None], predicted, data)
        if self.is_fitted.any():
            features = _linear(w, self._of(self.reach, mode)[:, None])
            data = data + (features[:, None] @ self._of(self.weights, mode))[:, 0]
        return data

    def _of(self, parts: Tensor, mode: Tensor) -> Tensor:
        """Those of modes (n,); of a single one it stands for all."""
        return parts if len(parts) == 1 else parts[mode]

    def _noise(self, noise: Widened, mode: Tensor) -> Widened:
        return noise if len(self.data) == 1 else noise.at(mode)

    def _coordinates(self, mode: Tensor) -> Coordinates:
        return self.coordinates if len(self.data) == 1 else self.coordinates.of(mode)


class SurrogateTarget(Target):
    """The density of one data set around one mode.

    Args:
        surrogate: predicts the data.
        y: data, (n,), float64; NaN where nothing was measured.
        coordinates: w, in which the density is about standard.
        generator: for the draws that B is fitted to.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        y: Tensor,
        coordinates: Coordinates,
        generator: torch.Generator,
    ) -> None:
        super().__init__(coordinates)
        self._density = SurrogateDensity(surrogate, y[None], coordinates.of(None), generator)

    def log_prob(self, xi: Tensor) -> Tensor:
        """Log density of xi (batch, d), differentiable, (batch,)."""
        return self._density.log_prob(xi, self.coordinates.w_of(xi), _only(xi))

    def value(self, w: Tensor) -> Tensor:  # noqa: D102
        return self._density.value(w, _only(w))

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self._density.value_and_gradient(w, _only(w))

    def left_out(self, w: Tensor) -> Tensor:  # noqa: D102
        return self._density.left_out(w, _only(w))


@dataclass(frozen=True)
class Standardised:
    """Densities in coordinates that are about standard, with chains that have settled there.

    Attributes:
        target: the densities, for these chains.
        w: where the chains are, eta (n_chains, d).
        step: of each density, (n_densities,).
    """

    target: Charts
    w: Tensor
    step: Tensor


@torch.no_grad()
def standardise(
    surrogate: Surrogate,
    y: Tensor,
    modes: Sequence[Sequence[Coordinates]],
    masses: Sequence[Tensor],
    generator: torch.Generator,
    watch: Watch = nobody,
) -> Standardised:
    """Densities of data sets side by side, explored from their modes.

    Args:
        surrogate: predicts the data.
        y: data sets, (n_data, n).
        modes: of each, in whose coordinates its density is about standard.
        masses: about those of the modes, (n_modes,) each.
        generator: of everything random.
        watch: is told the share that is done, half of what is left with each window.

    Raises:
        ConvergenceError: no chain of a data set is where its density is positive.
    """
    known, n = [list(own) for own in modes], len(y)
    target, w = begin(_charts(surrogate, y, known, generator), masses, _N_CHAINS, generator)
    visited, step = _window(target, w, y.new_full((n,), STEP), generator, watch, 0)
    w, active, own = visited[-1].unflatten(0, (n, -1)), list(range(n)), target
    for k in range(_MAX_WINDOWS):
        # The second half of the window; its spread along each direction is 1 where all is well.
        better = iter(own.standardised(visited[_N_STEPS // 2 :], _WIDEST))
        moved = []
        for i in active:
            found = [next(better) for _ in known[i]]
            known[i] = [new or old for new, old in zip(found, known[i], strict=True)]
            if any(new is not None for new in found):
                moved.append(i)
        if not moved:
            break
        active = moved
        which = torch.arange(len(active)).repeat_interleave(_N_CHAINS)
        own = _charts(surrogate, y[active], [known[i] for i in active], generator).on(which)
        start = w[active].flatten(0, 1)
        visited, step[active] = _window(own, start, step[active], generator, watch, k + 1)
        w[active] = visited[-1].unflatten(0, (len(active), -1))
    if own is not target:
        target = _charts(surrogate, y, known, generator).on(target.which)
    w = w.flatten(0, 1)
    inside = torch.isfinite(target.value(w)).nonzero()[:, 0]
    if len(target.which[inside].unique()) < n:
        raise ConvergenceError(
            "no draw has a positive density: the data contradict the model, its noise or its prior"
        )
    return Standardised(target.of(inside), w[inside], step)


def _charts(
    surrogate: Surrogate,
    y: Tensor,
    modes: Sequence[Sequence[Coordinates]],
    generator: torch.Generator,
) -> Charts:
    count = [len(own) for own in modes]
    density = SurrogateDensity.around(surrogate, y, modes, generator)
    return Charts(density, count, torch.zeros(0, dtype=torch.long))


def _window(
    target: Charts,
    start: Tensor,
    step: Tensor,
    generator: torch.Generator,
    watch: Watch,
    k: int,
) -> tuple[Tensor, Tensor]:
    """The k-th one: where chains are, (n_steps, n_chains, d), and their step sizes."""

    def tell(share: float) -> None:
        watch(1 - 0.5**k * (1 - 0.5 * share))

    return explore(target, start, _N_STEPS, generator, step, cautious, tell)


def _only(w: Tensor) -> Tensor:
    """Of a single mode all are."""
    return w.new_zeros(len(w), dtype=torch.long)


def _near(xi: Tensor) -> Tensor:
    return xi.clamp(-FAR, FAR)


def _plausible(data: Tensor) -> Tensor:
    """Which predictions (batch, n) are finite, and not a million times larger than most."""
    size, finite = data.abs().amax(-1), torch.isfinite(data).all(-1)
    # The median of nothing is NaN.
    return finite & (size <= _LARGEST_RATIO * size[finite].median())


def _finite(log_density: Tensor) -> Tensor:
    return torch.where(torch.isfinite(log_density), log_density, -torch.inf)


def _linear(w: Tensor, reach: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(w[..., :1]), w.clamp(min=-reach, max=reach)], dim=-1)


@dataclass(frozen=True)
class _Fit:
    """Least squares: weights (n_features, n), and F (n, n_draws) of what they leave, F F^T.

    `needs_map`: they are of what the map leaves.
    """

    weights: Tensor
    factor: Tensor
    needs_map: bool

    @classmethod
    def of(cls, features: Tensor, values: Tensor, needs_map: bool) -> "_Fit":
        # The driver that is taken by default rounds differently from call to call.
        weights = torch.linalg.lstsq(features, values, driver="gelsd").solution
        rest = values - features @ weights
        return cls(weights, rest.T / (len(features) - features.shape[1]) ** 0.5, needs_map)

    @property
    def size(self) -> float:
        return float(self.factor.square().sum())
