"""Densities with several modes: each has coordinates of its own, and chains jump between them.

    p(eta)  =  p_k(eta)   in the region of mode k,   k = argmax_k N(eta; centre_k, L_k L_k^T)
    jump:   eta = centre_k + L_k w   ->   eta' = centre_l + L_l w,     l at random,
            accepted with   min(1, p(eta') |L_l| / (p(eta) |L_k|))   if eta' is in the region of l

The jump is its own inverse (Tjelmeland and Hegstad, 2001; Pompe, Holmes and Latuszynski, 2020).
Trajectories of a chain move in the metric of its mode, and end where they leave its region. Side by
side stand chains of several densities, each with modes of its own.
"""

from collections.abc import Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.local import LocalDensity, Parts
from pddlvm.sampling.target import Target

__all__ = ["Charts"]

_PER_PARAMETER = 10


class Charts(Target):
    """Densities of eta, float64; the coordinates are the plain ones.

    Args:
        local: around the modes of all of them.
        n_modes: of each density; its modes follow on those of the one before it.
        which: the density of each chain, (n_chains,).
    """

    def __init__(self, local: LocalDensity, n_modes: Sequence[int], which: Tensor) -> None:
        super().__init__(Coordinates.plain(local.coordinates.prior))
        self.local, self.n_modes, self.which = local, n_modes, which
        self.centres, self.factors = local.coordinates.centre, local.coordinates.factor
        self.log_sizes = self.factors.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        count = torch.tensor(n_modes)
        first, places = count.cumsum(0) - count, torch.arange(max(n_modes))
        # Those that a density has not are its first one again: the first of equals is taken.
        self._modes = first[:, None] + torch.where(places < count[:, None], places, 0)
        self._count = count

    @classmethod
    def of_parts(cls, parts: Sequence[Target], n_chains: int) -> "Charts":
        """One density by a target around each of its modes."""
        return cls(Parts(parts), [len(parts)], torch.zeros(n_chains, dtype=torch.long))

    def of(self, rows: Tensor) -> Self:  # noqa: D102
        return self.on(self.which[rows])

    def on(self, which: Tensor) -> Self:
        """The same for chains of these densities."""
        other = copy(self)
        other.which = which
        return other

    def region(self, w: Tensor) -> Tensor:  # noqa: D102
        modes = self._modes[self.which]
        if modes.shape[1] == 1:
            return modes[:, 0]
        squares = self._within(w[:, None], modes).square().sum(-1)
        best = (-0.5 * squares - self.log_sizes[modes]).argmax(-1)
        return modes.gather(1, best[:, None])[:, 0]

    def factor(self, region: Tensor) -> Tensor:  # noqa: D102
        return self.factors[region]

    def value(self, w: Tensor) -> Tensor:  # noqa: D102
        mode = self.region(w)
        return self.local.value(self._within(w, mode), mode)

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mode = self.region(w)
        value, gradient = self.local.value_and_gradient(self._within(w, mode), mode)
        factors = self.factors[mode].mT
        return value, torch.linalg.solve_triangular(factors, gradient[..., None], upper=True)[
            ..., 0
        ]

    def left_out(self, w: Tensor) -> Tensor:  # noqa: D102
        mode = self.region(w)
        return self.local.left_out(self._within(w, mode), mode)

    def log_prob(self, xi: Tensor) -> Tensor:
        """Log density of xi (n_chains, d), (n_chains,)."""
        eta = self.coordinates.eta_of(xi)
        return self.value(eta) - self.coordinates.log_jacobian(eta)

    def jump(self, w: Tensor, generator: torch.Generator) -> Tensor:
        """Each chain w (n_chains, d) tries to jump to another mode."""
        count = self._count[self.which]
        if int(self._count.max()) == 1:
            return w
        here = self.region(w)
        draw = torch.rand(here.shape, generator=generator, dtype=w.dtype)
        first = self._modes[self.which, 0]
        # Of one mode it is the same again: the jump moves nothing.
        by = 1 + (draw * (count - 1)).long().clamp(max=(count - 2).clamp(min=0))
        there = first + (here - first + by) % count
        other = (
            self.centres[there] + (self.factors[there] @ self._within(w, here)[..., None])[..., 0]
        )
        gain = self.value(other) - self.value(w) + self.log_sizes[there] - self.log_sizes[here]
        gain = torch.where(self.region(other) == there, gain, -torch.inf)
        draw = torch.rand(here.shape, generator=generator, dtype=w.dtype)
        return torch.where(((draw.log() < gain) & (there != here))[:, None], other, w)

    def standardised(self, draws: Tensor, widest: float = 1.0) -> list[Coordinates | None]:
        """New coordinates of each mode by the draws (n, n_chains, d) in its region.

        None where there are few of them, or where their spread is within 1 / widest and widest.
        """
        everywhere = self.on(self.which.repeat(len(draws)))
        flat, d, prior = draws.flatten(0, 1), draws.shape[-1], self.coordinates.prior
        region = everywhere.region(flat)
        local = everywhere._within(flat, region)
        found: list[Coordinates | None] = []
        for k in range(len(self.centres)):
            own = region == k
            if int(own.sum()) <= _PER_PARAMETER * d:
                found.append(None)
                continue
            covariance = torch.cov(local[own].T).reshape(d, d)
            spread = torch.linalg.eigvalsh(covariance).clamp(min=1e-12).sqrt()
            is_fine = float(spread.max()) < widest and float(spread.min()) > 1 / widest
            found.append(None if is_fine else Coordinates.of_draws(prior, flat[own]))
        return found

    def _within(self, w: Tensor, mode: Tensor) -> Tensor:
        """In the coordinates of modes."""
        change = (w - self.centres[mode])[..., None]
        return torch.linalg.solve_triangular(self.factors[mode], change, upper=False)[..., 0]
