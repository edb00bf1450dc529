"""Several fields on one mesh, each in a space of its own: velocity and pressure, for one.

    u = (u_1, u_2, ...),      e = (u_1, du_1, u_2, du_2, ...)

The degrees of freedom are those of the fields one after the other, and all fields share one
quadrature.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from keyword import iskeyword
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pddlvm.basics.checks import check_only_field, is_integer
from pddlvm.basics.errors import MeshError, ProblemError
from pddlvm.fem.regions import FieldPart, FunctionSpace, Points, Region
from pddlvm.fem.space import Space
from pddlvm.fem.where import Patch, Where

__all__ = ["MixedSpace", "field_names", "field_of", "fields_of", "names_of", "on_all_dofs"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


class MixedSpace:
    """Spaces of several fields on the same mesh.

    Point functions read their arguments by name: for fields "u" and "p" these are `u`, `du`, `p`,
    `dp` and `x`, besides the parameter fields.

    Args:
        fields: name -> space. The quadrature is that of the one which needs most.

    Raises:
        ProblemError: a name that no argument can have, that two arguments would have, or something
            else than a `Space`.
        MeshError: meshes that differ.
    """

    def __init__(self, fields: Mapping[str, Space]) -> None:
        self._spaces = _checked(fields)
        quadrature = max(space.quadrature for space in self._spaces.values())
        self._spaces = {k: v.with_quadrature(quadrature) for k, v in self._spaces.items()}
        ends = np.cumsum([0, *(space.n_dofs for space in self._spaces.values())]).tolist()
        self._slices = {
            k: slice(*pair) for k, pair in zip(self._spaces, pairwise(ends), strict=True)
        }
        self._regions: dict[tuple[str, str | None], Region] = {}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {space.n_dofs}" for name, space in self._spaces.items())
        return f"MixedSpace({sizes} dofs)"

    @property
    def field_names(self) -> tuple[str, ...]:
        """In their order."""
        return tuple(self._spaces)

    def field(self, name: str) -> tuple[slice, Space]:
        """Degrees of freedom of a field, u[..., slice], and its space.

        Raises:
            ProblemError: there is no such field.
        """
        if not isinstance(name, str) or name not in self._spaces:
            names = list(self._spaces)
            default = ", which is meant where none is named" if name == "u" else ""
            raise ProblemError(
                f"there is no field {name!r}{default}; there are {names}: give field={names[0]!r} "
                "for one"
            )
        return self._slices[name], self._spaces[name]

    @property
    def parts(self) -> list[FieldPart]:
        """What each field adds to e."""
        return [space.part.named(name) for name, space in self._spaces.items()]

    @property
    def mesh(self) -> Any:
        """The mesh of all fields."""
        return self._first.mesh

    @property
    def dim(self) -> int:
        """Dimension of the domain."""
        return self._first.dim

    @property
    def n_components(self) -> int:
        """Components of all fields together."""
        return sum(space.n_components for space in self._spaces.values())

    @property
    def n_dofs(self) -> int:
        """Number of degrees of freedom of all fields, boundary included."""
        return sum(space.n_dofs for space in self._spaces.values())

    @property
    def dof_points(self) -> Array:
        """Location of each degree of freedom, (n_dofs, dim)."""
        return np.concatenate([space.dof_points for space in self._spaces.values()])

    @property
    def dof_components(self) -> Index:
        """Component of each degree of freedom, counted through all fields, (n_dofs,)."""
        found, first = [], 0
        for space in self._spaces.values():
            found.append(first + space.dof_components)
            first += space.n_components
        return np.concatenate(found)

    @property
    def is_value(self) -> Mask:
        """Is each degree of freedom the value of its component at its point? (n_dofs,)."""
        return np.concatenate([space.is_value for space in self._spaces.values()])

    @property
    def vertex_dofs(self) -> Index:
        """Degrees of freedom at the mesh vertices, (n_vertices, n_components)."""
        pairs = zip(self._slices.values(), self._spaces.values(), strict=True)
        return np.hstack([dofs.start + space.vertex_dofs for dofs, space in pairs])

    @property
    def centroids(self) -> Points:
        """Cell centroids, (n_cells, dim)."""
        return self._first.centroids

    @property
    def cell_volumes(self) -> Array:
        """Volume of each cell, (n_cells,)."""
        return self._first.cell_volumes

    @property
    def rigid_modes(self) -> Mapping[str, Array]:
        """None is looked for: what has no strain depends on the physics."""
        return {}

    @property
    def near_nullspace(self) -> Array:
        """Those of each field, (n_dofs, k)."""
        blocks = [space.near_nullspace for space in self._spaces.values()]
        return np.asarray(sp.block_diag(blocks).toarray())

    def interior(self, subdomain: str | int | None = None) -> Region:
        """The cells of a named subdomain, by default all cells; made once."""
        key = ("cells", None if subdomain is None else str(subdomain))
        if key not in self._regions:
            own = [space.interior(subdomain) for space in self._spaces.values()]
            self._regions[key] = self._together(own)
        return self._regions[key]

    def boundary(self, where: Where | None = None) -> Region:
        """The facets of a part of the boundary, by default the whole boundary.

        Args:
            where: see `Space.boundary`; a name or number is looked up once.
        """
        own = [space.boundary(where) for space in self._spaces.values()]
        if not (where is None or isinstance(where, str | int)):
            return self._together(own)
        key = ("facets", None if where is None else str(where))
        if key not in self._regions:
            self._regions[key] = self._together(own)
        return self._regions[key]

    def dofs_on(self, where: Where | None = None, component: int | None = None) -> Index:
        """Sorted degrees of freedom of all fields on a part of the boundary.

        Args:
            where: see `boundary`.
            component: only those of this one, counted through all fields.
        """
        c = self.n_components
        if not (component is None or (is_integer(component) and 0 <= component < c)):
            raise ProblemError(f"component must be between 0 and {c - 1}, got {component!r}")
        own = [space.dofs_on(where) for space in self._spaces.values()]
        pairs = zip(self._slices.values(), own, strict=True)
        dofs = np.concatenate([part.start + found for part, found in pairs])
        return dofs if component is None else dofs[self.dof_components[dofs] == component]

    def cells(self, subdomain: str | int) -> Index:
        """Cells of a named subdomain."""
        return self._first.cells(subdomain)

    def cells_of_dofs(self, dofs: Index) -> Index:
        """One cell that each degree of freedom belongs to."""
        every = [s.cells_of_dofs(np.arange(s.n_dofs)) for s in self._spaces.values()]
        return np.concatenate(every)[dofs]

    def evaluation(self, points: Array, *, gradient: bool = False) -> sp.csr_matrix:
        """Matrix from u to its values at points, row after row all components of all fields.

        See `Space.evaluation`, also for one field alone: `field(name)` gives its space.
        """
        own = [s.evaluation(points, gradient=gradient) for s in self._spaces.values()]
        return _by_turns(own, len(points))

    def averages(self, patches: Sequence[Patch], is_mean: bool = True) -> sp.csr_matrix:
        """From u to means or integrals over patches of all components of all fields."""
        own = [s.averages(patches, is_mean) for s in self._spaces.values()]
        return _by_turns(own, len(patches))

    def at_nodes(self, u: Array) -> Array:
        """Values of u (n_dofs,) at the nodes of the mesh, (n_nodes, n_components)."""
        pairs = zip(self._slices.values(), self._spaces.values(), strict=True)
        return np.hstack([space.at_nodes(u[dofs]) for dofs, space in pairs])

    def gram_matrices(self) -> tuple[sp.csc_matrix, sp.csc_matrix]:
        """Mass and Dirichlet-energy matrices of the fields, (n_dofs, n_dofs)."""
        blocks = zip(*(s.gram_matrices() for s in self._spaces.values()), strict=True)
        mass, energy = (sp.csc_matrix(sp.block_diag(own, format="csc")) for own in blocks)
        return mass, energy

    @property
    def _first(self) -> Space:
        return next(iter(self._spaces.values()))

    def _together(self, own: list[Region]) -> Region:
        """One region of those of the fields, whose cells and points are the same."""
        first = own[0]
        s, n_local = (np.cumsum([0, *(r.shape[axis] for r in own)]) for axis in (2, 3))
        local = np.zeros((*first.shape[:2], int(s[-1]), int(n_local[-1])))
        for i, region in enumerate(own):
            local[..., s[i] : s[i + 1], n_local[i] : n_local[i + 1]] = region.local
        starts = [dofs.start for dofs in self._slices.values()]
        return Region(
            local=local,
            dofs=np.hstack([start + r.dofs for start, r in zip(starts, own, strict=True)]),
            weights=first.weights,
            points=first.points,
            parts=tuple(self.parts),
            n_dofs=self.n_dofs,
            name=first.name,
            is_mixed=True,
        )


def field_of(space: FunctionSpace, name: str) -> tuple[slice, FunctionSpace]:
    """Degrees of freedom and space of a field; one alone is named "u".

    Raises:
        ProblemError: there is no such field.
    """
    if isinstance(space, MixedSpace):
        return space.field(name)
    check_only_field(name)
    return slice(0, space.n_dofs), space


def names_of(space: FunctionSpace) -> dict[str, str]:
    """Arguments of point functions that are values of the solution, and what they are."""
    if isinstance(space, MixedSpace):
        return {k: what for part in space.parts for k, what in _arguments(part).items()}
    own = space.part if isinstance(space, Space) else FieldPart("u", (), (("gradient", ()),))
    return {k: what.replace("the field 'u'", "the solution") for k, what in _arguments(own).items()}


def _arguments(part: FieldPart) -> dict[str, str]:
    of = f"the field {part.name!r}"
    return {part.name: of} | {k: f"the {what} of {of}" for k, what in part.meanings.items()}


def field_names(space: FunctionSpace) -> tuple[str, ...]:
    """Names of all fields; one alone is named "u"."""
    return space.field_names if isinstance(space, MixedSpace) else ("u",)


def fields_of(space: FunctionSpace) -> list[tuple[slice, FunctionSpace]]:
    """Degrees of freedom and spaces of all fields."""
    if isinstance(space, MixedSpace):
        return [space.field(name) for name in space.field_names]
    return [field_of(space, "u")]


def on_all_dofs(matrix: sp.csr_matrix, dofs: slice, n_dofs: int) -> sp.csr_matrix:
    """Columns of one field among those of all, (n, n_dofs)."""
    shape = matrix.shape[0], n_dofs
    return sp.csr_matrix((matrix.data, matrix.indices + dofs.start, matrix.indptr), shape=shape)


def _by_turns(blocks: list[sp.csr_matrix], n: int) -> sp.csr_matrix:
    """The rows of each field for the first point, then for the second, on all columns."""
    first = np.cumsum([0, *(block.shape[0] for block in blocks)])[:-1]
    pairs = zip(first, blocks, strict=True)
    rows = [start + np.arange(block.shape[0]).reshape(n, -1) for start, block in pairs]
    return sp.csr_matrix(sp.block_diag(blocks, format="csr"))[np.hstack(rows).ravel()]


def _checked(fields: Any) -> dict[str, Space]:
    if not isinstance(fields, Mapping) or not fields:
        raise ProblemError(
            'the fields of a MixedSpace are a dictionary of names and spaces, {"u": fem.Space('
            f'mesh, degree=2, n_components=2), "p": fem.Space(mesh)}}, got {fields!r}'
        )
    taken = {"x": "the point"}
    for name, space in fields.items():
        if not isinstance(space, Space):
            raise ProblemError(
                f"field {name!r} needs a fem.Space of its own, got {type(space).__name__}"
            )
        if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
            raise ProblemError(
                f"a field is named {name!r}, which cannot be the name of an argument of a "
                "function; take letters, digits and underscores"
            )
        for argument, what in _arguments(space.part.named(name)).items():
            if argument in taken:
                raise ProblemError(
                    f"{what} and {taken[argument]} would both be the argument {argument!r} of "
                    "functions; take another name"
                )
            taken[argument] = what
    first = next(iter(fields.values())).mesh
    for name, space in fields.items():
        if not _is_same(first, space.mesh):
            raise MeshError(
                f"field {name!r} is on another mesh than {next(iter(fields))!r}, or its sides are "
                "named differently; make the spaces of one mesh"
            )
    return dict(fields)


def _is_same(a: Any, b: Any) -> bool:
    groups = [{**(m.boundaries or {}), **(m.subdomains or {})} for m in (a, b)]
    return (
        type(a) is type(b)
        and np.array_equal(a.t, b.t)
        and np.array_equal(a.doflocs, b.doflocs)
        and groups[0].keys() == groups[1].keys()
        and all(np.array_equal(groups[0][k], groups[1][k]) for k in groups[0])
    )
