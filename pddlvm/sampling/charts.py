"""A density with several modes: each has coordinates of its own, and chains jump between them.

    p(eta)  =  p_k(eta)   in the region of mode k,   k = argmax_k N(eta; centre_k, L_k L_k^T)
    jump:   eta = centre_k + L_k w   ->   eta' = centre_l + L_l w,     l at random,
            accepted with   min(1, p(eta') |L_l| / (p(eta) |L_k|))   if eta' is in the region of l

The jump is its own inverse (Tjelmeland and Hegstad, 2001; Pompe, Holmes and Latuszynski, 2020).
Trajectories of a chain move in the metric of its mode, and end where they leave its region.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.target import Target

__all__ = ["Charts"]

_PER_PARAMETER = 10


class Charts(Target):
    """Density of eta, float64; the coordinates are the plain ones.

    Args:
        parts: the density around each mode, in coordinates that are about standard there.
    """

    def __init__(self, parts: Sequence[Target]) -> None:
        super().__init__(Coordinates.plain(parts[0].coordinates.prior))
        self.parts = parts
        self.factors = torch.stack([part.coordinates.factor for part in parts])
        self.centres = torch.stack([part.coordinates.centre for part in parts])
        diagonals = self.factors.diagonal(dim1=-2, dim2=-1)
        self.log_sizes = diagonals.abs().log().sum(-1)

    def region(self, w: Tensor) -> Tensor:  # noqa: D102
        squares = self._local(w[:, None], slice(None)).square().sum(-1)
        return (-0.5 * squares - self.log_sizes).argmax(-1)

    def factor(self, region: Tensor) -> Tensor:  # noqa: D102
        return self.factors[region]

    def value(self, w: Tensor) -> Tensor:  # noqa: D102
        return self._by_part(lambda part, v: (part.value(v),), w)[0]

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        value, local = self._by_part(lambda part, v: part.value_and_gradient(v), w)
        factors = self.factors[self.region(w)].mT
        return value, torch.linalg.solve_triangular(factors, local[..., None], upper=True)[..., 0]

    def left_out(self, w: Tensor) -> Tensor:  # noqa: D102
        return self._by_part(lambda part, v: (part.left_out(v),), w)[0]

    def log_prob(self, xi: Tensor) -> Tensor:
        """Log density of xi (batch, d), (batch,)."""
        eta = self.coordinates.eta_of(xi)
        return self.value(eta) - self.coordinates.log_jacobian(eta)

    def jump(self, w: Tensor, generator: torch.Generator) -> Tensor:
        """Each chain w (n, d) tries to jump to another mode."""
        n = len(self.parts)
        if n == 1:
            return w
        here = self.region(w)
        there = (here + torch.randint(1, n, here.shape, generator=generator)) % n
        local = self._local(w, here)
        other = self.centres[there] + (self.factors[there] @ local[..., None])[..., 0]
        gain = self.value(other) - self.value(w) + self.log_sizes[there] - self.log_sizes[here]
        gain = torch.where(self.region(other) == there, gain, -torch.inf)
        draw = torch.rand(here.shape, generator=generator, dtype=w.dtype)
        return torch.where((draw.log() < gain)[:, None], other, w)

    def standardised(self, draws: Tensor, widest: float = 1.0) -> list[Coordinates | None]:
        """New coordinates of each mode by the draws (n, d) in its region.

        None where there are few of them, or where their spread is within 1 / widest and widest.
        """
        region, d = self.region(draws), draws.shape[1]
        found: list[Coordinates | None] = []
        for k in range(len(self.parts)):
            own = draws[region == k]
            if len(own) <= _PER_PARAMETER * d:
                found.append(None)
                continue
            local = self._local(own, region[region == k])
            spread = torch.linalg.eigvalsh(torch.cov(local.T).reshape(d, d)).clamp(min=1e-12).sqrt()
            is_fine = float(spread.max()) < widest and float(spread.min()) > 1 / widest
            prior = self.coordinates.prior
            found.append(None if is_fine else Coordinates.of_draws(prior, own))
        return found

    def _local(self, w: Tensor, region: Tensor | slice) -> Tensor:
        change = (w - self.centres[region])[..., None]
        return torch.linalg.solve_triangular(self.factors[region], change, upper=False)[..., 0]

    def _by_part(
        self, evaluate: Callable[[Target, Tensor], tuple[Tensor, ...]], w: Tensor
    ) -> list[Tensor]:
        """Of each chain by the part of its region, in the coordinates of that."""
        region = self.region(w)
        local, order = self._local(w, region), region.argsort(stable=True)
        found = [
            evaluate(part, local[region == k])
            for k, part in enumerate(self.parts)
            if (region == k).any()
        ]
        back = order.argsort()
        return [torch.cat(each)[back] for each in zip(*found, strict=True)]
