"""Processes that train one model together, as torchrun starts them.

    loss = sum_k loss_k,    gradient = sum_k gradient_k,    k the processes, each with its rows

All else is computed by each process for itself, from the same numbers. One that fails must not let
the others wait: whatever is exchanged, first each says whether it goes on, and the failure of one
becomes that of all, with its message.
"""

import os
import pickle
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pddlvm.basics.errors import InputError
from pddlvm.latent.rows import Rows

__all__ = ["Ranks"]

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=30)
"""For a process that lives and says nothing; one that ended is noticed at once."""
_N_VALUES = 2


class Ranks:
    """This process among those that train together; a context, in which they do.

    Args:
        index: of this process; 0 decides, shows and writes.
        size: number of processes.
        local: number of this process on its machine.
        group: of torch, on which they talk; None where there is one only.
        is_ours: was torch.distributed initialised here, to be closed here?
    """

    def __init__(
        self,
        index: int = 0,
        size: int = 1,
        local: int = 0,
        group: dist.ProcessGroup | None = None,
        is_ours: bool = False,
    ) -> None:
        self.index, self.size, self.local = index, size, local
        self._group, self._is_ours = group, is_ours

    @classmethod
    def single(cls) -> Self:
        """One process: nothing is exchanged."""
        return cls()

    @classmethod
    def of_environment(cls) -> Self:
        """The processes of torch.distributed, as the caller initialised it, or torchrun began it.

        Without either, a single one.
        """
        if not dist.is_available():
            return cls.single()
        is_ours = not dist.is_initialized()
        if is_ours:
            if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
                return cls.single()
            store, index, size = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
            # A store keeps what earlier groups of these processes left in it.
            n = store.add(f"pddlvm/{index}", 1)
            dist.init_process_group(
                "nccl" if torch.cuda.is_available() else "gloo",
                store=PrefixStore(f"pddlvm/group/{n}", store),
                rank=index,
                world_size=size,
                timeout=_TIMEOUT,
            )
        index, size = dist.get_rank(), dist.get_world_size()
        if size == 1:
            return cls.single()
        # Words and what lies on the CPU: that needs no device to wait for.
        group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        return cls(index, size, int(os.environ.get("LOCAL_RANK", index)), group, is_ours)

    @property
    def is_first(self) -> bool:
        """Is this the process that decides, shows and writes?"""
        return self.index == 0

    def rows(self, batch: int) -> Rows:
        """Of a batch, those of this process: every size-th one.

        Raises:
            InputError: there are fewer than processes.
        """
        if batch < self.size:
            raise InputError(
                f"batch_size is {batch}, for {self.size} processes: give at least one draw for "
                "each, or start fewer processes"
            )
        return Rows(batch, torch.arange(self.index, batch, self.size))

    def agree(self, *values: float) -> list[float]:
        """The largest of all processes, of numbers that are not negative.

        Raises:
            Exception: that of a process which failed.
        """
        if self._group is None:
            return list(values)
        words = torch.zeros(1 + _N_VALUES, dtype=torch.float64)
        words[1 : 1 + len(values)] = torch.tensor(values, dtype=torch.float64)
        try:
            dist.all_reduce(words, dist.ReduceOp.MAX, self._group)
        except RuntimeError as error:
            error.add_note(
                f"One of the {self.size} processes of this training ended without a word, or said "
                f"nothing for {_TIMEOUT}: look at what it wrote."
            )
            raise
        if words[0]:
            self._fail_with_others()
        return words[1 : 1 + len(values)].tolist()

    def of_first(self, value: float) -> float:
        """That of the first process; not negative."""
        return self.agree(value if self.is_first else 0.0)[0]

    def broadcast(self, value: T) -> T:
        """That of the first process, as pickle copies it."""
        if self._group is None:
            return value
        self.agree()
        found: list[Any] = [value if self.is_first else None]
        dist.broadcast_object_list(found, src=0, group=self._group)
        return found[0]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add up those of all processes, in place: one message for each dtype."""
        if self._group is None:
            return
        self.agree()
        for kind in dict.fromkeys((t.dtype, t.device) for t in tensors):
            parts = [t for t in tensors if (t.dtype, t.device) == kind]
            flat = torch.cat([t.flatten() for t in parts])
            dist.all_reduce(flat, group=self._group if flat.device.type == "cpu" else None)
            for part, total in zip(parts, flat.split([t.numel() for t in parts]), strict=True):
                part.copy_(total.view_as(part))

    # --- the end, good or bad ------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.leave()
            elif self._group is not None:
                # Who has lost the others has nobody to tell.
                with suppress(RuntimeError):
                    self._say_failed(self._group, error)
        finally:
            self._close()

    def leave(self) -> None:
        """Leave the others, when all have come this far; this process is then alone."""
        self.agree()
        self._close()

    def _close(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            dist.destroy_process_group(group)
            if self._is_ours:
                dist.destroy_process_group()

    def _say_failed(self, group: dist.ProcessGroup, error: BaseException) -> None:
        words = torch.zeros(1 + _N_VALUES, dtype=torch.float64)
        words[0] = 1
        dist.all_reduce(words, dist.ReduceOp.MAX, group)
        dist.all_gather_object([None] * self.size, _packed(error), group=group)

    def _fail_with_others(self) -> NoReturn:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, None, group=self._group)
        self._close()
        index = next(i for i, packed in enumerate(found) if packed is not None)
        error = _unpacked(*found[index])
        error.add_note(f"This happened in process {index} of {self.size}.")
        raise error


def _packed(error: BaseException) -> tuple[bytes, str]:
    """An error as bytes, and in words."""
    try:
        content = pickle.dumps(error)
    except Exception:
        # Anything may hang on an error that somebody else's code raised.
        content = b""
    return content, f"{type(error).__name__}: {error}"


def _unpacked(content: bytes, words: str) -> BaseException:
    try:
        found = pickle.loads(content)
    except Exception:
        found = None
    return found if isinstance(found, BaseException) else RuntimeError(words)
