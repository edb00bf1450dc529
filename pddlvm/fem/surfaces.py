"""Triangulated surfaces in space: checked, oriented, with named sets of vertices."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from pddlvm.basics.checks import array_of, check_axis, check_flag, check_path, check_real
from pddlvm.basics.errors import MeshError
from pddlvm.fem.mesh_files import read_raw
from pddlvm.fem.regions import check_points

__all__ = ["SurfaceMesh", "box", "plane", "read_surface", "surface"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Predicate = Callable[[Array], NDArray[np.bool_]]

_SMALLEST_ANGLE = 1.0
"""Degrees; a triangle with a smaller angle is a sliver."""
_COINCIDENT = 1e-9
"""Vertices this close, relative to the size of the surface, are the same."""
_LARGEST = 1e50
"""Larger coordinates overflow in distances."""


@dataclass(frozen=True)
class SurfaceMesh:
    """A connected, oriented triangulated surface; made by `surface` or `read_surface`.

    Attributes:
        p: vertices, (3, n_vertices).
        t: triangles, counter-clockwise as seen from outside, (3, n_triangles).
        vertex_sets: name -> vertices; boundary conditions are given on them.
    """

    p: Array
    t: Index
    vertex_sets: Mapping[str, Index] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Its own: a caller may fill an array anew.
        sets = {name: vertices.copy() for name, vertices in self.vertex_sets.items()}
        object.__setattr__(self, "p", self.p.copy())
        object.__setattr__(self, "t", self.t.copy())
        object.__setattr__(self, "vertex_sets", sets)

    def __repr__(self) -> str:
        sizes = f"{self.p.shape[1]} vertices, {self.t.shape[1]} triangles"
        return f"SurfaceMesh({sizes}, sets {sorted(self.vertex_sets)})"

    @property
    def nelements(self) -> int:
        """Number of triangles."""
        return int(self.t.shape[1])

    def dim(self) -> int:
        """Dimension of the space around it."""
        return 3

    @property
    def area_vectors(self) -> Array:
        """Area times unit normal of each triangle, (n_triangles, 3)."""
        a, b, c = (self.p[:, corner].T for corner in self.t)
        return 0.5 * np.cross(b - a, c - a)

    @property
    def is_closed(self) -> bool:
        """Has each edge two triangles?"""
        return bool((_Edges.of(self.t).count == 2).all())

    def with_sets(self, **predicates: Predicate) -> "SurfaceMesh":
        """The same with named vertex sets, e.g. `foot=lambda x: x[1] < 0.1`; x is (3, n_vertices).

        Raises:
            MeshError: a set is empty.
        """
        sets = dict(self.vertex_sets)
        for name, contains in predicates.items():
            sets[name] = _chosen(contains, self.p, name)
            if not sets[name].size:
                raise MeshError(f"the vertex set {name!r} is empty; check its predicate")
        return dataclasses.replace(self, vertex_sets=sets)


def plane(axis: int, value: float, tolerance: float) -> Predicate:
    """Vertices within a distance of a plane x_axis = value, for `SurfaceMesh.with_sets`."""
    check_axis(axis)
    check_real(value=value, tolerance=tolerance)
    return lambda x: np.asarray(np.abs(x[axis] - value) <= tolerance)


def box(low: Sequence[float], high: Sequence[float]) -> Predicate:
    """Vertices in a box, for `SurfaceMesh.with_sets`."""
    a, b = (check_points([corner], 3).T for corner in (low, high))
    return lambda x: np.asarray(((x >= a) & (x <= b)).all(axis=0))


def read_surface(path: str | Path, *, closed: bool = False) -> SurfaceMesh:
    """Read a surface of triangles from OBJ, STL, PLY, OFF, VTU, MSH, ...; see `surface`.

    The file may be a stranger's, see `read_mesh`.

    Args:
        path: the file.
        closed: refuse a surface with a boundary.

    Raises:
        MeshError: no such file, not a surface of triangles, or a fault that `surface` names.
    """
    path = check_path(path)
    raw = read_raw(path)
    try:
        parts = [raw.cells_dict[k] for k in ("triangle", "triangle6") if k in raw.cells_dict]
        if "quad" in raw.cells_dict:
            quads = raw.cells_dict["quad"]
            parts += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
        t = np.concatenate(
            [np.empty((0, 3), np.int64), *(p[:, :3].astype(np.int64) for p in parts)]
        )
        points = np.asarray(raw.points, dtype=np.float64).reshape(len(raw.points), -1)
    except Exception as error:
        # Blocks of one kind of cells that do not fit together, cells that are no numbers, ...
        raise MeshError(f"{str(path)!r} is damaged ({type(error).__name__}: {error})") from error
    if not len(t) or points.shape[1] != 3:
        raise MeshError(
            f"{str(path)!r} has no triangles in space; a shell needs a surface of triangles"
        )
    # In an STL file each triangle has its own corners.
    is_soup = path.suffix.lower() == ".stl"
    return surface(points, t, name=str(path), closed=closed, is_soup=is_soup)


def surface(
    points: Array,
    triangles: Index,
    *,
    name: str = "surface",
    closed: bool = False,
    is_soup: bool = False,
) -> SurfaceMesh:
    """A checked surface. Duplicate vertices are merged, and inconsistent triangles turned around.

    Args:
        points: (n_vertices, 3).
        triangles: (n_triangles, 3).
        name: for messages.
        closed: refuse a surface with a boundary.
        is_soup: is it expected that vertices coincide, so that merging them needs no warning?

    Raises:
        MeshError: coordinates that are not finite, slivers, edges with more than two triangles,
            vertices where parts touch, a Möbius strip, several parts, or a boundary.
    """
    check_flag(closed=closed)
    points, triangles = array_of(points, "points"), array_of(triangles, "triangles")
    for array, kinds, what in ((points, "fiu", "points"), (triangles, "iu", "triangles")):
        if array.dtype.kind not in kinds or array.ndim != 2 or array.shape[1] != 3:
            raise MeshError(
                f"{name}: {what} must have shape (n, 3), got {array.shape} of {array.dtype}"
            )
    if not np.isfinite(points).all():
        raise MeshError(f"{name}: some coordinates are not finite")
    if points.size and np.abs(points).max() > _LARGEST:
        raise MeshError(f"{name}: some coordinates are larger than {_LARGEST:g}")
    if not (triangles.size and triangles.min() >= 0 and triangles.max() < len(points)):
        raise MeshError(f"{name}: the triangles name vertices that do not exist")
    points, triangles, n_merged = _merged(points, triangles)
    if n_merged and not is_soup:
        warnings.warn(f"{name}: {n_merged} duplicate vertices were merged", stacklevel=2)
    t = np.ascontiguousarray(triangles.T)
    _check_slivers(points, t, name)
    edges = _Edges.of(t)
    _check_manifold(edges, t, name, closed=closed)
    turned = _turned(edges, name)
    if turned.any():
        warnings.warn(
            f"{name}: {int(turned.sum())} triangles were turned around, so that all normals agree",
            stacklevel=2,
        )
        t[1:, turned] = t[:0:-1, turned]
    mesh = SurfaceMesh(np.ascontiguousarray(points.T), t)
    volume = (mesh.area_vectors * points[t[0]]).sum() / 3
    if (edges.count == 2).all() and volume < 0:
        return dataclasses.replace(mesh, t=np.ascontiguousarray(t[[0, 2, 1]]))
    return mesh


@dataclass(frozen=True)
class _Edges:
    """Edges of triangles.

    Attributes:
        count: triangles at each edge, (n_edges,).
        number: edge of each side, side k from corner k to k + 1, (3, n_triangles).
        forward: does the side run from the lower to the higher vertex?, (3, n_triangles).
    """

    count: Index
    number: Index
    forward: NDArray[np.bool_]

    @classmethod
    def of(cls, t: Index) -> "_Edges":
        a, b = t, np.roll(t, -1, axis=0)
        sides = np.stack([np.minimum(a, b), np.maximum(a, b)], axis=-1).reshape(-1, 2)
        _, number, count = np.unique(sides, axis=0, return_inverse=True, return_counts=True)
        return cls(count, number.reshape(t.shape), a < b)

    @property
    def pairs(self) -> tuple[Index, Index]:
        """Sides (flat) that share an edge."""
        flat = self.number.ravel()
        order = np.argsort(flat, kind="stable")
        same = np.flatnonzero(flat[order][1:] == flat[order][:-1])
        return order[same], order[same + 1]


def _merged(points: Array, triangles: Index) -> tuple[Array, Index, int]:
    """Without coincident vertices, whose number is returned, and without unused ones."""
    near = _COINCIDENT * float(np.linalg.norm(np.ptp(points, axis=0)))
    n = len(points)
    # First those in one box of half the distance: of the rest each has few that are near.
    side = max(0.5 * near, np.finfo(np.float64).tiny)
    boxes = np.floor((points - points.min(axis=0)) / side)
    _, chosen, box = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
    close = cKDTree(points[chosen]).query_pairs(near, output_type="ndarray")
    if len(chosen) < n or len(close):
        m = len(chosen)
        graph = sp.coo_matrix((np.ones(len(close)), (close[:, 0], close[:, 1])), (m, m))
        label = connected_components(graph, directed=False)[1][box.ravel()]
        _, first = np.unique(label, return_index=True)
        points, triangles = points[first], label[triangles].astype(np.int64)
    n_merged = n - len(points)
    used, numbers = np.unique(triangles, return_inverse=True)
    return points[used], numbers.reshape(triangles.shape).astype(np.int64), n_merged


def _check_slivers(points: Array, t: Index, name: str) -> None:
    corners = points[t.T]
    a, b = (np.roll(corners, shift, axis=1) - corners for shift in (-1, 1))
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    angles = np.degrees(np.arctan2(sine, (a * b).sum(axis=-1)))
    bad = np.flatnonzero((angles < _SMALLEST_ANGLE).any(axis=1))
    if bad.size:
        raise MeshError(
            f"{name}: {bad.size} slivers with angles below {_SMALLEST_ANGLE:g} degree, "
            f"{_named(bad)}; collapse their short edges and export the surface again"
        )


def _check_manifold(edges: _Edges, t: Index, name: str, *, closed: bool) -> None:
    crowded = np.flatnonzero((edges.count[edges.number] > 2).any(axis=0))
    if crowded.size:
        raise MeshError(
            f"{name}: edges with more than two triangles (not a manifold), at {_named(crowded)}"
        )
    open_sides = np.flatnonzero((edges.count[edges.number] == 1).any(axis=0))
    if closed and open_sides.size:
        raise MeshError(
            f"{name}: the surface is open, and a closed one is needed; boundary at "
            f"{_named(open_sides)}"
        )
    first, second = edges.pairs
    n = t.shape[1]
    # Corners of neighbours at the same vertex belong together: one fan per vertex.
    side, other = (np.stack([s, (s // n + 1) % 3 * n + s % n]) for s in (first, second))
    ends, matching = t.ravel()[side], t.ravel()[other]
    swap = ends[0] != matching[0]
    other = np.where(swap, other[::-1], other)
    graph = sp.coo_matrix((np.ones(side.size), (side.ravel(), other.ravel())), (3 * n, 3 * n))
    _, fan = connected_components(graph, directed=False)
    fans_at = np.unique(np.stack([t.ravel(), fan]), axis=1)[0]
    touching = np.flatnonzero(np.bincount(fans_at) > 1)
    if touching.size:
        raise MeshError(f"{name}: parts touch at single vertices, {_named(touching, 'vertex')}")
    parts, label = connected_components(
        sp.coo_matrix((np.ones(len(first)), (first % n, second % n)), (n, n)), directed=False
    )
    if parts > 1:
        sizes = np.bincount(label)
        raise MeshError(
            f"{name}: {parts} parts that do not touch, of {sorted(sizes.tolist())} triangles; "
            "keep one"
        )


def _turned(edges: _Edges, name: str) -> NDArray[np.bool_]:
    """Triangles to turn around, so that neighbours run through their edge in opposite ways."""
    first, second = edges.pairs
    n = edges.number.shape[1]
    clash = edges.forward.ravel()[first] == edges.forward.ravel()[second]
    rows, columns = first % n, second % n
    # Stored as 1 or 2, because a stored zero would be no edge of the graph.
    graph = sp.coo_matrix((1.0 + clash, (rows, columns)), (n, n)).tocsr()
    graph = graph.maximum(graph.T)
    order, parent = breadth_first_order(graph, 0, directed=False)
    weights = np.zeros(n)
    weights[order[1:]] = np.asarray(graph[order[1:], parent[order[1:]]]).ravel()
    turned = np.zeros(n, dtype=bool)
    for i in order[1:]:
        turned[i] = turned[parent[i]] ^ (weights[i] == 2)
    if (clash ^ turned[rows] ^ turned[columns]).any():
        raise MeshError(f"{name}: the surface has only one side (a Möbius strip)")
    # Turn the smaller part.
    return turned if turned.sum() <= n / 2 else ~turned


def _chosen(contains: Predicate, p: Array, name: str) -> Index:
    """Vertices that a predicate says to be in a set."""
    chosen = np.asarray(contains(p)) if callable(contains) else np.zeros(0)
    if chosen.dtype != np.bool_ or chosen.shape != p.shape[1:]:
        raise MeshError(
            f"the vertex set {name!r} needs a function of x (3, n_vertices) that returns True or "
            f"False for each vertex, as {name}=lambda x: x[1] < 0.1"
        )
    return np.flatnonzero(chosen)


def _named(items: Index, kind: str = "triangle") -> str:
    more = " ..." if items.size > 5 else ""
    return f"{kind} {', '.join(map(str, items[:5]))}{more}"
