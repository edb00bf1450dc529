"""Finite elements: meshes and spaces by scikit-fem, and shells. Only here scikit-fem is known."""

from pddlvm.fem.meshes import interval, read_mesh, unit_cube, unit_square
from pddlvm.fem.mixed import MixedSpace
from pddlvm.fem.regions import FieldPart, FunctionSpace, Points, Region
from pddlvm.fem.shell import ShellSpace
from pddlvm.fem.space import Space
from pddlvm.fem.surface_operators import barycentric, surface_gram_matrices
from pddlvm.fem.surface_shapes import cylinder, hare, hemisphere, roof, sphere
from pddlvm.fem.surfaces import SurfaceMesh, box, plane, read_surface, surface
from pddlvm.fem.where import Facets, Nodes, Subdomain

__all__ = [
    "Facets",
    "FieldPart",
    "FunctionSpace",
    "MixedSpace",
    "Nodes",
    "Points",
    "Region",
    "ShellSpace",
    "Space",
    "Subdomain",
    "SurfaceMesh",
    "barycentric",
    "box",
    "cylinder",
    "hare",
    "hemisphere",
    "interval",
    "plane",
    "read_mesh",
    "read_surface",
    "roof",
    "sphere",
    "surface",
    "surface_gram_matrices",
    "unit_cube",
    "unit_square",
]
