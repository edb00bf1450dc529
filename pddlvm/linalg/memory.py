"""How much memory there is, and how much the factors of a matrix take: said before it is taken.

    entries of L and U  ~  3.5 w^2 + 0.6 nnz log2(n)

by minimum degree; w is the largest front of a breadth-first search from one end of the graph of the
matrix, about n^(1/2) in the plane and n^(2/3) in space. Measured on Poisson and elasticity, P1, P2
and Q1, from 2,000 to 260,000 unknowns: within a factor of 2.5, rather above; up to five
times above where entries of the pattern are zero (right angles).
"""

import os
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import breadth_first_order

__all__ = ["available_memory", "predict_fill", "require_memory"]

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def predict_fill(matrix: sp.csc_matrix) -> float:
    """About how many entries L and U of a sparse matrix have by minimum degree."""
    n = matrix.shape[0]
    return 3.5 * _width(matrix) ** 2 + 0.6 * matrix.nnz * float(np.log2(n + 1))


def _width(matrix: sp.csc_matrix) -> int:
    """Largest front of a breadth-first search from one end of the graph."""
    start, front = 0, np.ones(1, dtype=np.int64)
    for _ in range(2):
        order, before = breadth_first_order(matrix, start, directed=False)
        rank = np.empty(matrix.shape[0], dtype=np.int64)
        rank[order] = np.arange(len(order))
        # Parents come in order: a level ends where the parents are of the next one.
        parent = rank[before[order[1:]]]
        ends = [0, 1]
        while ends[-1] < len(order):
            ends.append(1 + int(np.searchsorted(parent, ends[-1])))
        front, start = np.diff(ends), int(order[-1])
    return int(front.max())


def available_memory() -> float:
    """Bytes that can be taken now; infinite where the system does not say."""
    found = [np.inf]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [1024.0 * int(a.split()[1]) for a in lines if a.startswith("MemAvailable")]
    except OSError:
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            found.append(float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    for limit, used in _CGROUPS:
        try:
            found.append(float(Path(limit).read_text()) - float(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return max(0.0, min(found))


def require_memory(n_bytes: float, who: str, instead: str) -> None:
    """Raise a MemoryError if so many bytes are more than there are.

    Args:
        n_bytes: what is needed.
        who: needs them.
        instead: what to try.
    """
    there = available_memory()
    if n_bytes > there:
        raise MemoryError(
            f"{who} needs about {n_bytes / 2**30:.2g} GiB for the factors of this matrix, and "
            f"{there / 2**30:.2g} GiB are free: {instead}"
        )
