"""Posteriors of a black box that answers by UM-Bridge.

    log p(z | y) = F(z)                                          a log posterior
                 = F(z) + log p(z)                               a log-likelihood
                 = log p(y | F(z)) + log p(z)                    a forward map, and data

up to a constant. With Gradient by the no-U-turn sampler, else by a random walk; both in unbounded
coordinates of the prior that are standardised while the chains warm up. The server is asked for all
chains at once.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pddlvm.basics.checks import check_count, check_flag, check_kind
from pddlvm.basics.errors import ConvergenceError, InputError
from pddlvm.basics.random import check_seed
from pddlvm.parameters.priors import Prior
from pddlvm.parameters.space import Block, ParameterSpace
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.explore import STEP, explore
from pddlvm.sampling.nuts import nuts
from pddlvm.sampling.random_walk import random_walk
from pddlvm.sampling.statistics import bulk_size, rhat
from pddlvm.sampling.target import Target
from pddlvm.sensors.noise import Gaussian, Noise
from pddlvm.umbridge.client import RemoteModel

__all__ = ["BlackBoxDraws", "UMBridgePosterior"]

_N_WALK, _N_STEPS, _N_WINDOWS = 200, 40, 2
_STARTS = 10
_RHAT, _ENOUGH_DRAWS = 1.01, 400


@dataclass(frozen=True)
class BlackBoxDraws:
    """Draws of a posterior.

    Attributes:
        method: "nuts" or "random walk".
        z: (n_chains, n_draws, d), float64.
        rhat: of each parameter, (d,); 1 where the chains agree.
        bulk_size: effective number of draws of each parameter, (d,).
        n_evaluations: how often the server was asked for a value.
    """

    method: str
    z: Tensor = field(repr=False)
    rhat: Tensor
    bulk_size: Tensor
    n_evaluations: int

    @property
    def mean(self) -> Tensor:
        """Mean of z, (d,)."""
        return self.z.mean((0, 1))

    @property
    def std(self) -> Tensor:
        """Standard deviation of z, (d,)."""
        return self.z.flatten(0, 1).std(0)

    @property
    def verdict(self) -> str:
        """Accept, or refine with the reason."""
        worst, size = float(self.rhat.max()), float(self.bulk_size.min())
        if worst <= _RHAT and size >= _ENOUGH_DRAWS:
            return "accept"
        return (
            f"refine: R-hat = {worst:.3f} and {size:.0f} effective draws of the worst parameter; "
            "raise n_samples"
        )


class UMBridgePosterior:
    """The posterior of a model that another program serves.

    Args:
        url: of the server, `http://localhost:4242`.
        name: of the model there: a forward map where y is given, else a log density.
        prior: of z, a `ParameterSpace`, or a `Prior` that all parameters have.
        y: data, (m,); NaN where nothing was measured.
        noise_std: of the data, a number, one for each, a covariance, or a `Noise`.
        is_likelihood: is the log density that of the data, and not the posterior's?
        config: that is sent with each request.

    Attributes:
        model: what answers.
        prior: of z.

    Raises:
        InputError: nobody answers at the URL, there is no such model, or its sizes are not those of
            prior and data.
    """

    def __init__(
        self,
        url: str,
        name: str,
        prior: ParameterSpace | Prior,
        *,
        y: Tensor | None = None,
        noise_std: float | Tensor | Noise | None = None,
        is_likelihood: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        check_kind(ParameterSpace | Prior, prior=prior)
        check_flag(is_likelihood=is_likelihood)
        self.model = RemoteModel(url, name, config)
        d, m = sum(self.model.n_inputs), self.model.n_outputs
        self.prior = prior if isinstance(prior, ParameterSpace) else _space(prior, d)
        if self.prior.size != d:
            raise InputError(f"the model {name!r} has {d} parameters, the prior {self.prior.size}")
        if (y is None) != (noise_std is None):
            raise InputError("data y need a noise_std, and a noise_std data")
        if y is None and m != 1:
            raise InputError(
                f"the model {name!r} has {m} outputs, and a log density has one; of a forward map "
                "give the data y and noise_std"
            )
        self._adds_prior = is_likelihood or y is not None
        self._y = None if y is None else torch.as_tensor(y).detach().double().cpu()
        if self._y is not None and self._y.shape != (m,):
            raise InputError(f"y must be ({m},), as the outputs, got {tuple(self._y.shape)}")
        self._noise = None if noise_std is None else _noise(noise_std, m)
        if self._noise is not None and self._noise.n != m:
            raise InputError(f"the noise is that of {self._noise.n} values, and y has {m}")

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density up to a constant, (..., d) -> (...,), float64; -inf outside of the prior."""
        z = self.prior.vectors(z).detach().double().cpu()
        with ThreadPoolExecutor(max(1, min(8, z[..., 0].numel()))) as pool:
            found = list(pool.map(self._value, z.reshape(-1, z.shape[-1])))
        return torch.stack(found).reshape(z.shape[:-1]) if found else z.new_zeros(z.shape[:-1])

    def sample(
        self,
        n_samples: int = 1000,
        *,
        n_chains: int = 4,
        method: Literal["nuts", "random walk"] | None = None,
        seed: int = 0,
    ) -> BlackBoxDraws:
        """Draws by Markov chains.

        Args:
            n_samples: of all chains together.
            n_chains: that ask the server at once.
            method: by default "nuts" where the model offers Gradient, else "random walk".
            seed: of everything random.

        Raises:
            InputError: "nuts" without Gradient, too few samples.
            ConvergenceError: the server fails, or no draw of the prior has a positive density.
        """
        check_count(1, n_chains=n_chains)
        check_count(4 * n_chains, n_samples=n_samples)
        method = method or ("nuts" if self.model.has_gradient else "random walk")
        if method not in ("nuts", "random walk"):
            raise InputError(f"method must be 'nuts' or 'random walk', got {method!r}")
        if method == "nuts" and not self.model.has_gradient:
            raise InputError(f"the model {self.model.name!r} offers no Gradient; use 'random walk'")
        generator = torch.Generator().manual_seed(check_seed(seed))
        n_draws = -(-n_samples // n_chains)
        with ThreadPoolExecutor(n_chains) as pool:
            target = _Target(self, Coordinates.plain(self.prior), pool)
            start = target.start(n_chains, generator)
            if method == "nuts":
                target, w = _by_gradients(target, start, n_draws, generator)
            else:
                w, _ = random_walk(target, start, max(200, n_draws), n_draws, generator)
        z = self.prior.unstandardise(target.coordinates.xi_of(w))
        return BlackBoxDraws(method, z, rhat(z), bulk_size(z), target.counted[0])

    def _value(self, z: Tensor) -> Tensor:
        if not self.prior.contains(z).all():
            return z.new_tensor(-torch.inf)
        try:
            return self._log_prob(z, self.model.evaluate(z))[0]
        except ConvergenceError:
            # Where the server has no answer there is no density.
            return z.new_tensor(-torch.inf)

    def _with_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density of z (d,) and its gradient (d,)."""
        nothing = z.new_tensor(-torch.inf), torch.zeros_like(z)
        if not self.prior.contains(z).all():
            return nothing
        try:
            total, weights = self._log_prob(z, self.model.evaluate(z))
            gradient = self.model.gradient(z, weights)
        except ConvergenceError:
            return nothing
        if self._adds_prior:
            gradient = gradient + _slope(self.prior, z)
        return total, gradient

    def _log_prob(self, z: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Log density where the model has a value (m,), and its slope by the value."""
        slope = torch.ones_like(value)
        found = value.sum()
        if self._y is not None and self._noise is not None:
            with torch.enable_grad():
                at = value.clone().requires_grad_()
                found = self._noise.log_prob(self._y - at)
                (slope,) = torch.autograd.grad(found, at)
            found = found.detach()
        return found + self.prior.log_prob(z) if self._adds_prior else found, slope


class _Target(Target):
    """The density of w; `counted` is how often the server was asked."""

    def __init__(
        self,
        posterior: UMBridgePosterior,
        coordinates: Coordinates,
        pool: ThreadPoolExecutor,
        counted: list[int] | None = None,
    ) -> None:
        super().__init__(coordinates)
        self.posterior, self.pool = posterior, pool
        self.counted = [0] if counted is None else counted

    def moved_to(self, coordinates: Coordinates) -> "_Target":
        return _Target(self.posterior, coordinates, self.pool, self.counted)

    def start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of the prior where the density is positive, (n, d), the best of ten times n."""
        xi = self.posterior.prior.sample_standard((_STARTS * n,), generator=generator)
        w = self.coordinates.w_of(xi)
        value = torch.cat([self.value(part) for part in w.split(n)])
        if not torch.isfinite(value).sum() >= n:
            raise ConvergenceError(
                "hardly a draw of the prior has a positive density: is the prior that of the model?"
            )
        # By their densities, tempered: chains that begin apart say more when they agree.
        return w[value.topk(n * _STARTS // 2).indices[:: _STARTS // 2]]

    def value(self, w: Tensor) -> Tensor:
        self.counted[0] += len(w)
        z = self._z(w)
        found = torch.stack(list(self.pool.map(self.posterior._value, z)))
        return self._of_w(found, w)

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        self.counted[0] += len(w)
        with torch.enable_grad():
            at = w.detach().requires_grad_()
            z = self.posterior.prior.unstandardise(self.coordinates.xi_of(at))
            pairs = list(self.pool.map(self.posterior._with_gradient, z.detach()))
            value, slope = (torch.stack(part) for part in zip(*pairs, strict=True))
            jacobian = self._of_w(torch.zeros_like(value), at)
            (gradient,) = torch.autograd.grad((z * slope).sum() + jacobian.sum(), at)
        return value + jacobian.detach(), gradient

    def _z(self, w: Tensor) -> Tensor:
        return self.posterior.prior.unstandardise(self.coordinates.xi_of(w))

    def _of_w(self, value: Tensor, w: Tensor) -> Tensor:
        """Log density of eta from that of z."""
        prior, xi = self.posterior.prior, self.coordinates.xi_of(w)
        return value - prior.log_slope(xi) + self.coordinates.log_jacobian(w)


def _by_gradients(
    target: _Target, start: Tensor, n_draws: int, generator: torch.Generator
) -> tuple[_Target, Tensor]:
    """Draws of the no-U-turn sampler, in coordinates that were standardised by first draws.

    The first ones are those of a random walk: in plain coordinates trajectories are long.
    """
    walked, _ = random_walk(target, start, _N_WALK, _N_WALK // 2, generator)
    target, w = _standardised(target, walked, walked[:, -1])
    step = w.new_full((1,), STEP)
    for _ in range(_N_WINDOWS):
        visited, step = explore(target, w, _N_STEPS, generator, step)
        target, w = _standardised(target, visited[_N_STEPS // 2 :], visited[-1])
    return target, nuts(target, w, step.expand(len(w)), n_draws, generator)


def _standardised(target: _Target, draws: Tensor, w: Tensor) -> tuple[_Target, Tensor]:
    """In the coordinates of draws (..., d), and w (n_chains, d) there."""
    eta, xi = target.coordinates.eta(draws.flatten(0, 1)), target.coordinates.xi_of(w)
    target = target.moved_to(Coordinates.of_draws(target.posterior.prior, eta))
    return target, target.coordinates.w_of(xi)


def _space(prior: Prior, d: int) -> ParameterSpace:
    return ParameterSpace({"z": Block(d, prior)})


def _noise(given: "float | Tensor | Noise", m: int) -> Noise:
    return given if isinstance(given, Noise) else Gaussian(given, m)


def _slope(prior: ParameterSpace, z: Tensor) -> Tensor:
    """Gradient of log p(z)."""
    with torch.enable_grad():
        at = z.clone().requires_grad_()
        value = prior.log_prob(at)
        # Uniform densities have none.
        if not value.requires_grad:
            return torch.zeros_like(z)
        return torch.autograd.grad(value, at)[0]
