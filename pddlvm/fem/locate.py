"""The cell of a point, and the closest point of a mesh.

In a cell that is the image F of a reference cell, the closest point F(X) to x is found by

    X <- P_J(X + J^{-1} (x - F(X))),    J = F'(X),

P_J the projection on the reference cell in the norm |J .|: one step where F is affine.
"""

from itertools import combinations, product

import numpy as np
import skfem
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skfem.refdom import RefHex, RefQuad

from pddlvm.basics.errors import InputError

__all__ = ["Finder", "facet_normals", "located", "rounding", "sagitta"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_INSIDE = 1e-8
"""Tolerance in coordinates of the reference cell."""
_STEPS = 12
"""Of Newton's method in cells that are not affine."""
_ROUNDING = 5e-4
"""Of the diagonal of a mesh: points of a table with four digits are this near."""
_CORNER = np.radians(50)
"""Where the normal turns more there is a corner, else the boundary may be a curve."""


class Finder:
    """Finds points in the cells of a mesh.

    Args:
        mesh: of lines, triangles, quadrilaterals, tetrahedra or hexahedra.
        cells: those that are looked at, by default all.
    """

    def __init__(self, mesh: skfem.Mesh, cells: Index | None = None) -> None:
        self._element = mesh.elem()
        self._nodes, self._node_numbers = mesh.p, mesh.dofs.element_dofs
        self._cells = np.arange(mesh.nelements) if cells is None else cells
        self._is_cube = mesh.refdom in (RefQuad, RefHex)
        self._dim = int(mesh.dim())
        self._faces = _faces(mesh.refdom.p, is_cube=self._is_cube)
        self._n_steps = 1 if isinstance(mesh.mapping(), skfem.MappingAffine) else _STEPS
        corners = mesh.p[:, self._node_numbers[:, self._cells]]
        low, high = corners.min(axis=1).T, corners.max(axis=1).T
        self._middles = (low + high) / 2
        # A curve may leave the box of its nodes by a tenth of its size.
        self._halves = (high - low) * (0.5 if self._n_steps == 1 else 0.6)
        self._radii = np.linalg.norm(self._halves, axis=1)

    def containing(self, points: Array) -> tuple[Index, Index, Array]:
        """Points (n, dim) and cells that contain them, in pairs, and X of each, (n_pairs, dim)."""
        i, cells = self._near(points, np.zeros(len(self._cells)))
        local = np.full((len(i), self._dim), 1 / (self._dim + 1))
        going = np.arange(len(i))
        for _ in range(self._n_steps):
            step, _ = self._step(points[i[going]], cells[going], local[going])
            local[going] += step
            going = going[np.abs(step).max(axis=1, initial=0.0) > _INSIDE / 100]
        inside = self._outside(local) <= _INSIDE
        if self._n_steps > 1:
            # What has not converged is at another point.
            inside[going] = False
        return i[inside], cells[inside], local[inside]

    def closest(self, points: Array, slack: Array) -> tuple[Index, Array, Array]:
        """The cell whose closest point is nearest, X of that point, and its distance.

        Args:
            points: (n, dim).
            slack: how far from each cell is looked; cell -1 and distance inf where none is near.
        """
        i, cells = self._near(points, slack)
        local = np.full((len(i), self._dim), 1 / (self._dim + 1))
        for _ in range(self._n_steps):
            step, jacobian = self._step(points[i], cells, local)
            local = self._projected(local + step, jacobian)
        distance = np.linalg.norm(points[i] - self._map(cells, local)[0], axis=1)
        ok = distance <= slack[np.searchsorted(self._cells, cells)]
        i, cells, local, distance = i[ok], cells[ok], local[ok], distance[ok]
        order = np.lexsort((distance, i))
        which, first = np.unique(i[order], return_index=True)
        best = order[first]
        found = np.full(len(points), -1)
        x, d = np.zeros((len(points), self._dim)), np.full(len(points), np.inf)
        found[which], x[which], d[which] = cells[best], local[best], distance[best]
        return found, x, d

    def at(self, cells: Index, local: Array) -> Array:
        """Points F(X), (n, dim), of cells (n,) and X (n, dim)."""
        return self._map(cells, local)[0]

    def distance(self, point: Array) -> float:
        """From a point (dim,) to the mesh."""
        bound = float((np.linalg.norm(self._middles - point, axis=1) + self._radii).min())
        slack = np.full(len(self._cells), bound)
        return float(self.closest(point[None], slack)[2][0])

    def _near(self, points: Array, slack: Array) -> tuple[Index, Index]:
        """Pairs of points and cells that may be near: trees of cells of about one size."""
        radii = self._radii * (1 + _INSIDE) + slack
        size = np.floor(np.log2(radii))
        numbers, cells = [], []
        if not len(points):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        for one in np.unique(size):
            group = np.flatnonzero(size == one)
            found = cKDTree(self._middles[group]).query_ball_point(points, radii[group].max())
            numbers.append(np.repeat(np.arange(len(points)), [len(f) for f in found]))
            cells.append(group[np.concatenate([np.asarray(f, dtype=np.int64) for f in found])])
        i, near = np.concatenate(numbers), np.concatenate(cells)
        width = self._halves[near] * (1 + _INSIDE) + (slack + _INSIDE * self._radii)[near, None]
        inside = (np.abs(points[i] - self._middles[near]) <= width).all(axis=1)
        return i[inside], self._cells[near[inside]]

    def _map(self, cells: Index, local: Array) -> tuple[Array, Array]:
        """F(X) and J, (n, dim) and (n, dim, dim)."""
        x, jacobian = np.zeros_like(local), np.zeros((*local.shape, self._dim))
        for i, numbers in enumerate(self._node_numbers):
            node = self._nodes[:, numbers[cells]].T
            value, gradient = self._element.lbasis(local.T, i)
            x += node * np.reshape(value, (-1, 1))
            jacobian += node[:, :, None] * np.transpose(gradient)[:, None]
        return x, jacobian

    def _step(self, points: Array, cells: Index, local: Array) -> tuple[Array, Array]:
        """J^{-1} (x - F(X)) and J."""
        x, jacobian = self._map(cells, local)
        with np.errstate(all="ignore"):
            step = np.einsum("nij,nj->ni", _inverse(jacobian), points - x)
        # Far outside a curved cell may be flat: a step longer than some cells leads nowhere.
        return step if self._n_steps == 1 else np.clip(np.nan_to_num(step), -4, 4), jacobian

    def _outside(self, local: Array) -> Array:
        """How far coordinates leave the reference cell, negative inside."""
        beyond = local.max(axis=1) - 1 if self._is_cube else local.sum(axis=1) - 1
        return np.asarray(np.maximum(beyond, -local.min(axis=1)))

    def _projected(self, local: Array, jacobian: Array) -> Array:
        """P_J: the best of the closest points of corners, edges and facets."""
        result = local.copy()
        moved = np.flatnonzero(self._outside(local) > 0)
        x, metric = local[moved], jacobian[moved]
        best, least = x.copy(), np.full(len(x), np.inf)
        for origin, along in self._faces:
            directions = metric @ along
            to_x = np.einsum("nij,nj->ni", metric, x - origin)
            gram = np.swapaxes(directions, 1, 2) @ directions
            # A side may have no length where two corners are one.
            gram += np.finfo(float).tiny * np.eye(along.shape[1])
            right = np.einsum("nik,ni->nk", directions, to_x)
            with np.errstate(all="ignore"):
                s = np.linalg.solve(gram, right[..., None])[..., 0]
            on_it = (s >= 0).all(axis=1)
            on_it &= (s <= 1).all(axis=1) if self._is_cube else s.sum(axis=1) <= 1
            y = origin + s @ along.T
            distance = np.linalg.norm(np.einsum("nij,nj->ni", metric, y - x), axis=1)
            better = on_it & (distance < least)
            best[better], least[better] = y[better], distance[better]
        result[moved] = best
        return result


def _faces(vertices: Array, *, is_cube: bool) -> list[tuple[Array, Array]]:
    """Corners, edges and facets of a reference cell: origin (dim,) and directions (dim, k)."""
    dim = len(vertices)
    if is_cube:
        fixed = [
            sides
            for sides in product((0.0, 1.0, None), repeat=dim)
            if any(s is not None for s in sides)
        ]
        return [
            (np.array([s or 0.0 for s in sides]), np.eye(dim)[:, [s is None for s in sides]])
            for sides in fixed
        ]
    corners = [v for k in range(1, dim + 1) for v in combinations(vertices.T, k)]
    return [(v[0], (np.array(v[1:]).reshape(-1, dim) - v[0]).T) for v in corners]


def _inverse(a: Array) -> Array:
    """Of matrices (n, d, d), d = 1, 2, 3, by their cofactors; not finite where there is none."""
    d = a.shape[1]
    if d == 1:
        return np.asarray(1 / a)
    if d == 2:
        cofactors = np.stack([a[:, 1, ::-1], a[:, 0, ::-1]], axis=1) * [[1, -1], [-1, 1]]
    else:
        cofactors = np.cross(np.roll(a, -1, axis=1), np.roll(a, -2, axis=1))
    determinant = (a[:, 0] * cofactors[:, 0]).sum(axis=1)
    return np.asarray(np.swapaxes(cofactors, 1, 2) / determinant[:, None, None])


def rounding(mesh: skfem.Mesh, facets: Index) -> Array:
    """How far from the mesh a point near each outer facet may lie and still be meant to be in it.

    That is the rounding of a table with four digits, and the sagitta, about h theta / 8, by which
    the chord h of a curve that turns by theta from facet to facet lies inside of the curve.
    """
    diagonal = float(np.linalg.norm(np.ptp(mesh.p, axis=1)))
    return _ROUNDING * diagonal + sagitta(mesh, facets)


def sagitta(mesh: skfem.Mesh, facets: Index) -> Array:
    """How far outer facets may lie inside of the curve that they are chords of, (n,).

    None where the boundary has a corner.
    """
    if mesh.dim() == 1:
        return np.zeros(len(facets))
    corners = mesh.p[:, mesh.facets[:, facets]]
    normals = facet_normals(mesh, facets)
    ridges = mesh.facets[:, facets] if mesh.dim() == 2 else mesh.f2e[:, facets]
    size = np.linalg.norm(corners.max(axis=1) - corners.min(axis=1), axis=0)
    # Pairs of facets with a common vertex in the plane, edge in space.
    order = np.argsort(ridges.ravel(), kind="stable")
    ridge, owner = ridges.ravel()[order], np.tile(np.arange(len(facets)), len(ridges))[order]
    same = np.flatnonzero(ridge[1:] == ridge[:-1])
    one, two = owner[same], owner[same + 1]
    turn = np.arccos(np.clip((normals[:, one] * normals[:, two]).sum(axis=0), -1, 1))
    turn[turn > _CORNER] = 0
    found = np.zeros(len(facets))
    # In the plane h theta / 8 between equal chords, twice that beside a much shorter one; in space
    # the middles of triangles are nearer to each other.
    for facet in (one, two):
        np.maximum.at(found, facet, (0.25 if mesh.dim() == 2 else 0.5) * size[facet] * turn)
    return found


def facet_normals(mesh: skfem.Mesh, facets: Index) -> Array:
    """Unit normals of facets, taken as straight, out of the first of their cells, (dim, n)."""
    corners = mesh.p[:, mesh.facets[:, facets]]
    sides = corners[:, 1:3] - corners[:, :1]
    if mesh.dim() == 1:
        normals = np.ones((1, len(facets)))
    elif mesh.dim() == 2:
        normals = np.stack([sides[1, 0], -sides[0, 0]])
    else:
        normals = np.cross(sides[:, 0], sides[:, 1], axis=0)
    cells = mesh.t[:, mesh.f2t[0, facets]]
    outwards = corners.mean(axis=1) - mesh.p[:, cells].mean(axis=1)
    normals = normals / np.linalg.norm(normals, axis=0)
    return np.asarray(normals * np.sign((normals * outwards).sum(axis=0)))


def located(mesh: skfem.Mesh, points: Array) -> tuple[Index, Array]:
    """Cell of each point and coordinates in it, (n, dim); a point beside the mesh is moved on it.

    Raises:
        InputError: a point is outside by more than rounding.
    """
    number, cell, x = Finder(mesh).containing(points)
    number, first = np.unique(number, return_index=True)
    cells, local = np.full(len(points), -1), np.zeros_like(points)
    cells[number], local[number] = cell[first], x[first]
    beside = np.flatnonzero(cells < 0)
    if len(beside):
        facets = mesh.boundary_facets()
        outer, which = np.unique(mesh.f2t[0, facets], return_inverse=True)
        slack = np.zeros(len(outer))
        np.maximum.at(slack, which, rounding(mesh, facets))
        finder = Finder(mesh, outer)
        cells[beside], local[beside], _ = finder.closest(points[beside], slack)
        if (cells < 0).any():
            i = int(np.argmax(cells < 0))
            raise InputError(
                f"point {i}, {points[i].tolist()}, is outside of the mesh, "
                f"{finder.distance(points[i]):.2g} away from it"
            )
    return cells, local
