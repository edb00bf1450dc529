"""How a derivative falls on the parts of a product, and on the inside of a composition.

    (f g)_I    =  sum over the ways to split I into A and B     f_A g_B               (Leibniz)
    (f o v)_I  =  sum over the partitions P of I                f^(|P|) prod_{B in P} v_B

(Faà di Bruno). An index names derivatives by the positions of coordinates, (0, 0, 1) for u_xxy;
ways that differ only by which of equal positions they take are counted.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cache

__all__ = ["Index", "partitions", "splittings"]

Index = tuple[int, ...]
Blocks = tuple[Index, ...]


@cache
def splittings(index: Index) -> tuple[tuple[int, Index, Index], ...]:
    """How often I splits into A and B, and both."""
    n = len(index)
    found: Counter[tuple[Index, Index]] = Counter()
    for chosen in range(2**n):
        parts = [
            tuple(i for k, i in enumerate(index) if (chosen >> k) & 1 == own) for own in (1, 0)
        ]
        found[parts[0], parts[1]] += 1
    return tuple((count, *pair) for pair, count in found.items())


@cache
def partitions(index: Index) -> tuple[tuple[int, Blocks], ...]:
    """How often each partition of I occurs, and its blocks; the one block I comes first."""
    found = Counter(tuple(sorted(blocks)) for blocks in _partitions(index))
    return tuple((count, blocks) for blocks, count in sorted(found.items(), key=_by_size))


def _partitions(index: Index) -> Iterator[Blocks]:
    """All of positions that are told apart."""
    if not index:
        yield ()
        return
    *rest, last = index
    for blocks in _partitions(tuple(rest)):
        yield (*blocks, (last,))
        for k, block in enumerate(blocks):
            yield (*blocks[:k], (*block, last), *blocks[k + 1 :])


def _by_size(found: tuple[Blocks, int]) -> int:
    return len(found[0])
