"""Supports of a shell: Dirichlet conditions on vertex sets, by their names in structural mechanics.

Components 0, 1, 2 are displacements along x, y, z; 3, 4, 5 rotations about x, y, z.
"""

from numbers import Integral

from pddlvm.basics.errors import InputError
from pddlvm.fem.where import Where
from pddlvm.weak.boundary import Dirichlet

__all__ = ["clamped", "diaphragm", "pinned", "symmetry"]


def clamped(name: Where) -> list[Dirichlet]:
    """No displacement and no rotation."""
    return [Dirichlet(name)]


def pinned(name: Where) -> list[Dirichlet]:
    """No displacement; rotations are free."""
    return [Dirichlet(name, component=i) for i in range(3)]


def symmetry(name: Where, axis: int) -> list[Dirichlet]:
    """On a plane of symmetry with its normal along `axis`: u_axis and the other two rotations."""
    _check(axis)
    fixed = [axis, *(3 + i for i in range(3) if i != axis)]
    return [Dirichlet(name, component=i) for i in fixed]


def diaphragm(name: Where, axis: int) -> list[Dirichlet]:
    """A rigid membrane across a tube along `axis`: both other displacements, and its rotation."""
    _check(axis)
    fixed = [*(i for i in range(3) if i != axis), 3 + axis]
    return [Dirichlet(name, component=i) for i in fixed]


def _check(axis: int) -> None:
    if not isinstance(axis, Integral) or axis not in (0, 1, 2):
        raise InputError(f"axis must be 0, 1 or 2, got {axis!r}")
