"""Sides of a mesh that are one: degrees of freedom that stand for each other.

    u = T u',      T (n, n') with a single one in each row

T is held as the number of the column in each row. A point x of one side is x + t on the other, t
the way between their lowest corners.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pddlvm.basics.errors import MeshError

__all__ = ["check_cells_between", "check_pairs", "identified", "partners"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_NEAR = 1e-6
"""Of the size of a side, by which partners may miss each other: more digits than files have."""


def check_pairs(periodic: Any) -> dict[str | int, str | int]:
    """Pairs of names of sides, or a MeshError."""
    if not isinstance(periodic, Mapping):
        raise MeshError(
            f'periodic must be pairs of sides, {{"left": "right"}} for one, got {periodic!r}'
        )
    names = [*periodic, *periodic.values()]
    if not all(isinstance(name, str | int) for name in names) or len(set(names)) < len(names):
        raise MeshError(
            f"periodic must be pairs of names of sides, each of them once, got {dict(periodic)!r}"
        )
    return dict(periodic)


def partners(names: tuple[str | int, str | int], sides: tuple[Array, Array]) -> Index:
    """Which point of the second side each of the first is.

    Args:
        names: of both sides.
        sides: points of both, (n, dim) each.

    Raises:
        MeshError: a point without a partner, the first one.
    """
    first, second = sides
    size = float(np.linalg.norm(np.ptp(first, axis=0))) or 1.0
    shift = second.min(axis=0) - first.min(axis=0)
    distance, found = cKDTree(second).query(first + shift)
    backwards, _ = cKDTree(first).query(second - shift)
    for side, points, away in zip(names, sides, (distance, backwards), strict=True):
        missed = np.asarray(away)
        i = int(np.argmax(missed > _NEAR * size))
        if missed[i] > _NEAR * size:
            other = names[1] if side == names[0] else names[0]
            raise MeshError(
                f"sides {names[0]!r} and {names[1]!r} do not match: point {points[i].tolist()} of "
                f"{side!r} has no partner on {other!r}, the next one is {missed[i]:.2g} away from "
                f"where it should be; mesh both sides alike (the shift from the first to the "
                f"second is {shift.tolist()})"
            )
    return np.asarray(found, dtype=np.int64)


def identified(pairs: list[tuple[Index, Index]], n: int) -> Index:
    """The number of each of n degrees of freedom once pairs of them are one, (n,).

    Classes are numbered in the order of the first of each.
    """
    a, b = (np.concatenate(part) for part in zip(*pairs, strict=True))
    graph = sp.coo_matrix((np.ones(len(a)), (a, b)), shape=(n, n))
    label = connected_components(graph, directed=False)[1]
    first = np.unique(label, return_index=True)[1]
    return np.asarray(np.argsort(np.argsort(first))[label], dtype=np.int64)


def check_cells_between(dofs: Index) -> None:
    """Raise a MeshError if a cell, a row of dofs (n_cells, n_local), has one of them twice."""
    in_order = np.sort(dofs, axis=1)
    if (in_order[:, 1:] == in_order[:, :-1]).any():
        raise MeshError("a cell touches both of two periodic sides; refine the mesh")
