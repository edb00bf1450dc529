"""Elements of scikit-fem that are given: what they evaluate, where, and what is refused."""

import numpy as np
import pytest
import skfem

import pddlvm
from pddlvm import fem
from pddlvm.basics.errors import InputError, MeshError

TRIANGLES, QUADRILATERALS = fem.unit_square(3), fem.unit_square(3, quadrilaterals=True)
TETRAHEDRA, LINE = fem.unit_cube(2), fem.interval(4)

FLUXES = [
    (TRIANGLES, skfem.ElementTriRT0()),
    (TRIANGLES, skfem.ElementTriRT2()),
    (TRIANGLES, skfem.ElementTriBDM1()),
    (QUADRILATERALS, skfem.ElementQuadRT0()),
    (TETRAHEDRA, skfem.ElementTetRT0()),
    (fem.unit_cube(2, hexahedra=True), skfem.ElementHexRT1()),
]
CIRCULATIONS = [
    (TRIANGLES, skfem.ElementTriN1()),
    (TRIANGLES, skfem.ElementTriN2()),
    (QUADRILATERALS, skfem.ElementQuadN1()),
    (TETRAHEDRA, skfem.ElementTetN0()),
]
PLATES = [
    (LINE, skfem.ElementLineHermite()),
    (TRIANGLES, skfem.ElementTriMorley()),
    (TRIANGLES, skfem.ElementTriArgyris()),
    (QUADRILATERALS, skfem.ElementQuadBFS()),
]
OTHERS = [
    (TRIANGLES, skfem.ElementTriP0()),
    (TRIANGLES, skfem.ElementTriMini()),
    (TRIANGLES, skfem.ElementTriP1DG()),
    (TRIANGLES, skfem.ElementTriP3()),
    (TRIANGLES, skfem.ElementTriCR()),
    (TRIANGLES, skfem.ElementVector(skfem.ElementTriMini())),
    (TRIANGLES, skfem.ElementDG(skfem.ElementTriRT0())),
    (LINE, skfem.ElementLinePp(3)),
]
EVERY = [*FLUXES, *CIRCULATIONS, *PLATES, *OTHERS]
ATTRIBUTES = {"gradient": "grad", "divergence": "div", "curl": "curl", "Hessian": "hess"}


def name_of(case):
    return type(case[1]).__name__ if isinstance(case, tuple) else None


every = pytest.mark.parametrize("case", EVERY, ids=name_of)


def shapes(case):
    return fem.Space(case[0], element=case[1]).part.shapes


@pytest.mark.parametrize("case", FLUXES, ids=name_of)
def test_a_flux_has_a_divergence(case):
    assert shapes(case) == {"u": (case[0].dim(),), "du": ()}


@pytest.mark.parametrize("case", CIRCULATIONS, ids=name_of)
def test_a_circulation_has_a_curl(case):
    dim = case[0].dim()
    assert shapes(case) == {"u": (dim,), "du": () if dim == 2 else (3,)}


@pytest.mark.parametrize("case", PLATES, ids=name_of)
def test_a_plate_has_second_derivatives(case):
    dim = case[0].dim()
    assert shapes(case) == {"u": (), "du": (dim,), "ddu": (dim, dim)}


@every
@pytest.mark.parametrize("place", ["cells", "facets"])
def test_evaluation_equals_interpolation_by_scikit_fem(case, place):
    mesh, element = case
    space = fem.Space(mesh, element=element, quadrature=4)
    region = space.interior() if place == "cells" else space.boundary()
    basis = {"cells": skfem.CellBasis, "facets": skfem.FacetBasis}[place]
    u = np.cos(np.arange(space.n_dofs))
    e = (region.matrix @ u).reshape(*region.shape[:3])
    if isinstance(element, skfem.ElementGlobal):
        element.V = None
    field = basis(mesh, element, intorder=4).interpolate(u)
    expected = [np.asarray(field)]
    expected += [getattr(field, ATTRIBUTES[what]) for what, _ in space.part.derived]
    for columns, values in zip(region.columns(), expected, strict=True):
        found = np.moveaxis(e[..., columns], -1, 0).reshape(values.shape)
        # The same sums in another order, of functions whose Hessians are of size 1000.
        np.testing.assert_allclose(found, values, rtol=1e-9, atol=1e-9)


@every
def test_constants_and_tilts_are_found(case):
    space = fem.Space(case[0], element=case[1])
    region, c = space.interior(), space.n_components
    e = (region.matrix @ space.near_nullspace).reshape(len(region.points.x), region.shape[2], -1)
    # Degrees of freedom of Argyris have inverses of size 1e4.
    np.testing.assert_allclose(e[:, :c, :c], np.broadcast_to(np.eye(c), (len(e), c, c)), atol=1e-9)
    highest = region.columns()[-1]
    np.testing.assert_allclose(e[:, highest, :c], 0.0, atol=1e-7)
    if len(space.part.derived) == 2:
        assert e.shape[2] == 1 + space.dim
        np.testing.assert_allclose(e[:, highest], 0.0, atol=1e-7)
        tilts = e[:, region.columns()[1], 1:]
        np.testing.assert_allclose(
            tilts, np.broadcast_to(np.eye(space.dim), tilts.shape), atol=1e-9
        )


