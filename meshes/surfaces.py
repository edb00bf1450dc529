"""Write the surfaces of this folder: hare.obj, roof.obj, hemisphere.obj.

Run:  python meshes/surfaces.py

They are made by formulas of this package (`pddlvm.fem.hare` and others) and free to use (CC0 1.0).
"""

from pathlib import Path

import meshio

from pddlvm import fem

SURFACES = {
    "hare": fem.hare(),
    "roof": fem.roof(16),
    "hemisphere": fem.hemisphere(16),
}


def main(folder: Path) -> None:
    """Write all of them."""
    for name, mesh in SURFACES.items():
        raw = meshio.Mesh(mesh.p.T.round(6), [("triangle", mesh.t.T)])
        raw.write(folder / f"{name}.obj")


if __name__ == "__main__":
    main(Path(__file__).parent)
