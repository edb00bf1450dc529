"""Of all signs and bases that eigenvectors may have, the same ones come out."""

import numpy as np
import pytest

import pddlvm
from pddlvm import fem
from pddlvm.linalg.eigenvectors import canonical_rotation

VALUES = np.array([3.0, 2.0, 2.0 - 1e-12, 1.0, 0.5, 0.5, 0.5])


def eigenvectors(rng, x):
    """Scaled columns, orthogonal but for the scale, on any points."""
    return np.linalg.qr(rng.normal(size=(len(x), len(VALUES))))[0] * np.sqrt(VALUES)


def orthogonal(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_signs_and_bases_of_equal_eigenvalues_do_not_matter(dim, n):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(40, dim))
    one = eigenvectors(rng, x)
    other = one.copy()
    for equal in ([0], [1, 2], [3], [4, 5, 6]):
        other[:, equal] = one[:, equal] @ orthogonal(rng, len(equal))
    expected, found = (psi @ canonical_rotation(VALUES, psi, x, n) for psi in (one, other))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_what_differs_is_not_mixed():
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(40, 2))
    q = canonical_rotation(VALUES, eigenvectors(rng, x), x, 7)
    np.testing.assert_allclose(q.T @ q, np.eye(7), atol=1e-14)
    np.testing.assert_array_equal(q[0, 1:], 0)
    np.testing.assert_array_equal(q[3, [0, 1, 2, 4, 5, 6]], 0)


# A square has double eigenvalues, and with an antisymmetric eigenvector its negative: another
# order of the cells is another order of rounding, which decided between them once.
@pytest.mark.parametrize("n_terms", [2, 8])
def test_field_does_not_depend_on_the_order_of_cells(n_terms):
    mesh = fem.unit_square(12, quadrilaterals=True)
    cells = np.random.default_rng(2).permutation(mesh.t.shape[1])
    shapes = [
        pddlvm.KarhunenLoeve.on(fem.Space(m), n_terms, length=0.4).shapes(fem.Space(mesh).centroids)
        for m in (mesh, type(mesh)(mesh.p, mesh.t[:, cells]))
    ]
    # Round-off of eigenvalues down to 1e-3 of the first.
    np.testing.assert_allclose(shapes[1], shapes[0], atol=1e-11)


# A sphere of an octahedron has eigenvalues 1, 3, then 3 and 2 times: each cut lies within one.
@pytest.mark.parametrize("n_terms", [3, 6, 8])
def test_surface_field_does_not_depend_on_the_order_of_vertices(n_terms):
    mesh = fem.sphere(3, perturbation=0.0)
    order = np.random.default_rng(3).permutation(mesh.p.shape[1])
    place = np.argsort(order)
    moved = type(mesh)(mesh.p[:, order], place[mesh.t])
    modes = [pddlvm.SurfaceField.on(m, n_terms, length=0.7).modes for m in (mesh, moved)]
    np.testing.assert_allclose(modes[1], modes[0][order], atol=1e-9)
