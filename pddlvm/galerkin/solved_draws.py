"""Draws of the prior whose reduced problem is solved, for a training that needs its solution.

    c*(z) = (W^T K(z) V)^+ W^T f(z)

A batch that is drawn anew in each step would cost ten times what the step does. So a pool is solved
once, batches are drawn from it, and each draw is known again by its bits. Anything else is solved
when it is asked for. No PDE is solved: the reduced problems are of some ten unknowns.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.basics.random import generator_of
from pddlvm.linalg.newton import least_squares_step
from pddlvm.parameters.space import ParameterSpace
from pddlvm.reduced.interpolated import Interpolated
from pddlvm.reduced.solving import LinearSystems

__all__ = ["SolvedDraws", "SolvedPool", "SolvedSystems", "n_systems"]

_N_DRAWS, _CHUNK = 16384, 256
_N_SYSTEMS, _SYSTEMS = 8192, 1024
"""Draws with matrices, and those that are made at once: these take longer than solutions do."""
_ROOM = 2**26
"""Numbers in matrices, 256 MiB in single precision."""
_SEED, _LEAST = 314159, 1e-30
_ODD = 0x9E3779B97F4A7C15
"""Of 64 bits: its powers spread the bits of different coordinates."""


@dataclass(frozen=True)
class _Pool:
    """Solved draws.

    Attributes:
        xi: standard parameters, (n, d).
        c: their solutions, (n, n_modes).
        keys: of the draws, ascending, (n,).
        order: the draw of each key.
    """

    xi: Tensor
    c: Tensor
    keys: Tensor
    order: Tensor

    def to(self, device: torch.device) -> "_Pool":
        return _Pool(*(x.to(device) for x in (self.xi, self.c, self.keys, self.order)))


class SolvedPool(ABC):
    """A pool of solved draws; its random numbers are always the same ones.

    Args:
        prior: of z.
        dtype: of the draws.
        n_most: how many there are at most, where solutions are dear.
    """

    def __init__(self, prior: ParameterSpace, dtype: torch.dtype, n_most: int = _N_DRAWS) -> None:
        self._prior, self._dtype, self._n_most = prior, dtype, n_most
        self._moved: dict[torch.device, _Pool] = {}

    @abstractmethod
    def _solve(self, xi: Tensor) -> Tensor:
        """c* of standard parameters (n, d), (n, n_modes), float64 on the CPU; or more of them."""

    def solve(self) -> None:
        """Fill the pool; by default when it is first read."""
        self._pool  # noqa: B018 (cached)

    def sample_standard(
        self, shape: tuple[int, ...], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Standard parameters of solved draws, (*shape, d), on the CPU."""
        return self._pool.xi[torch.randint(len(self._pool.xi), shape, generator=generator)]

    def solutions(self, xi: Tensor) -> Tensor:
        """c* of standard parameters (batch, d), (batch, n_modes), of their dtype and device."""
        pool, keys = self._at(xi.device), _keys(xi)
        place = torch.searchsorted(pool.keys, keys).clamp(max=len(pool.keys) - 1)
        found = pool.c[pool.order[place]]
        is_new = pool.keys[place] != keys
        if is_new.any():
            found[is_new] = self._solve(xi[is_new].cpu()).to(found)
        return found

    def log_likelihood(self, c: Tensor, xi: Tensor, tolerance: float) -> Tensor:
        """-|c - c*|^2 / (2 eps^2), eps = tolerance |c*|, of c (batch, n_modes), (batch,)."""
        solution = self.solutions(xi.detach())
        eps = tolerance * solution.norm(dim=-1).clamp(min=_LEAST)
        return -0.5 * (c - solution).square().sum(-1) / eps**2

    @cached_property
    def _pool(self) -> _Pool:
        generator, n_draws = generator_of(_SEED), min(_N_DRAWS, self._n_most)
        xi = self._prior.sample_standard((n_draws,), generator=generator).to(self._dtype)
        keys, order = _keys(xi).sort()
        return _Pool(xi, self._solve(xi).to(self._dtype), keys, order)

    def _at(self, device: torch.device) -> _Pool:
        if device not in self._moved:
            self._moved[device] = self._pool.to(device)
        return self._moved[device]


class SolvedDraws(SolvedPool):
    """Those of a reduced model.

    Args:
        few: the reduced model of a linear problem, float64 on the CPU.
        dtype: of the draws.
    """

    def __init__(self, few: Interpolated, dtype: torch.dtype) -> None:
        super().__init__(few.exact.prior, dtype)
        self._few = few

    def _solve(self, xi: Tensor) -> Tensor:
        z = self._prior.unstandardise(xi.double())
        parts, model = [], self._few.model
        for part in z.split(_CHUNK):
            zero = part.new_zeros(len(part), model.n_modes)
            k, r = model.stiffness(zero, part), model.residual(zero, part)
            parts.append(-least_squares_step(k, r))
        return torch.cat(parts)


class SolvedSystems(SolvedPool):
    """Those of a linear problem whose K is positive, with K: how far any c is from its minimum.

    For problems that are no sum of few operators, where physics at many points makes a step dear.

    Args:
        few: the reduced model of a linear problem, float64 on the CPU.
        dtype: of the draws.
    """

    def __init__(self, few: Interpolated, dtype: torch.dtype) -> None:
        m = few.exact.n_modes
        super().__init__(few.exact.prior, dtype, n_systems(m))
        self._exact, self._m = few.exact, m

    def energy(self, c: Tensor, xi: Tensor) -> Tensor:
        """1/2 (c - c*)^T K (c - c*) of c (batch, n_modes), (batch,)."""
        found = self.solutions(xi.detach())
        d, k = c - found[:, : self._m], found[:, self._m :].unflatten(1, (self._m, self._m))
        return 0.5 * (d * (k @ d[..., None])[..., 0]).sum(-1)

    def _solve(self, xi: Tensor) -> Tensor:
        parts = []
        for part in self._prior.unstandardise(xi.double()).split(_SYSTEMS):
            systems = LinearSystems.of(self._exact, part)
            found = torch.cat([systems.solve(), systems.k.flatten(1)], dim=1)
            parts.append(found.to(self._dtype))
        return torch.cat(parts)


def n_systems(n_modes: int) -> int:
    """Draws that there is room for with their matrices."""
    return min(_N_SYSTEMS, _ROOM // (n_modes * (n_modes + 1)))


def _keys(xi: Tensor) -> Tensor:
    """A number for the bits of each row, (n,)."""
    bits = xi.contiguous().view(torch.int32 if xi.dtype == torch.float32 else torch.int64).long()
    powers = [pow(_ODD, i + 1, 2**64) for i in range(bits.shape[-1])]
    signed = [power - 2**64 if power >= 2**63 else power for power in powers]
    return (bits * torch.tensor(signed, device=xi.device)).sum(-1)
