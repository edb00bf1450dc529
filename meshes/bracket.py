"""Mesh an L-shaped bracket with a bolt hole in each leg and a fillet between the legs.

Lengths are in units of 100 mm: the foot lies along x, the upright along z. Source: drawn and
meshed by the pddlvm developers with this script and gmsh. Licence: CC0 1.0. Run
`python meshes/bracket.py` to rewrite `bracket.msh` beside it.
"""

from itertools import pairwise
from pathlib import Path

import gmsh

LENGTH, DEPTH, HEIGHT, THICKNESS = 1.0, 0.6, 1.0, 0.16
FILLET = 0.14
FOOT_HOLE = (0.66, 0.30, 0.12)  # centre x, y, radius; drilled along z
UPRIGHT_HOLE = (0.30, 0.66, 0.10)  # centre y, z, radius; drilled along x
SIZE = 0.068
EPS = 1e-6


def draw() -> None:
    """Extrude the L-shaped profile and drill the two holes."""
    occ = gmsh.model.occ
    t, f = THICKNESS, THICKNESS + FILLET
    corners = ((f, t), (LENGTH, t), (LENGTH, 0), (0, 0), (0, HEIGHT), (t, HEIGHT), (t, f))
    points = [occ.addPoint(x, 0, z) for x, z in corners]
    lines = [occ.addLine(a, b) for a, b in pairwise(points)]
    arc = occ.addCircleArc(points[-1], occ.addPoint(f, 0, f), points[0])
    profile = occ.addPlaneSurface([occ.addCurveLoop([*lines, arc])])
    solid = [entity for entity in occ.extrude([(2, profile)], 0, DEPTH, 0) if entity[0] == 3]
    x, y, r = FOOT_HOLE
    drills = [(3, occ.addCylinder(x, y, 0, 0, 0, t, r))]
    y, z, r = UPRIGHT_HOLE
    drills += [(3, occ.addCylinder(0, y, z, t, 0, 0, r))]
    occ.cut(solid, drills)
    occ.synchronize()


def faces(lower: tuple[float, ...], upper: tuple[float, ...]) -> set[int]:
    """Return the faces that lie wholly in a box."""
    box = [x - EPS for x in lower] + [x + EPS for x in upper]
    return {tag for _, tag in gmsh.model.getEntitiesInBoundingBox(*box, 2)}


def name() -> None:
    """Give the volume and every face exactly one name."""
    volumes = gmsh.model.getEntities(3)
    boundary = {tag for _, tag in gmsh.model.getBoundary(volumes, oriented=False)}
    base = faces((0, 0, 0), (LENGTH, DEPTH, 0))
    tip = faces((0, 0, HEIGHT), (THICKNESS, DEPTH, HEIGHT))
    x, y, r = FOOT_HOLE
    holes = faces((x - r, y - r, 0), (x + r, y + r, THICKNESS))
    y, z, r = UPRIGHT_HOLE
    holes |= faces((0, y - r, z - r), (THICKNESS, y + r, z + r))
    gmsh.model.addPhysicalGroup(3, [tag for _, tag in volumes], name="body")
    rest = boundary - base - tip - holes
    for label, tags in {"base": base, "tip": tip, "holes": holes, "surface": rest}.items():
        gmsh.model.addPhysicalGroup(2, sorted(tags), name=label)


def main() -> None:
    """Write the mesh and print its size and quality."""
    gmsh.initialize()
    gmsh.option.setNumber("General.Verbosity", 2)
    gmsh.option.setNumber("General.NumThreads", 1)  # the same file on every run
    gmsh.option.setNumber("Mesh.MeshSizeMax", SIZE)
    gmsh.option.setNumber("Mesh.MeshSizeFromCurvature", 18)
    gmsh.option.setNumber("Mesh.Algorithm3D", 10)  # HXT
    gmsh.option.setNumber("Mesh.OptimizeThreshold", 0.5)
    gmsh.option.setNumber("Mesh.MshFileVersion", 4.1)
    gmsh.model.add("bracket")
    draw()
    name()
    gmsh.model.mesh.generate(3)
    gmsh.model.mesh.optimize()  # a second pass removes the last slivers
    gmsh.write(str(Path(__file__).with_suffix(".msh")))
    tetrahedra = gmsh.model.mesh.getElementsByType(4)[0]
    quality = gmsh.model.mesh.getElementQualities(tetrahedra, "gamma")
    print(f"{len(tetrahedra)} tetrahedra")
    print(f"radius ratio, 1 is best: min {quality.min():.2f}, mean {quality.mean():.2f}")
    gmsh.finalize()


if __name__ == "__main__":
    main()
