"""Random numbers that leave the user's own stream as it was.

The generator of torch and the stack of Pyro belong to all threads of a process. Whoever needs them
takes turns: a training for each of its steps.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.checks import check_count

__all__ = ["Stream", "check_seed", "generator_of", "normal_like", "seeded"]


class _Turns:
    """A lock that threads get in the order in which they ask; who has it may ask again."""

    def __init__(self) -> None:
        self._next, self._lock = threading.Lock(), threading.Lock()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        if self._owner != threading.get_ident():
            # One waits for the lock, the rest in line: who just had it does not get it first.
            with self._next:
                self._lock.acquire()
            self._owner = threading.get_ident()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._lock.release()

    def forget_others(self) -> None:
        """In a process that was forked no other thread is left to give it back."""
        if self._owner != threading.get_ident():
            self.__init__()  # type: ignore[misc]


_turns = _Turns()
os.register_at_fork(after_in_child=_turns.forget_others)


class Stream:
    """What torch draws from a seed, on the CPU and on a device, in turns.

    Args:
        seed: of the first turn; each goes on where the one before ended.
        device: beside the CPU.
    """

    def __init__(self, seed: int, device: torch.device | None = None) -> None:
        self._seed = check_seed(seed)
        self._gpus = [device] if device is not None and device.type == "cuda" else []
        self._states: list[Any] | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Inside, torch draws from the stream, and no other thread has its turn."""
        with _turns, torch.random.fork_rng(devices=self._gpus):
            if self._states is None:
                torch.manual_seed(self._seed)
            else:
                torch.set_rng_state(self._states[0])
                for device, state in zip(self._gpus, self._states[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            try:
                yield
            finally:
                of_gpus = [torch.cuda.get_rng_state(device) for device in self._gpus]
                self._states = [torch.get_rng_state(), *of_gpus]


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside, torch draws from a seed, on the CPU and on `device`; then goes on as before."""
    with Stream(seed, device).turn():
        yield


def generator_of(seed: int | None) -> torch.Generator:
    """A new generator on the CPU; without a seed, one of the system."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
        return generator
    return generator.manual_seed(check_seed(seed))


def check_seed(seed: Any) -> int:
    """Return a seed, or raise an InputError: NumPy takes no negative one, torch 64 bits."""
    check_count(0, seed=seed)
    return int(seed)


def normal_like(x: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers (*shape, *x.shape), on every device the same: drawn on the CPU."""
    drawn = torch.randn((*shape, *x.shape), generator=generator, dtype=x.dtype)
    return drawn.to(x.device)
