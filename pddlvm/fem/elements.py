"""Lagrange elements by the mesh and the degree, and quadrature that suits them.

int f  ~  sum_q w_q f(x_q),    exact for polynomials f of a degree
"""

from copy import copy
from typing import Any

import numpy as np
import skfem
from numpy.typing import NDArray
from skfem.element import ElementGlobal
from skfem.quadrature import get_quadrature
from skfem.refdom import RefTri

from pddlvm.basics.errors import InputError, MeshError

__all__ = ["default_quadrature", "lagrange", "own_element", "quadrature_rules"]

Array = NDArray[np.float64]

_ELEMENTS: dict[tuple[type, int], type] = {
    (skfem.MeshLine1, 1): skfem.ElementLineP1,
    (skfem.MeshLine1, 2): skfem.ElementLineP2,
    (skfem.MeshTri1, 1): skfem.ElementTriP1,
    (skfem.MeshTri1, 2): skfem.ElementTriP2,
    (skfem.MeshQuad1, 1): skfem.ElementQuad1,
    (skfem.MeshQuad1, 2): skfem.ElementQuad2,
    (skfem.MeshTet1, 1): skfem.ElementTetP1,
    (skfem.MeshTet1, 2): skfem.ElementTetP2,
    (skfem.MeshHex1, 1): skfem.ElementHex1,
    (skfem.MeshHex1, 2): skfem.ElementHex2,
}
_TENSOR_CELLS = (skfem.MeshQuad1, skfem.MeshHex1)


class _Vector(skfem.ElementVector):  # type: ignore[misc]
    """c copies of an element, c any number: scikit-fem takes c for the dimension of the cell."""

    def __init__(self, element: skfem.Element, c: int) -> None:
        super().__init__(element, c)
        self._c, self._dim = c, element.dim

    def gbasis(self, mapping: Any, X: Any, i: int, tind: Any = None) -> Any:
        """Basis function i; while it is made, the dimension means the number of components."""
        self._dim, cell = self._c, self._dim
        try:
            return super().gbasis(mapping, X, i, tind)
        finally:
            self._dim = cell


def lagrange(mesh: skfem.Mesh, degree: int, n_components: int) -> skfem.Element:
    """The element of a degree on a mesh, or a MeshError."""
    kind = next((k for k in _ELEMENTS if isinstance(mesh, k[0]) and k[1] == degree), None)
    if kind is None:
        raise MeshError(
            f"no element of degree {degree} for {type(mesh).__name__}; expected degree 1 "
            "or 2, or pass `element`"
        )
    element = _ELEMENTS[kind]()
    return _Vector(element, n_components) if n_components > 1 else element


def default_quadrature(mesh: skfem.Mesh, degree: int) -> int:
    """What keeps the order of convergence of a degree for variable coefficients."""
    return 2 * degree + (1 if isinstance(mesh, _TENSOR_CELLS) else -1)


def quadrature_rules(mesh: skfem.Mesh, degree: int) -> tuple[tuple[Array, Array], ...]:
    """Quadrature on the reference cell and on its facet, exact for polynomials of the degree."""
    return tuple(_quadrature_rule(domain, degree) for domain in (mesh.refdom, mesh.brefdom))


def _quadrature_rule(domain: type, degree: int) -> tuple[Array, Array]:
    if domain is RefTri and degree <= 1:
        # The centroid is exact for linear functions, where scikit-fem takes three points.
        return np.full((2, 1), 1 / 3), np.array([0.5])
    try:
        points, weights = get_quadrature(domain, degree)
    except NotImplementedError as error:
        raise InputError(
            f"quadrature has no rule of degree {degree}; ask for a lower one"
        ) from error
    return points, weights


def own_element(element: skfem.Element, mesh: skfem.Mesh) -> skfem.Element:
    """A copy of an element for one mesh: some keep what they have computed on theirs.

    Raises:
        MeshError: degrees of freedom that are derivatives, on a mesh where scikit-fem gives the
            normals of a facet opposite signs in its two cells, or on curved cells.
    """
    found = copy(element)
    if isinstance(found, ElementGlobal):
        found.V = None
        if any(name.startswith("u_") for name in found.dofnames):
            _check_normals(type(found).__name__, mesh)
    return found


def _check_normals(name: str, mesh: skfem.Mesh) -> None:
    if len(mesh.dofs.element_dofs) != len(mesh.t):
        raise MeshError(f"{name} needs straight cells: its functions are polynomials in space")
    if mesh.refdom is RefTri and (np.diff(mesh.t, axis=0) < 0).any():
        raise MeshError(
            f"{name} needs the vertices of each triangle in ascending order, as "
            "skfem.MeshTri(p, t) has them: make the mesh anew of its p and t"
        )
