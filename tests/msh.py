"""Files as gmsh writes them: points of the plane or of space, elements, names of groups."""

from pathlib import Path

import numpy as np

LINE, TRIANGLE, QUAD, TETRA, LINE3, TRIANGLE6, QUAD9, TETRA10 = 1, 2, 3, 4, 8, 9, 10, 11
DIMENSION = {1: 1, 2: 2, 3: 2, 4: 3, 8: 1, 9: 2, 10: 2, 11: 3}


def _head(version, names):
    lines = [f"$MeshFormat\n{version} 0 8\n$EndMeshFormat"]
    if names:
        lines += ["$PhysicalNames", str(len(names))]
        lines += [f'{dim} {number} "{name}"' for (dim, number), name in names.items()]
        lines += ["$EndPhysicalNames"]
    return lines


def _in_space(points):
    return np.pad(np.asarray(points, dtype=float), ((0, 0), (0, 3 - np.shape(points)[1]))).tolist()


def write_2(path: Path, points, elements, names=None) -> Path:
    """Format 2.2, where an element of two groups is there twice.

    Elements are (kind, number of the group, nodes), names (dimension, number) -> name.
    """
    lines = _head("2.2", names)
    lines += ["$Nodes", str(len(points))]
    lines += [" ".join(map(str, (i + 1, *x))) for i, x in enumerate(_in_space(points))]
    lines += ["$EndNodes", "$Elements", str(len(elements))]
    for i, (kind, group, nodes) in enumerate(elements):
        lines.append(" ".join(map(str, (i + 1, kind, 2, group, 1, *(n + 1 for n in nodes)))))
    path.write_text("\n".join([*lines, "$EndElements", ""]))
    return path


def write_41(path: Path, points, entities, names=None) -> Path:
    """Format 4.1. Entities are (kind, numbers of the groups, list of nodes of each element)."""
    lines = _head("4.1", names)
    lines += ["$Entities"]
    of_dim = [[i for i, e in enumerate(entities) if DIMENSION[e[0]] == d] for d in range(4)]
    lines.append(" ".join(str(len(one)) for one in of_dim))
    for one in of_dim:
        for i in one:
            groups = entities[i][1]
            lines.append(" ".join(map(str, (i + 1, *[0] * 6, len(groups), *groups, 0))))
    lines += ["$EndEntities", "$Nodes", f"1 {len(points)} 1 {len(points)}"]
    lines += [f"2 1 0 {len(points)}", *map(str, range(1, len(points) + 1))]
    lines += [" ".join(map(str, x)) for x in _in_space(points)]
    n = sum(len(e[2]) for e in entities)
    lines += ["$EndNodes", "$Elements", f"{len(entities)} {n} 1 {n}"]
    number = 0
    for i, (kind, _, elements) in enumerate(entities):
        lines.append(f"{DIMENSION[kind]} {i + 1} {kind} {len(elements)}")
        for nodes in elements:
            number += 1
            lines.append(" ".join(map(str, (number, *(k + 1 for k in nodes)))))
    path.write_text("\n".join([*lines, "$EndElements", ""]))
    return path
