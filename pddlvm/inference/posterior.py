"""The result of an inference: p(z | y), what it says about u, and how far to trust it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from scipy.stats import chi2
from torch import Tensor

from pddlvm.errors import InputError
from pddlvm.inference.gaussian import GaussianDensity

if TYPE_CHECKING:
    from pddlvm.latent import LatentVariableModel

__all__ = ["Diagnostics", "Posterior", "PosteriorSolution"]

_N_QUANTILE_DRAWS = 4000
_SURPRISING = 1e-3


@dataclass(frozen=True)
class Diagnostics:
    """Evidence about a posterior, one entry per data set, (...,).

    Attributes:
        converged: did the method end as it should?
        misfit: squared misfit at the most probable parameters in units of the noise, plus their
            squared distance from the centre of a Gaussian prior.
        n_seen: number of values that were measured.
        iterations: of the method.
        seconds: wall-clock time of the whole call.
    """

    converged: Tensor
    misfit: Tensor
    n_seen: Tensor
    iterations: int
    seconds: float

    @cached_property
    def p_value(self) -> Tensor:
        """Probability of a larger misfit if model, noise and prior are right, (...,)."""
        values = chi2.sf(self.misfit.numpy(), self.n_seen.numpy())
        return torch.as_tensor(values, dtype=torch.float64)

    @property
    def verdict(self) -> list[str] | str:
        """In words; a list for a batch of data sets."""
        texts = [
            _verdict(bool(c), float(p))
            for c, p in zip(self.converged.flatten(), self.p_value.flatten(), strict=True)
        ]
        return texts if self.converged.ndim else texts[0]


def _verdict(converged: bool, p_value: float) -> str:
    if p_value < _SURPRISING:
        return (
            f"reject: the data contradict the model, its noise or its prior (p = {p_value:.1e}); "
            "check units, sensor positions and noise_std"
        )
    return "accept" if converged else "reject: the iteration did not converge"


@dataclass(frozen=True)
class PosteriorSolution:
    """What the data say about u.

    Attributes:
        mean: (..., n_dofs).
        std: (..., n_dofs); spread of the parameters and error of the map together.
        samples: (n_samples, ..., n_dofs).
    """

    mean: Tensor
    std: Tensor
    samples: Tensor = field(repr=False)


@dataclass(frozen=True)
class Posterior:
    """p(z | y) for one data set or a batch of them.

    Attributes:
        method: how it was found.
        diagnostics: evidence.
    """

    method: str
    diagnostics: Diagnostics
    _density: GaussianDensity = field(repr=False)
    _model: "LatentVariableModel" = field(repr=False)

    @property
    def mean(self) -> Tensor:
        """Mean of z, (..., d)."""
        return self._density.mean

    @property
    def std(self) -> Tensor:
        """Standard deviation of z, (..., d)."""
        return self._density.std

    def sample(self, shape: tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        """Draws of z, (*shape, ..., d), all in the support of the prior."""
        return self._density.sample(shape, seed=seed)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z, (...,)."""
        return self._density.log_prob(z)

    def quantiles(self, q: Tensor | list[float], *, seed: int = 0) -> Tensor:
        """Quantiles of each parameter, (n_q, ..., d), from draws."""
        levels = torch.as_tensor(q, dtype=torch.float64)
        if levels.ndim != 1 or not ((levels >= 0) & (levels <= 1)).all():
            raise InputError(f"q must be a list of levels between 0 and 1, got {q}")
        return self.sample((_N_QUANTILE_DRAWS,), seed=seed).quantile(levels, dim=0)

    def solution(self, n_samples: int = 200, *, seed: int = 0) -> PosteriorSolution:
        """Draws of u, with the error of the forward map, and their moments.

        Args:
            n_samples: at least 2.
            seed: of the draws.
        """
        if n_samples < 2:
            raise InputError(f"a posterior of u needs at least 2 samples, got {n_samples}")
        z = self.sample((n_samples,), seed=seed)
        u = self._model.forward(z).sample(seed=seed + 1)
        return PosteriorSolution(u.mean(0), u.std(0), u)