@every
def test_constants_are_one_at_nodes_and_at_points(case):
    space = fem.Space(case[0], element=case[1])
    one = space.near_nullspace[:, 0]
    expected = np.eye(space.n_components)[0]
    at_nodes = space.at_nodes(one)
    assert at_nodes.shape == (space.mesh.nvertices, space.n_components)
    np.testing.assert_allclose(at_nodes, np.broadcast_to(expected, at_nodes.shape), atol=1e-9)
    if type(case[1]) is skfem.ElementLinePp:
        return
    points = np.full((2, space.dim), 0.3)
    points[1] = 0.77
    np.testing.assert_allclose(
        (space.evaluation(points) @ one).reshape(2, -1), [expected] * 2, atol=1e-9
    )
    # Rows of du: the divergence or the curl, in the place of the gradient.
    derivative = space.evaluation(points, gradient=True)
    assert derivative.shape[0] == 2 * space.part.sizes[1]
    np.testing.assert_allclose(derivative @ one, 0.0, atol=1e-8)


def test_values_at_nodes_are_means_over_cells():
    space = fem.Space(LINE, element=skfem.ElementLineP0())
    u = np.array([1.0, 2.0, 4.0, 8.0])
    assert space.at_nodes(u)[:, 0].tolist() == [1.0, 1.5, 3.0, 6.0, 8.0]


@every
def test_the_mass_is_positive(case):
    mass, energy = fem.Space(case[0], element=case[1]).gram_matrices()
    assert np.linalg.eigvalsh(mass.toarray())[0] > 0
    assert (energy != energy.T).nnz == 0 or abs(energy - energy.T).max() < 1e-7 * abs(energy).max()


def test_an_element_may_have_served_another_mesh():
    """Some of scikit-fem keep what they have computed on it."""
    used = skfem.ElementTriMorley()
    skfem.CellBasis(fem.unit_square(2), used)
    found = fem.Space(TRIANGLES, element=used).interior().local
    expected = fem.Space(TRIANGLES, element=skfem.ElementTriMorley()).interior().local
    np.testing.assert_array_equal(found, expected)


def test_degrees_of_freedom_are_known():
    assert set(fem.Space(TRIANGLES, element=skfem.ElementTriMorley()).dof_kinds) == {"", "n"}
    assert set(fem.Space(LINE, element=skfem.ElementLineHermite()).dof_kinds) == {"", "x"}
    assert set(fem.Space(TRIANGLES, element=skfem.ElementTriRT0()).dof_kinds) == {None}
    mini = fem.Space(TRIANGLES, element=skfem.ElementTriMini())
    assert mini.is_value.sum() == mini.mesh.nvertices
    assert fem.Space(TRIANGLES, element=skfem.ElementTriP3()).is_value.all()


def test_a_mean_value_may_be_of_bubbles_and_of_cells():
    for element in (skfem.ElementTriMini(), skfem.ElementTriP0(), skfem.ElementTriP1DG()):
        space = fem.Space(TRIANGLES, element=element)
        found = pddlvm.weak.constraints.constraints_of("any", space, [pddlvm.MeanValue()])
        np.testing.assert_allclose(found.means @ found.constants, 1.0, atol=1e-12)


def curved():
    return skfem.MeshTri2.init_circle(1)


def unsorted():
    return skfem.MeshTri(TRIANGLES.p, TRIANGLES.t[[1, 0, 2]], sort_t=False)


@pytest.mark.parametrize(
    ("mesh", "element", "message", "error"),
    [
        (TRIANGLES, skfem.ElementTetN0(), "element of tet.*and the mesh has tri", MeshError),
        (TRIANGLES, skfem.ElementTriHHJ0(), "numbers or vectors", MeshError),
        (TRIANGLES, skfem.ElementTriSkeletonP0(), "numbers or vectors", MeshError),
        (TRIANGLES, skfem.ElementVector(skfem.ElementTriRT0()), "numbers or vectors", MeshError),
        (TRIANGLES, skfem.ElementTriRT0() * skfem.ElementTriP0(), "a fem.MixedSpace", MeshError),
        (curved(), skfem.ElementTriMorley(), "straight cells", MeshError),
        (unsorted(), skfem.ElementTriMorley(), "ascending order", MeshError),
    ],
)
def test_what_point_functions_cannot_read_is_refused(mesh, element, message, error):
    with pytest.raises(error, match=message):
        fem.Space(mesh, element=element)


def test_another_number_of_components_is_refused():
    with pytest.raises(InputError, match=r"has 2 components, and n_components=3"):
        fem.Space(TRIANGLES, element=skfem.ElementTriRT0(), n_components=3)


def test_a_flux_has_no_components():
    space = fem.Space(TRIANGLES, element=skfem.ElementTriRT0())
    with pytest.raises(pddlvm.ProblemError, match="of no component of u"):
        space.dofs_on("left", component=0)


def test_an_element_that_scikit_fem_cannot_evaluate_at_points_is_named():
    space = fem.Space(TRIANGLES, element=skfem.ElementTriN3())
    with pytest.raises(InputError, match="ElementTriN3 of scikit-fem cannot be evaluated at"):
        space.evaluation([[0.5, 0.4]])


def test_fields_of_a_mixed_space_have_the_names_of_their_derivatives():
    space = fem.MixedSpace(
        {
            "w": fem.Space(TRIANGLES, element=skfem.ElementTriMorley()),
            "u": fem.Space(TRIANGLES, element=skfem.ElementTriN1()),
        }
    )
    assert [list(part.shapes) for part in space.parts] == [["w", "dw", "ddw"], ["u", "du"]]
    assert space.interior().shape[2] == 1 + 2 + 4 + 2 + 1
    with pytest.raises(pddlvm.ProblemError, match="would both be the argument 'ddw'"):
        fem.MixedSpace(
            {
                "w": fem.Space(TRIANGLES, element=skfem.ElementTriMorley()),
                "ddw": fem.Space(TRIANGLES),
            }
        )
