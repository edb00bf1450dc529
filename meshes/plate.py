"""Mesh a bolted plate with a rounded notch and a disc of a second material.

The plate is 2 m by 1 m, with its lower left corner at the origin. Source: drawn and meshed by the
pddlvm developers with this script and gmsh. Licence: CC0 1.0. Run `python meshes/plate.py` to
rewrite `plate.msh` beside it.
"""

from pathlib import Path

import gmsh

WIDTH, HEIGHT = 2.0, 1.0
HOLES = ((0.35, 0.30, 0.08), (1.05, 0.40, 0.15), (1.65, 0.65, 0.10))  # centre x, y, radius
INSERT = (1.05, 0.40, 0.28)  # concentric with the second hole
NOTCH = (0.65, 0.78, 0.09)  # centre and radius of the root; the slot above it is open at the top
COARSE, FINE = 0.075, 0.033  # edge length on the outline, and around holes, insert and notch
EPS = 1e-6


def draw() -> None:
    """Build the two surfaces, `base` and `insert`, with a shared interface curve."""
    occ = gmsh.model.occ
    plate = occ.addRectangle(0, 0, 0, WIDTH, HEIGHT)
    x, y, r = NOTCH
    cuts = [occ.addDisk(x, y, 0, r, r), occ.addRectangle(x - r, y, 0, 2 * r, HEIGHT - y)]
    cuts += [occ.addDisk(x, y, 0, r, r) for x, y, r in HOLES]
    body, _ = occ.cut([(2, plate)], [(2, cut) for cut in cuts])
    x, y, r = INSERT
    disc, _ = occ.intersect([(2, occ.addDisk(x, y, 0, r, r))], body, removeTool=False)
    occ.fragment(body, disc)  # conforming: both materials share the nodes of the interface
    occ.synchronize()


def inside(dim: int, xmin: float, ymin: float, xmax: float, ymax: float) -> set[int]:
    """Return the entities that lie wholly in a box."""
    box = (xmin - EPS, ymin - EPS, -EPS, xmax + EPS, ymax + EPS, EPS)
    return {tag for _, tag in gmsh.model.getEntitiesInBoundingBox(*box, dim)}


def name() -> None:
    """Give every surface and every boundary curve exactly one name."""
    surfaces = gmsh.model.getEntities(2)
    x, y, r = INSERT
    insert = inside(2, x - r, y - r, x + r, y + r)
    outline = {tag for _, tag in gmsh.model.getBoundary(surfaces, oriented=False)}
    left = inside(1, 0, 0, 0, HEIGHT)
    right = inside(1, WIDTH, 0, WIDTH, HEIGHT)
    holes = set().union(*(inside(1, x - r, y - r, x + r, y + r) for x, y, r in HOLES)) & outline
    groups = {
        (2, "base"): {tag for _, tag in surfaces} - insert,
        (2, "insert"): insert,
        (1, "left"): left,
        (1, "right"): right,
        (1, "holes"): holes,
        (1, "outer"): outline - left - right - holes,
    }
    for (dim, label), tags in groups.items():
        gmsh.model.addPhysicalGroup(dim, sorted(tags), name=label)


def size() -> None:
    """Refine around the arcs, where the solution bends most."""
    gmsh.model.mesh.setSize(gmsh.model.getEntities(0), COARSE)
    for x, y, r in (*HOLES, INSERT, NOTCH):
        arc = inside(0, x - r, y - r, x + r, y + r)
        gmsh.model.mesh.setSize([(0, tag) for tag in arc], FINE)


def main() -> None:
    """Write the mesh and print its size and quality."""
    gmsh.initialize()
    gmsh.option.setNumber("General.Verbosity", 2)
    gmsh.option.setNumber("General.NumThreads", 1)  # the same file on every run
    gmsh.option.setNumber("Mesh.Algorithm", 6)  # frontal Delaunay
    gmsh.option.setNumber("Mesh.MshFileVersion", 4.1)
    gmsh.model.add("plate")
    draw()
    name()
    size()
    gmsh.model.mesh.generate(2)
    gmsh.model.mesh.optimize("Laplace2D")
    gmsh.write(str(Path(__file__).with_suffix(".msh")))
    triangles = gmsh.model.mesh.getElementsByType(2)[0]
    quality = gmsh.model.mesh.getElementQualities(triangles, "gamma")
    print(f"{len(triangles)} triangles")
    print(f"radius ratio, 1 is best: min {quality.min():.2f}, mean {quality.mean():.2f}")
    gmsh.finalize()


if __name__ == "__main__":
    main()
