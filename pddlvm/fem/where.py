"""Where on the boundary: by name, by number, by a function of x, by facets or by nodes.

"left", 11                      a group of the mesh
lambda x: x[0] < 1e-9           the outer facets whose middle x (dim,) satisfies it
Facets([3, 4])                  facets by their numbers in the mesh
Nodes([0, 7])                   vertices by their numbers: as degrees of freedom these alone and
                                what is between them on outer edges and facets, as facets the outer
                                ones that have all their vertices among them
Subdomain("steel")              the cells of a group: as degrees of freedom all that these have, no
                                part of the boundary
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.checks import array_of
from pddlvm.basics.errors import MeshError

__all__ = ["Facets", "Nodes", "Patch", "Subdomain", "Where", "satisfying"]

Index = NDArray[np.int64]


@dataclass(frozen=True)
class _Numbers:
    """Numbers of things of a mesh.

    Attributes:
        numbers: from 0, in any order.
    """

    numbers: Sequence[int] | Index

    def __post_init__(self) -> None:
        found = array_of(self.numbers, type(self).__name__)
        if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
            raise MeshError(
                f"{type(self).__name__} needs a list of whole numbers, got {self.numbers!r}"
            )
        object.__setattr__(self, "numbers", np.unique(found).astype(np.int64))

    def within(self, n: int) -> Index:
        """The numbers, which must be below n."""
        found = np.asarray(self.numbers)
        if found[0] < 0 or found[-1] >= n:
            raise MeshError(
                f"{type(self).__name__} must be numbers from 0 to {n - 1} of this mesh, got "
                f"{found[0] if found[0] < 0 else found[-1]}"
            )
        return found


class Facets(_Numbers):
    """Facets of a mesh by their numbers, such as `mesh.facets_satisfying` of scikit-fem gives."""


class Nodes(_Numbers):
    """Vertices of a mesh by their numbers, the columns of `mesh.p`."""


@dataclass(frozen=True)
class Subdomain:
    """The cells of a named subdomain, for `Dirichlet` values inside of a body.

    Attributes:
        name: of the mesh; or its number.
    """

    name: str | int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str | int):
            raise MeshError(f"Subdomain needs the name of a subdomain, got {self.name!r}")


Where = str | int | Callable[[Tensor], object] | Facets | Nodes | Subdomain
"""A part of a boundary, see above."""

Patch = str | int | Callable[[NDArray[np.float64]], NDArray[np.bool_]] | None
"""A part of a domain: a named subdomain, or a function that says which points x (n, dim) it has.

None is all of it.
"""


def satisfying(contains: Callable[[Tensor], object], x: NDArray[np.float64], what: str) -> Index:
    """Rows of x (n, dim) for which a function of one point is true.

    Args:
        contains: function of x (dim,), a float64 tensor.
        x: the points.
        what: they are, for messages.

    Raises:
        MeshError: the function is true nowhere, or says neither yes nor no.
    """
    try:
        chosen = np.flatnonzero([bool(contains(point)) for point in torch.from_numpy(x)])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise MeshError(
            f"the function of a boundary cannot be evaluated ({type(error).__name__}: {error}); it "
            f"is given one point x ({x.shape[1]},) and returns True or False"
        ) from error
    if not chosen.size:
        raise MeshError(
            f"the function of a boundary is true for none of its {len(x)} {what}; allow for "
            "rounding, abs(x[0]) < 1e-9, and for chords that lie inside of a curve"
        )
    return chosen
