"""Random numbers that leave the user's own stream as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["generator_of", "normal_like", "seeded"]


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside, torch draws from a seed, on the CPU and on `device`; then goes on as before."""
    is_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_gpu else []):
        torch.manual_seed(seed)
        yield


def generator_of(seed: int | None) -> torch.Generator:
    """A new generator on the CPU; without a seed, one of the system."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
        return generator
    return generator.manual_seed(seed)


def normal_like(x: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers (*shape, *x.shape), on every device the same: drawn on the CPU."""
    drawn = torch.randn((*shape, *x.shape), generator=generator, dtype=x.dtype)
    return drawn.to(x.device)
