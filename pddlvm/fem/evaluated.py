"""What an element evaluates at a point: values, and what is derived from them.

    e = (u, du),  (u, du, ddu)

    Lagrange, bubbles, DG          u, grad u; two copies of an element make a vector
    Raviart-Thomas, BDM   H(div)   u (dim,), div u
    Nedelec               H(curl)  u (dim,), curl u: a number in the plane, (3,) in space
    Morley, Argyris, Hermite       u, grad u, the Hessian (dim, dim)

Which of them it is, is read from what scikit-fem delivers.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import skfem
from numpy.typing import NDArray

from pddlvm.basics.errors import InputError, MeshError
from pddlvm.fem.regions import FieldPart, Points, Region

__all__ = ["ElementPart", "check_n_components", "part_of"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_FIRST = {"gradient": "grad", "divergence": "div", "curl": "curl"}
"""What `du` can be, and its name in scikit-fem."""
_MOST_AXES = 1
"""Of u: it is a number or a vector."""


@dataclass(frozen=True)
class ElementPart(FieldPart):
    """What an element adds to e, and where scikit-fem keeps it.

    Attributes:
        attributes: of a field of scikit-fem, one for each of what is derived.
    """

    attributes: tuple[str, ...]

    def named(self, name: str) -> "ElementPart":
        """The same of a field of that name."""
        return replace(self, name=name)

    def entries(self, field: skfem.element.DiscreteField, order: int) -> Array:
        """u (order 0), du or ddu of a basis function, (size, n_cells, n_points)."""
        found = np.asarray(field) if order == 0 else getattr(field, self.attributes[order - 1])
        return np.reshape(found, (self.sizes[order], *found.shape[-2:]))

    def region(
        self, basis: skfem.AbstractBasis, number: Index, n_dofs: int, cells: Index, name: str
    ) -> Region:
        """B_e of all basis functions at all points.

        Args:
            basis: on cells, or on facets.
            number: of each degree of freedom of the element.
            n_dofs: different ones.
            cells: of the basis.
            name: of the region.
        """
        n_cells, n_quadrature = basis.dx.shape
        local = np.empty((n_cells, n_quadrature, sum(self.sizes), len(basis.element_dofs)))
        for i in range(len(basis.element_dofs)):
            pieces = [self.entries(basis.basis[i][0], k) for k in range(len(self.sizes))]
            local[..., i] = np.moveaxis(np.concatenate(pieces), 0, -1)
        x = np.moveaxis(np.asarray(basis.global_coordinates()), 0, -1)
        return Region(
            local=local,
            dofs=np.ascontiguousarray(number[basis.element_dofs].T),
            weights=np.ascontiguousarray(basis.dx),
            points=Points(
                np.ascontiguousarray(x.reshape(-1, x.shape[-1])), np.repeat(cells, n_quadrature)
            ),
            parts=(self,),
            n_dofs=n_dofs,
            name=name,
        )


def part_of(element: skfem.Element, mesh: skfem.Mesh) -> ElementPart:
    """What an element of a mesh evaluates.

    Raises:
        MeshError: an element of another cell, of several fields, or of matrices.
    """
    name = type(element).__name__
    if element.refdom is not mesh.refdom:
        raise MeshError(
            f"{name} is an element of {_cell(element)}s, and the mesh has {_cell(mesh)}s"
        )
    middle = mesh.refdom.p.mean(axis=1, keepdims=True)
    field, *others = element.gbasis(mesh.mapping(), middle, 0, np.array([0]))
    if others:
        raise MeshError(
            f"{name} has several fields: make a fem.Space of each, and a fem.MixedSpace of these"
        )
    shape = tuple(np.shape(field)[:-2])
    found = {k: a for k, a in _FIRST.items() if getattr(field, a) is not None}
    if len(found) != 1 or len(shape) > _MOST_AXES or "Skeleton" in name:
        raise MeshError(
            f"{name} cannot be evaluated by point functions, which read numbers or vectors inside "
            "of cells, and their gradient, divergence or curl: take another element"
        )
    if field.hess is not None:
        found["Hessian"] = "hess"
    derived = tuple((k, tuple(np.shape(getattr(field, a))[:-2])) for k, a in found.items())
    return ElementPart("u", shape, derived, tuple(found.values()))


def check_n_components(part: FieldPart, n_components: int, name: str) -> None:
    """Raise an InputError if a number of components was given that an element has not."""
    size = math.prod(part.u_shape)
    if n_components not in (1, size):
        raise InputError(
            f"{name} has {size} components, and n_components={n_components}; leave it out, or give "
            f"{n_components} copies, skfem.ElementVector(element, {n_components})"
        )


def _cell(has_domain: skfem.Element | skfem.Mesh) -> str:
    return str(has_domain.refdom.name).lower()
