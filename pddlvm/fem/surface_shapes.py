"""Surfaces made by formulas: roof, cylinder, hemisphere, perturbed sphere, hare.

All come with named vertex sets where their edges lie.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pddlvm.basics.checks import check_count, check_real
from pddlvm.basics.errors import MeshError
from pddlvm.fem.cells import check_cells
from pddlvm.fem.surfaces import SurfaceMesh, surface

__all__ = ["cylinder", "hare", "hemisphere", "roof", "sphere"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def roof(n: int, *, radius: float = 25.0, length: float = 50.0, angle: float = 40.0) -> SurfaceMesh:
    """Quarter of the Scordelis-Lo roof: axis along y, crown at x = 0, y from the middle to an end.

    Sets: `crown`, `edge` (the free side), `middle`, `end`, `corner` (middle of the free side).

    Args:
        n: cells per side.
        radius: of the cylinder.
        length: of the whole roof.
        angle: half of the opening, degrees.
    """
    check_cells(n)
    check_real(0, radius=radius, length=length, angle=angle)
    half = np.radians(angle)

    def place(s: Array, t: Array) -> Array:
        return np.stack(
            [radius * np.sin(half * s), t * length / 2, radius * np.cos(half * s)], axis=1
        )

    mesh = _patch(n, n, place, ("crown", "edge", "middle", "end"))
    tiny = 1e-9 * radius
    return mesh.with_sets(corner=lambda x: (x[0] > radius * np.sin(half) - tiny) & (x[1] < tiny))


def cylinder(n: int, *, radius: float = 300.0, length: float = 600.0) -> SurfaceMesh:
    """Eighth of a cylinder: axis along y, a quarter of the circle from z to x, half of the length.

    Sets: `top` (x = 0), `side` (z = 0), `middle` (y = 0), `end`, `corner` (top of the middle).
    """
    check_cells(n)
    check_real(0, radius=radius, length=length)

    def place(s: Array, t: Array) -> Array:
        phi = 0.5 * np.pi * s
        return np.stack([radius * np.sin(phi), t * length / 2, radius * np.cos(phi)], axis=1)

    tiny = 1e-9 * radius
    mesh = _patch(n, n, place, ("top", "side", "middle", "end"))
    return mesh.with_sets(corner=lambda x: (x[0] < tiny) & (x[1] < tiny))


def hemisphere(n: int, *, radius: float = 10.0, hole: float = 18.0) -> SurfaceMesh:
    """Quarter of a hemisphere with its pole along z, open within `hole` degrees of the pole.

    Sets: `x_plane` (x = 0), `y_plane` (y = 0), `equator`, `rim` (not without a hole), `on_x` and
    `on_y` (the corners on the axes).

    Raises:
        MeshError: the hole is not between 0 and 90 degrees.
    """
    check_cells(n)
    check_real(0, radius=radius)
    check_real(hole=hole)
    if not 0 <= hole < 90:
        raise MeshError(f"hole must be an angle from 0 to below 90 degrees, got {hole}")
    top = np.radians(hole)

    def place(s: Array, t: Array) -> Array:
        phi, theta = 0.5 * np.pi * s, 0.5 * np.pi * (1 - t) + top * t
        return radius * np.stack(
            [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=1
        )

    if hole:
        mesh = _patch(n, n, place, ("y_plane", "x_plane", "equator", "rim"))
    else:
        mesh = _octant(n, radius)
    tiny = 1e-9 * radius
    return mesh.with_sets(
        on_x=lambda x: np.abs(x[0] - radius) < tiny, on_y=lambda x: np.abs(x[1] - radius) < tiny
    )


def sphere(n: int, *, radius: float = 1.0, perturbation: float = 0.1, seed: int = 0) -> SurfaceMesh:
    """A sphere whose radius varies smoothly, by a random polynomial of degree three in x, y, z.

    Args:
        n: each edge of an octahedron is cut into n pieces.
        radius: without the perturbation.
        perturbation: standard deviation of the radius relative to it.
        seed: of the polynomial.
    """
    check_cells(n)
    check_count(0, seed=seed)
    check_real(0, radius=radius)
    check_real(perturbation=perturbation)
    octant = _octant(n, 1.0)
    signs = [np.array([a, b, c]) for a in (1, -1) for b in (1, -1) for c in (1, -1)]
    points = np.concatenate([octant.p.T * sign for sign in signs])
    triangles = []
    for i, sign in enumerate(signs):
        part = octant.t.T + i * octant.p.shape[1]
        triangles.append(part if sign.prod() > 0 else part[:, [0, 2, 1]])
    rng = np.random.default_rng(seed)
    monomials = np.stack(
        [
            points[:, 0] ** i * points[:, 1] ** j * points[:, 2] ** k
            for i in range(4)
            for j in range(4 - i)
            for k in range(4 - i - j)
            if i + j + k > 0
        ],
        axis=1,
    )
    wave = monomials @ rng.standard_normal(monomials.shape[1])
    wave = (wave - wave.mean()) / wave.std()
    points = radius * points * (1 + perturbation * np.tanh(wave))[:, None]
    # Vertices on the seams of the octants coincide.
    return surface(points, np.concatenate(triangles), name="sphere", closed=True, is_soup=True)


_HARE = (
    ((0, 0, 0), (1, 2, 1)),
    ((0, 0, 2), (1, 2, 3)),
    ((4, 0, 0), (5, 2, 1)),
    ((4, 0, 2), (5, 2, 3)),
    ((0, 2, 0), (5, 4, 3)),
    ((4, 4, 0), (6, 6, 3)),
    ((4, 6, 0), (5, 9, 1)),
    ((4, 6, 2), (5, 9, 3)),
    ((-1, 3, 1), (0, 4, 2)),
)
"""Boxes of voxels (low corner, high corner): four legs, body, head, two ears, tail."""


def hare(levels: int = 2) -> SurfaceMesh:
    """A hare: a cage of voxels (legs, body, head, ears, tail) smoothed by Loop subdivision.

    y is the height. Set: `foot`, the lowest 6 % of the height.

    Args:
        levels: subdivisions, each quadruples the triangles; 2 give some thousand.
    """
    check_count(0, levels=levels)
    filled = np.zeros((9, 11, 5), dtype=bool)
    offset = np.array([2, 1, 1])
    for low, high in _HARE:
        a, b = np.array(low) + offset, np.array(high) + offset
        filled[a[0] : b[0], a[1] : b[1], a[2] : b[2]] = True
    points, triangles = _voxel_surface(filled)
    points = points - offset
    for _ in range(levels):
        points, triangles = loop_subdivide(points, triangles)
    points[:, 1] -= points[:, 1].min()
    height = points[:, 1].max()
    mesh = surface(points, triangles, name="hare", closed=True)
    return mesh.with_sets(foot=lambda x: x[1] < 0.06 * height)


def loop_subdivide(points: Array, triangles: Index) -> tuple[Array, Index]:
    """One step of Loop subdivision of a closed surface (Loop, 1987; weights of Warren)."""
    n = len(points)
    sides = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]], axis=-1).reshape(-1, 2)
    edges, number = np.unique(sides, axis=0, return_inverse=True)
    number = number.reshape(-1, 3)
    opposite = np.zeros((len(edges), 3))
    np.add.at(opposite, number.ravel(), points[triangles[:, [2, 0, 1]].ravel()])
    middle = 0.375 * (points[edges[:, 0]] + points[edges[:, 1]]) + 0.125 * opposite
    valence = np.bincount(edges.ravel(), minlength=n)
    neighbours = np.zeros_like(points)
    np.add.at(neighbours, edges[:, 0], points[edges[:, 1]])
    np.add.at(neighbours, edges[:, 1], points[edges[:, 0]])
    beta = np.where(valence == 3, 3 / 16, 3 / (8 * np.maximum(valence, 1)))[:, None]
    smooth = (1 - valence[:, None] * beta) * points + beta * neighbours
    a, b, c = triangles.T
    ab, bc, ca = (n + number).T
    pieces = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return np.vstack([smooth, middle]), np.vstack([np.stack(piece, axis=1) for piece in pieces])


def _voxel_surface(filled: NDArray[np.bool_]) -> tuple[Array, Index]:
    """Outer faces of voxels, cut into triangles."""
    corners: list[NDArray[np.int64]] = []
    for axis in range(3):
        for direction in (1, -1):
            outside = ~np.roll(filled, -direction, axis=axis)
            cells = np.argwhere(filled & outside)
            u, v = np.eye(3, dtype=np.int64)[[(axis + 1) % 3, (axis + 2) % 3]]
            start = cells + np.eye(3, dtype=np.int64)[axis] * (direction > 0)
            square = np.stack([start, start + u, start + u + v, start + v], axis=1)
            corners.append(square if direction > 0 else square[:, ::-1])
    squares = np.concatenate(corners)
    points, number = np.unique(squares.reshape(-1, 3), axis=0, return_inverse=True)
    quads = number.reshape(-1, 4)
    # Alternating diagonals, so that the surface has no preferred direction.
    even = squares.sum(axis=(1, 2)) // 2 % 2 == 0
    first = np.where(even[:, None], quads[:, [0, 1, 2]], quads[:, [1, 2, 3]])
    second = np.where(even[:, None], quads[:, [0, 2, 3]], quads[:, [1, 3, 0]])
    return points.astype(np.float64), np.concatenate([first, second])


def _patch(
    n: int, m: int, place: Callable[[Array, Array], Array], sides: tuple[str, str, str, str]
) -> SurfaceMesh:
    """The unit square (s, t), n x m cells, placed in space; sides s = 0, s = 1, t = 0, t = 1."""
    s, t = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, m + 1), indexing="ij")
    i, j = np.meshgrid(np.arange(n), np.arange(m), indexing="ij")
    a = (i * (m + 1) + j).ravel()
    b, c, d = a + m + 1, a + m + 2, a + 1
    even = ((i + j) % 2 == 0).ravel()[:, None]
    first = np.where(even, np.stack([a, b, c], 1), np.stack([a, b, d], 1))
    second = np.where(even, np.stack([a, c, d], 1), np.stack([b, c, d], 1))
    at_s, at_t = s.ravel(), t.ravel()
    mesh = surface(place(at_s, at_t), np.concatenate([first, second]), name="patch")
    low_s, high_s, low_t, high_t = sides
    return mesh.with_sets(
        **{
            low_s: lambda x: at_s == 0,
            high_s: lambda x: at_s == 1,
            low_t: lambda x: at_t == 0,
            high_t: lambda x: at_t == 1,
        }
    )


def _octant(n: int, radius: float) -> SurfaceMesh:
    """An eighth of a sphere: a face of the octahedron, n pieces per edge, pushed outwards."""
    number: dict[tuple[int, int], int] = {}
    for i in range(n + 1):
        for j in range(n + 1 - i):
            number[i, j] = len(number)
    ij = np.array(list(number))
    flat = np.column_stack([ij, n - ij.sum(axis=1)]) / n
    # Angles instead of chords: cells of nearly equal size.
    bent = np.sin(0.5 * np.pi * flat)
    points = radius * bent / np.linalg.norm(bent, axis=1, keepdims=True)
    triangles = [(number[i, j], number[i + 1, j], number[i, j + 1]) for i, j in number if i + j < n]
    triangles += [
        (number[i + 1, j], number[i + 1, j + 1], number[i, j + 1])
        for i, j in number
        if i + j < n - 1
    ]
    mesh = surface(points, np.array(triangles), name="octant")
    tiny = 1e-9 * radius
    return mesh.with_sets(
        x_plane=lambda x: np.abs(x[0]) < tiny,
        y_plane=lambda x: np.abs(x[1]) < tiny,
        equator=lambda x: np.abs(x[2]) < tiny,
    )
