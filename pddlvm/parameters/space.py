"""The parameter space: named blocks of z, each with its prior.

z_i = T_i(x_i),   x = L xi,     L = 1 but for blocks of correlated parameters
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pddlvm.basics.checks import (
    check_all,
    check_finite,
    check_kind,
    check_shape,
    check_vectors,
    numbers_of,
)
from pddlvm.basics.errors import InputError, SupportError
from pddlvm.basics.random import generator_of
from pddlvm.parameters.priors import Prior

__all__ = ["Block", "ParameterSpace"]

_FARTHEST = 5.0
"""Standard deviations of a normal number; 3e-7 lie beyond on either side."""


@dataclass(frozen=True)
class Block:
    """`size` parameters with a prior; `names` of them where these are not their numbers."""

    size: int
    prior: Prior
    names: tuple[str, ...] = ()


class ParameterSpace:
    """The prior p(z) = prod_blocks prod_i p(z_i); z = (block 1, block 2, ...), d numbers.

    Args:
        blocks: name -> block, in the order in which they stand in z.
    """

    def __init__(self, blocks: Mapping[str, Block]) -> None:
        if not blocks:
            raise InputError("a problem needs at least one uncertain parameter, got none")
        self.blocks = dict(blocks)
        self.size = sum(block.size for block in blocks.values())
        self.slices: dict[str, slice] = {}
        self._bounds: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}
        start = 0
        for name, block in blocks.items():
            self.slices[name] = slice(start, start + block.size)
            start += block.size

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}: {b.size} x {b.prior!r}" for k, b in self.blocks.items())
        return f"ParameterSpace({inside})"

    @property
    def names(self) -> tuple[str, ...]:
        """One name per parameter: `block`, or `block[i]` in a block of several.

        A block may have names of its own: `block.length`.
        """
        found: list[str] = []
        for name, block in self.blocks.items():
            if block.names:
                found += [name + own for own in block.names]
            else:
                found += [name] if block.size == 1 else [f"{name}[{i}]" for i in range(block.size)]
        return tuple(found)

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Name -> its part of z, (..., block size)."""
        return self._parts(z, "z")

    def _parts(self, z: Tensor, name: str) -> dict[str, Tensor]:
        z = self.vectors(z, name)
        return {block: z[..., part] for block, part in self.slices.items()}

    def known_part(self, z: Tensor, known: Sequence[str]) -> dict[str, Tensor]:
        """Some blocks of z, by their names, or an InputError."""
        names = check_all(known, str, "known", "['load']")
        wrong = sorted(set(names) - self.blocks.keys())
        if wrong:
            raise InputError(f"known has {wrong}, but the blocks are {list(self.blocks)}")
        parts = self.split(z)
        return {name: parts[name] for name in names}

    def sample(
        self,
        shape: int | tuple[int, ...] = (),
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Independent draws, (*shape, d), float64; pass a generator or a seed to repeat them."""
        if seed is not None:
            generator = generator_of(seed)
        check_kind(torch.Generator | None, generator=generator)
        return self.unstandardise(self.sample_standard(check_shape(shape), generator=generator))

    def sample_standard(
        self, shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent draws of the standard coordinates xi, (*shape, d), float64."""
        return torch.cat(
            [b.prior.sample_standard((*shape, b.size), generator) for b in self.blocks.values()],
            dim=-1,
        )

    def from_normal(self, eta: Tensor) -> Tensor:
        """Standard coordinates xi of independent standard normal numbers eta, (..., d)."""
        parts = self._parts(eta, "eta")
        return torch.cat(
            [block.prior.from_normal(parts[name]) for name, block in self.blocks.items()], dim=-1
        )

    def standard_log_prob(self, xi: Tensor) -> Tensor:
        """Log density of the standard coordinates xi, (...,)."""
        parts = self._parts(xi, "xi")
        return sum(  # type: ignore[return-value]
            block.prior.standard_log_prob(parts[name]).sum(-1)
            for name, block in self.blocks.items()
        )

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z, (...,)."""
        parts = self.split(z)
        return sum(  # type: ignore[return-value]
            block.prior.log_prob(parts[name]).sum(-1) for name, block in self.blocks.items()
        )

    def log_slope(self, xi: Tensor) -> Tensor:
        """log |dxi / dz| at xi, (...,): the ratio of the densities of z and of xi."""
        return self.log_prob(self.unstandardise(xi)) - self.standard_log_prob(xi)

    def standardise(self, z: Tensor) -> Tensor:
        """Standard coordinates of z, (..., d): mean 0, variance 1 under the prior."""
        parts = self.split(z)
        return torch.cat(
            [block.prior.standardise(parts[name]) for name, block in self.blocks.items()], dim=-1
        )

    def unstandardise(self, xi: Tensor) -> Tensor:
        """Parameters of the standard coordinates xi, (..., d)."""
        parts = self._parts(xi, "xi")
        return torch.cat(
            [block.prior.unstandardise(parts[name]) for name, block in self.blocks.items()], dim=-1
        )

    @cached_property
    def mixing(self) -> Tensor | None:
        """L, (d, d), float64; None where it is the identity."""
        if all(b.prior.mixing is None for b in self.blocks.values()):
            return None
        one = partial(torch.eye, dtype=torch.float64)
        own = [one(b.size) if (m := b.prior.mixing) is None else m for b in self.blocks.values()]
        return torch.block_diag(*own)

    def mixed(self, xi: Tensor) -> Tensor:
        """x = L xi, (..., d)."""
        return xi if self.mixing is None else xi @ self.mixing.to(xi).T

    def of_mixed(self, x: Tensor) -> Tensor:
        """z of x, (..., d), each of its own x alone."""
        parts = self._parts(x, "x")
        return torch.cat([b.prior.of_mixed(parts[k]) for k, b in self.blocks.items()], dim=-1)

    def with_slope(self, xi: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """`unstandardise` of xi (batch, d), and a map of derivatives by z to those by xi.

        It takes and gives (batch, n, d).
        """
        with torch.enable_grad():
            at = self.mixed(xi).detach().requires_grad_()
            z = self.of_mixed(at)
            (slope,) = torch.autograd.grad(z.sum(), at)

        def by_xi(by_z: Tensor) -> Tensor:
            by_x = by_z * slope[:, None]
            return by_x if self.mixing is None else by_x @ self.mixing.to(by_x)

        return z.detach(), by_xi

    @cached_property
    def units(self) -> tuple[Tensor, Tensor]:
        """The middle of the prior of z, and about its standard deviation, (d,) each."""
        return self.at_score(0.0), 0.5 * (self.at_score(1.0) - self.at_score(-1.0))

    def at_score(self, score: float) -> Tensor:
        """Each parameter that many of its standard deviations from its middle, (d,), float64.

        One with bounds stays within them.
        """
        xi = self.clamp_standard(torch.full((self.size,), score, dtype=torch.float64))
        return self.of_mixed(xi if self.mixing is None else xi * self.mixing.norm(dim=-1))

    def standard_bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest xi in the support, (d,) each, on the dtype and device of `like`."""
        key = (like.dtype, like.device)
        if key not in self._bounds:
            bounds = [each for b in self.blocks.values() for each in b.prior.bounds(b.size)]
            low, high = torch.tensor(bounds, dtype=like.dtype, device=like.device).unbind(-1)
            self._bounds[key] = (low, high)
        return self._bounds[key]

    def reach(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The support; where it has no end, xi beyond which 3e-7 of the prior lies, (d,) each."""
        low, high = self.standard_bounds(like)
        left, right = (x.to(like) for x in self._farthest)
        return torch.where(low.isinf(), left, low), torch.where(high.isinf(), right, high)

    @cached_property
    def _farthest(self) -> tuple[Tensor, Tensor]:
        eta = torch.full((self.size,), _FARTHEST, dtype=torch.float64)
        return self.from_normal(-eta), self.from_normal(eta)

    def clamp_standard(self, xi: Tensor) -> Tensor:
        """xi moved into the support, (..., d)."""
        return xi.clamp(*self.standard_bounds(xi))

    def contains(self, z: Tensor) -> Tensor:
        """Is each parameter in the support? Elementwise, (..., d)."""
        parts = self.split(z)
        return torch.cat([b.prior.contains(parts[k]) for k, b in self.blocks.items()], dim=-1)

    def known(
        self, values: Mapping[str, Tensor], batch: torch.Size, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Standard coordinates of known blocks, 0 elsewhere, and their mask, (n_batch, d) each.

        Args:
            values: name of block -> its values, (..., size); a number for a block of one.
            batch: shape of the batch, n_batch members.
            like: gives dtype and device.

        Raises:
            InputError, SupportError: an unknown block, a wrong shape, or outside of the prior.
        """
        n = batch.numel()
        xi = like.new_zeros(n, self.size)
        mask = torch.zeros_like(xi)
        for name, value in values.items():
            if name not in self.slices:
                raise InputError(f"z_known names {name!r}, but the blocks are {list(self.slices)}")
            block = self.blocks[name]
            # Standardised before it is rounded.
            value = torch.from_numpy(numbers_of(value, f"z_known[{name!r}]")).to(like.device)
            value = value[..., None] if value.ndim == 0 else value
            if value.shape[-1] != block.size:
                raise InputError(
                    f"z_known[{name!r}] must end in {block.size} values, got {value.shape}"
                )
            if value.ndim > 1 and value.shape[:-1] != batch:
                raise InputError(
                    f"z_known[{name!r}] has batch shape {tuple(value.shape[:-1])}, u has "
                    f"{tuple(batch)}; they must agree"
                )
            part = value.expand(*batch, block.size).reshape(n, block.size)
            if not (torch.isfinite(part) & block.prior.contains(part)).all():
                raise SupportError(f"z_known[{name!r}] has values outside the prior of {name!r}")
            xi[:, self.slices[name]] = block.prior.standardise(part).to(like)
            mask[:, self.slices[name]] = 1
        return xi, mask

    def vectors(self, z: "Tensor | ArrayLike", name: str = "z") -> Tensor:
        """Return z as a tensor (..., d), or raise an InputError; its values are not looked at."""
        what = f"have {self.size} parameters on its last axis ({', '.join(self.blocks)})"
        hint = f"; try torch.as_tensor({name}, dtype=torch.float64)"
        return check_vectors(z, name, self.size, what, hint)

    def check(self, z: "Tensor | ArrayLike", name: str = "z") -> Tensor:
        """Return z as a tensor, or say what is wrong with it.

        Raises:
            InputError: wrong length of the last axis, not floating point, or not finite.
            SupportError: outside the support of the prior.
        """
        z = check_finite(self.vectors(z, name), name)
        for block, part in self.split(z).items():
            inside = self.blocks[block].prior.contains(part)
            if not inside.all():
                worst = part[~inside].flatten()[0].item()
                raise SupportError(
                    f"{name} lies outside the prior of {block!r}: {worst:g} is not in the support "
                    f"of {self.blocks[block].prior!r}; the maps know nothing there"
                )
        return z
