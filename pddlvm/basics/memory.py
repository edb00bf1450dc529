"""Memory for large results on the CPU."""

import math
import mmap

import torch
from torch import Tensor

__all__ = ["multiply"]

_LARGE = 2**25
"""Bytes from which the C library returns freed memory to the system instead of keeping it."""


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a @ b without gradients, a (..., k), b (k, n).

    A large result comes on fresh pages, and to fault them in one by one takes as long as the
    product itself: it is put on huge pages where the system has them.
    """
    shape = (*a.shape[:-1], b.shape[1])
    n_bytes = math.prod(shape) * a.element_size()
    if a.device.type != "cpu" or n_bytes < _LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return a @ b
    pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    # The tensor owns the pages from here on.
    out = torch.frombuffer(pages, dtype=a.dtype).view(-1, b.shape[1])
    return torch.mm(a.reshape(-1, a.shape[-1]), b, out=out).view(shape)
