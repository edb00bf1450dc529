"""Amortised posteriors: a density of z given y, trained on simulated data.

    minimise  - E log q(z | y),      z ~ p(z),  y = h(z) + error of h + noise

h is the corrected forward map: physics alone, no solution of the PDE. Once trained, the posterior
of any data of these sensors is one pass through a network.

A network that reads y alone has to resolve the noise against the whole range of y. So a first one
estimates the parameters, and the next sees what their prediction leaves, in units of the noise:

    context  =  eta_0(y),   P y,   arsinh P (y - h(eta_0(y)))

Of data with gaps it also sees which values are there; the others are y's mean in the one part, and
what is predicted in the other.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from pddlvm.amortized.families import FAMILIES, Diagonal, Family
from pddlvm.amortized.proposals import Proposals
from pddlvm.amortized.resampled import Resampled
from pddlvm.basics.checks import check_vectors
from pddlvm.basics.errors import InputError
from pddlvm.basics.files import write_content
from pddlvm.basics.summary import summarise
from pddlvm.inference.density import Density
from pddlvm.inference.laplace import Laplace
from pddlvm.inference.search import search
from pddlvm.latent.signature import SEED, signature
from pddlvm.latent.surrogate import Surrogate
from pddlvm.parameters.identity import mark_of
from pddlvm.parameters.space import ParameterSpace
from pddlvm.sampling.coordinates import Coordinates

__all__ = ["NO_GAPS", "Amortized", "Compression", "Context"]

NO_GAPS = (
    "y has missing values (NaN), and the amortised posterior was not trained with gaps: call "
    "model.amortize(observation, gaps=0.5) first, for data of which up to a half is missing; "
    "'laplace', 'variational', 'nuts' and 'exact' leave missing values out without that"
)
_ROUNDING = 1e-6

_EDGE, _WILD = 6.0, 1e6
_MARGIN = 1.1


@dataclass(frozen=True)
class Compression:
    """Principal components of y in units of the noise.

        C^{-1/2} (y - mean) = sum_k a_k v_k,     a_k sqrt(1 - 1 / var a_k)

    What the noise hides vanishes.

    Attributes:
        centre: mean of y, (n,).
        matrix: from y to the components, (n, n).
        std: of the components, (n,).
    """

    centre: Tensor
    matrix: Tensor
    std: Tensor

    @classmethod
    def of(cls, y: Tensor, covariance: Tensor) -> "Compression":
        """From simulated data y (batch, n), and the covariance (n, n) of noise and error."""
        white = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
        centre = y.mean(0)
        variance, vectors = torch.linalg.eigh(
            torch.cov(((y - centre) @ white).T).reshape(white.shape)
        )
        variance = variance.clamp(min=1)
        return cls(centre, white @ vectors * (1 - 1 / variance).sqrt(), variance.sqrt())

    def of_data(self, y: Tensor) -> Tensor:
        """(batch, n) -> (batch, n), each component by its own spread."""
        return ((y - self.centre) @ self.matrix) / self.std

    def of_misfit(self, misfit: Tensor) -> Tensor:
        """(batch, n) -> (batch, n), in units of the noise, large ones by their logarithm."""
        return (misfit @ self.matrix).asinh()


@dataclass(frozen=True)
class Context:
    """What a family reads instead of y.

    Attributes:
        surrogate: predicts data.
        compression: of y.
        gaps: largest share of the values that may be missing; 0 where none may be.
        estimate: a Gaussian whose mean estimates eta from the data alone, once it is trained.
    """

    surrogate: Surrogate
    compression: Compression
    gaps: float = 0.0
    estimate: Diagonal | None = None

    @staticmethod
    def size(n: int, d: int, gaps: float) -> int:
        """Length of a context of n values and d parameters."""
        return d + (3 if gaps else 2) * n

    def __call__(self, y: Tensor) -> Tensor:
        """(batch, n) float64 -> (batch, `size`) float32."""
        plain = Coordinates.plain(self.surrogate.prior)
        eta = y.new_zeros(len(y), self.surrogate.prior.size)
        with torch.no_grad():
            context = self._at(plain, eta, y)
            if self.estimate is not None:
                # Predictions beyond the edge of the prior mean nothing.
                eta = self.estimate.parts(context)[0].double().clamp(-_EDGE, _EDGE)
                context = self._at(plain, eta, y)
        return context

    def _at(self, plain: Coordinates, eta: Tensor, y: Tensor) -> Tensor:
        seen = ~torch.isnan(y)
        misfit = torch.where(seen, y - self.surrogate.predict(plain.xi_of(eta)), 0.0)
        whole = torch.where(seen, y, self.compression.centre)
        parts = [eta, self.compression.of_data(whole), self.compression.of_misfit(misfit)]
        if self.gaps:
            parts.append(seen.to(y))
        # Numbers that are too large for float32, and NaN, are foreign to any training.
        return torch.cat(parts, dim=-1).nan_to_num(nan=_WILD).clamp(-_WILD, _WILD).float()


@dataclass(frozen=True, repr=False)
class Amortized:
    """A trained density of z given y.

    Attributes:
        family: the density.
        context: what it reads.
        range: largest sizes of what it read in training.
        seconds: of the training.
        n_steps: of the training.
    """

    family: Family
    context: Context
    range: Tensor
    seconds: float
    n_steps: int

    def __call__(self, y: Tensor) -> Density:
        """The posterior of data (batch, n), float64 on the CPU."""
        y = self._data(y)
        with torch.no_grad():
            return self.family.density(self._bounded(self.context(y)), self.prior)

    def _data(self, y: Tensor) -> Tensor:
        n = self.context.surrogate.observation.n
        y = check_vectors(y, "y", n, f"have {n} values, one per sensor")
        if y.ndim != 2:
            raise InputError(f"y must have shape (batch, n), got {tuple(y.shape)}")
        if not self.context.gaps and torch.isnan(y).any():
            raise InputError(NO_GAPS)
        return y.double().cpu()

    def resampled(self, y: Tensor) -> Resampled:
        """The same, its draws resampled by the density that the corrected forward map gives.

        Data unlike those of the training get mean and std from draws: there a network says
        anything.
        """
        y = self._data(y)
        surrogate, prior = self.context.surrogate, self.prior
        with torch.no_grad():
            context = self.context(y)
            is_foreign, context = self._is_foreign(context), self._bounded(context)
            whole = self.family.density(context, prior)

        searches = _Searches(surrogate, y)

        def proposals(i: int) -> Proposals:
            with torch.no_grad():
                network = self.family.density(context[i : i + 1], prior)
            return Proposals(surrogate, y[i], network, bool(is_foreign[i]), partial(searches.of, i))

        return Resampled(whole, [proposals(i) for i in range(len(y))])

    def is_foreign(self, y: Tensor) -> Tensor:
        """Which data (batch, n) are unlike those of the training, (batch,)."""
        return self._is_foreign(self.context(y.double().cpu())).to(y.device)

    def _bounded(self, context: Tensor) -> Tensor:
        """Far from its training a network does not stop at saying anything: it overflows."""
        limit = _MARGIN * self.range
        return context.clamp(-limit, limit)

    def _is_foreign(self, context: Tensor) -> Tensor:
        found, gaps = (self._bounded(context) != context).any(-1), self.context.gaps
        if not gaps:
            return found
        # The share of what is there comes last.
        seen = context[:, -self.context.surrogate.observation.n :].mean(-1)
        return found | (1 - seen > gaps + _ROUNDING)

    def save(self, path: str | Path) -> None:
        """Write it to a file for `LatentVariableModel.load_amortized`; replaced in one step.

        Raises:
            InputError: a family of one's own.
            RunFileError: the file cannot be written.
        """
        name = type(self.family).__name__
        if FAMILIES.get(name) is not type(self.family):
            raise InputError(f"a density of family {', '.join(FAMILIES)} can be saved, not {name}")
        context = self.context
        assert context.estimate is not None
        found = signature(context.surrogate)
        content = {
            "family": name,
            "density": self.family.state_dict(),
            "estimate": context.estimate.state_dict(),
            "compression": vars(context.compression),
            "range": self.range,
            "gaps": self.context.gaps,
            "seconds": self.seconds,
            "n_steps": self.n_steps,
            "mark": mark_of(context.surrogate.observation.problem),
            **found,
            "answers": self.answers(found["predicted"]),
        }
        write_content(content, path)

    def answers(self, data: Tensor) -> Tensor:
        """What it reads in data, and says of a few parameters, (n_rows, 4)."""
        generator = torch.Generator().manual_seed(SEED)
        xi = self.prior.sample_standard((len(data), len(data)), generator=generator)
        with torch.no_grad():
            said = self(data).log_prob(self.prior.unstandardise(xi))
            return torch.cat([summarise(self.context(data)), summarise(said)])

    def __repr__(self) -> str:
        d, n = self.prior.size, self.context.surrogate.observation.n
        name = type(self.family).__name__
        return f"Amortized({name}, {d} parameters, {n} sensors, {self.seconds:.0f} s)"

    @property
    def prior(self) -> ParameterSpace:
        """Of z."""
        return self.context.surrogate.prior


@dataclass(frozen=True)
class _Searches:
    """Laplace approximations of data sets (n_data, n), found when the first one is asked for."""

    surrogate: Surrogate
    y: Tensor

    @cached_property
    def found(self) -> Laplace:
        return search(self.surrogate, self.y)

    def of(self, i: int) -> Laplace | None:
        return self.found.of(i) if self.found.converged[i] else None
