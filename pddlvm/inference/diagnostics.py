"""Evidence about a posterior, and what it means in words."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from scipy.stats import chi2
from torch import Tensor

from pddlvm.inference.laplace import Laplace

__all__ = ["Diagnostics"]

_SURPRISING = 1e-3
_RHAT, _STUCK = 1.01, 10.0
_MANY = 20
_ENOUGH_DRAWS, _ENOUGH_JUMPS = 400, 50
_MARGIN = 1.3
_GOOD_KHAT, _BAD_KHAT = 0.5, 0.7


@dataclass(frozen=True)
class Diagnostics:
    """Evidence about posteriors, one entry per data set, (...,); None where it does not apply.

    Attributes:
        batch: shape of the batch of data sets.
        search: gives the search for the most probable parameters; made when it is first asked.
        seconds: wall-clock time of the call, without that search where the method needs none.
        acceptance: mean probability with which the finite element density accepts a proposal.
        khat: shape of the tail of the ratios of the finite element density to that of the
            surrogate: below 0.5 they are close, above 0.7 they are not.
        rhat: of each parameter, (..., d); 1 where the chains agree.
        bulk_size: effective number of draws for the mean, (..., d).
        tail_size: effective number of draws for 90 % intervals, (..., d).
        jumps: how often chains changed between modes, (...,).
        n_draws: of all chains together, of each data set; 0 where there are no chains.
        covers_modes: are mean and density those of all modes? Not where a network gave them.
        is_exact: are the draws those of the finite element posterior itself?
        tails: gives `gaussian_khat`, where the method finds Gaussians.
    """

    batch: torch.Size
    search: Callable[[], Laplace] = field(repr=False)
    seconds: float
    acceptance: Tensor | None = None
    khat: Tensor | None = None
    rhat: Tensor | None = None
    bulk_size: Tensor | None = None
    tail_size: Tensor | None = None
    jumps: Tensor | None = None
    n_draws: int = 0
    covers_modes: bool = True
    is_exact: bool = False
    tails: Callable[[], Tensor] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        counted = ", ".join(f"{n} {word}" for word, n in self.counts.items())
        verdict = counted if self.batch else self.verdict
        lines = [f"verdict: {verdict}", f"p_value: {_text(self.p_value)}"]
        if self.masses.shape[-1] > 1:
            lines.append(f"masses: {_text(self.masses)}")
        for name in ("gaussian_khat", "acceptance", "khat", "rhat", "bulk_size", "tail_size"):
            value = getattr(self, name)
            if value is not None:
                lines.append(f"{name}: {_text(value)}")
        return "\n".join([*lines, f"seconds: {self.seconds:.2f}"])

    @property
    def iterations(self) -> int:
        """Iterations of the search for the most probable parameters."""
        return self.search().iterations

    @property
    def converged(self) -> Tensor:
        """Did that search end as it should? (...,)."""
        return self.search().converged.reshape(self.batch)

    @property
    def misfit(self) -> Tensor:
        """Squared misfit there in units of the noise, plus |xi|^2 of a Gaussian prior, (...,)."""
        return self.search().misfit.reshape(self.batch)

    @property
    def n_seen(self) -> Tensor:
        """Number of values that were measured, (...,)."""
        return self.search().n_seen.reshape(self.batch)

    @property
    def masses(self) -> Tensor:
        """Of the modes that the search found, by their evidences, (..., n_modes), heaviest first.

        0 where other data sets of the batch have more modes.
        """
        return self.search().masses.T.reshape(*self.batch, -1)

    @cached_property
    def gaussian_khat(self) -> Tensor | None:
        """Shape of the tail of the ratios of the surrogate's posterior to a Gaussian, (...,).

        Below 0.7 the Gaussian has its shape; 0 where weighted draws took its place.
        """
        return None if self.tails is None else self.tails().reshape(self.batch)

    @cached_property
    def p_value(self) -> Tensor:
        """Probability of a larger misfit if model, noise and prior are right, (...,)."""
        values = chi2.sf(self.misfit.numpy(), self.search().degrees.reshape(self.batch).numpy())
        return torch.as_tensor(values, dtype=torch.float64)

    @property
    def verdict(self) -> list[str] | str:
        """Accept, refine or reject, with the reason; a list for a batch of data sets."""
        texts = [self._verdict(i) for i in range(self.batch.numel())]
        return texts if self.batch else texts[0]

    @property
    def counts(self) -> dict[str, int]:
        """How many data sets have a verdict that begins with a word, the most frequent first."""
        verdict = self.verdict
        texts = [verdict] if isinstance(verdict, str) else verdict
        return dict(Counter(re.split("[: ]", text)[0] for text in texts).most_common())

    def _verdict(self, i: int) -> str:
        if self.khat is not None and not self.is_exact:
            shape = float(self.khat.flatten()[i])
            if not shape < _BAD_KHAT:
                found = (
                    f"reject: k-hat = {shape:.2f}, this is not the posterior of the finite element"
                )
                if self.rhat is None:
                    return f"{found} model, in its shape or its place; try 'nuts', then 'exact'"
                return f"{found} model: the surrogate is off; use method='exact'"
        p_value = float(self.p_value.flatten()[i])
        if p_value < _SURPRISING and not self.is_exact:
            return (
                f"reject: the data contradict the model, its noise or its prior (p = {p_value:.1e})"
                "; check units, sensor positions and noise_std, or train longer where the noise is "
                "smaller than the errors of the map"
            )
        if self.khat is not None and not self.is_exact and shape > _GOOD_KHAT:
            return (
                f"refine: k-hat = {shape:.2f}, shape or tails differ from those of the finite "
                "element posterior; try 'nuts', then 'exact'"
            )
        n_modes = int((self.search().masses[:, i] > 0).sum())
        if self.rhat is not None and self.bulk_size is not None:
            worst = float(self.rhat.reshape(-1, self.rhat.shape[-1])[i].max())
            size = float(self.bulk_size.reshape(-1, self.rhat.shape[-1])[i].min())
            if self.jumps is not None and n_modes > 1:
                jumps = int(self.jumps.flatten()[i])
                if jumps < _ENOUGH_JUMPS:
                    return (
                        f"reject: {self._modes(i)}, between which the chains changed {jumps} times "
                        f"only; raise n_samples, or use method='laplace'"
                    )
            if not worst < _STUCK:
                return (
                    f"reject: R-hat = {worst:.2g}, the chains stay where they began; does the "
                    "posterior have several modes, or do the data contradict the prior?"
                )
            if worst > _RHAT or size < _ENOUGH_DRAWS:
                factor = max(_ENOUGH_DRAWS / size, (worst - 1) / (_RHAT - 1))
                wanted = f"{_MARGIN * factor * self.n_draws:.1g}"
                return (
                    f"refine: R-hat = {worst:.3f} and {size:.0f} effective draws of the worst "
                    f"parameter; raise n_samples, to about {float(wanted):,.0f}"
                )
            if p_value < _SURPRISING:
                return (
                    "accept the draws, but the data are surprising under model, noise and prior "
                    f"(p = {p_value:.1e}); check units, sensor positions and noise_std"
                )
            return "accept"
        if not bool(self.converged.flatten()[i]):
            return _NOT_CONVERGED
        if not self.covers_modes and n_modes > 1:
            return (
                f"refine: {self._modes(i)}; draws are resampled, mean and density are those of the "
                "network alone; use method='nuts' or 'laplace'"
            )
        shape = 0.0 if self.gaussian_khat is None else float(self.gaussian_khat.flatten()[i])
        if not shape < _BAD_KHAT:
            return (
                f"refine: k-hat = {shape:.2f} under the surrogate itself, the posterior has "
                "another shape than this Gaussian; use method='nuts'"
            )
        return "accept"

    def _modes(self, i: int) -> str:
        masses = self.search().masses[:, i]
        text = ", ".join(f"{mass:.2f}" for mass in masses[masses > 0].tolist())
        return f"{int((masses > 0).sum())} modes, of masses {text} by their evidences"


_NOT_CONVERGED = "reject: the iteration did not converge; use method='nuts' or 'exact'"


def _text(value: Tensor) -> str:
    """Numbers in a row; of many, the smallest and the largest."""
    if value.numel() > _MANY:
        return f"{float(value.min()):.3g} to {float(value.max()):.3g}"
    return " ".join(f"{number:.3g}" for number in value.flatten().tolist())
