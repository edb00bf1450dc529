"""Finite elements: meshes and spaces, by scikit-fem. The only part that knows scikit-fem."""

from pddlvm.fem.meshes import interval, read_mesh, unit_cube, unit_square
from pddlvm.fem.space import Points, Region, Space

__all__ = [
    "Points",
    "Region",
    "Space",
    "interval",
    "read_mesh",
    "unit_cube",
    "unit_square",
]
