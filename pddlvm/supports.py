"""Supports of a shell: Dirichlet conditions on vertex sets, by their names in structural mechanics.

Components 0, 1, 2 are displacements along x, y, z; 3, 4, 5 rotations about x, y, z.
"""

from pddlvm.basics.checks import check_axis
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
    check_axis(axis)
    fixed = [axis, *(3 + i for i in range(3) if i != axis)]
    return [Dirichlet(name, component=i) for i in fixed]


def diaphragm(name: Where, axis: int) -> list[Dirichlet]:
    """A rigid membrane across a tube along `axis`: both other displacements, and its rotation."""
    check_axis(axis)
    fixed = [*(i for i in range(3) if i != axis), 3 + axis]
    return [Dirichlet(name, component=i) for i in fixed]
