"""Parameter fields: shape functions, links, and states that travel with a saved model."""

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem, links
from pddlvm.basics.errors import InputError, MeshError

LINE = fem.Space(fem.interval(8, -1.0, 3.0))
SQUARE = fem.Space(fem.unit_square(4).scaled((2.0, 1.0)))
POINTS = SQUARE.interior().points
batches = pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def halves(names=("low", "high")):
    tests = [lambda x: x[0] < 1.0, lambda x: x[0] > 1.0]
    mesh = fem.unit_square(4).scaled((2.0, 1.0))
    return fem.Space(mesh.with_subdomains(dict(zip(names, tests, strict=True))))


FIELDS = {
    "constant": pddlvm.Constant(),
    "chebyshev": pddlvm.Chebyshev(n_terms=4, low=0.0, high=2.0),
    "blocks": pddlvm.Piecewise.on_blocks(SQUARE, (2, 2), prior=pddlvm.Normal()),
    "subdomains": pddlvm.Piecewise.on_subdomains(halves(), ["low", "high"], prior=pddlvm.Normal()),
}
fields = pytest.mark.parametrize("name", FIELDS)


# All fields


@fields
@batches
def test_field_has_one_value_per_point(name, batch):
    field = FIELDS[name]
    z = torch.ones(*batch, field.size, dtype=torch.float64)
    assert field.at(POINTS)(z).shape == (*batch, len(POINTS.x))


@fields
def test_shapes_are_one_column_per_parameter(name):
    shapes = FIELDS[name].shapes(POINTS)
    assert shapes.shape == (len(POINTS.x), FIELDS[name].size)
    assert shapes.dtype == torch.float64


@fields
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_field_has_the_dtype_asked_for(name, dtype):
    z = torch.ones(FIELDS[name].size, dtype=dtype)
    assert FIELDS[name].at(POINTS, dtype)(z).dtype == dtype


@fields
def test_field_is_the_sum_of_its_shapes(name, generator):
    field = FIELDS[name]
    z = torch.randn(5, field.size, generator=generator, dtype=torch.float64)
    expected = torch.einsum("bi,pi->bp", z, field.shapes(POINTS))
    # Sums of four numbers of size one in another order.
    torch.testing.assert_close(field.at(POINTS)(z), expected, rtol=0, atol=1e-14)


@fields
def test_state_makes_the_same_field(name):
    field = FIELDS[name]
    assert torch.equal(field.with_state(field.state).shapes(POINTS), field.shapes(POINTS))


@fields
def test_state_holds_tensors_only(name):
    assert all(isinstance(value, torch.Tensor) for value in FIELDS[name].state.values())


@fields
def test_field_at_some_points_is_part_of_the_field(name):
    some = np.array([7, 3, 20])
    assert torch.equal(FIELDS[name].shapes(POINTS.take(some)), FIELDS[name].shapes(POINTS)[some])


def test_field_is_frozen():
    with pytest.raises(AttributeError):
        FIELDS["constant"].shift = 1.0


# Constant


def test_constant_is_the_same_everywhere():
    values = pddlvm.Constant(shift=0.5).at(POINTS)(double([2.0], [-1.0]))
    assert torch.equal(values, double([2.5], [-0.5]).expand(2, len(POINTS.x)))


def test_constant_has_a_standard_normal_prior_by_default():
    assert pddlvm.Constant().prior == pddlvm.Normal(0.0, 1.0)


# Chebyshev


@pytest.mark.parametrize("n_terms", [1, 2, 5, 12])
def test_chebyshev_equals_that_of_numpy(n_terms, generator):
    field = pddlvm.Chebyshev(n_terms=n_terms, low=-1.0, high=3.0)
    z = torch.randn(n_terms, generator=generator, dtype=torch.float64)
    x = LINE.centroids.x[:, 0]
    series = np.polynomial.Chebyshev(z.numpy(), domain=(-1.0, 3.0))
    # Twelve terms of size one: round-off.
    np.testing.assert_allclose(field.at(LINE.centroids)(z).numpy(), series(x), atol=1e-13)


@pytest.mark.parametrize("degree", [0, 1, 2, 5])
def test_chebyshev_is_a_cosine(degree):
    field = pddlvm.Chebyshev(n_terms=6, low=-1.0, high=3.0)
    angle = np.arccos((LINE.centroids.x[:, 0] - 1.0) / 2.0)
    # Round-off: the points stay away from the ends, where the arc cosine loses digits.
    np.testing.assert_allclose(
        field.shapes(LINE.centroids)[:, degree].numpy(), np.cos(degree * angle), atol=1e-14
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_chebyshev_varies_along_its_axis_only(axis):
    field = pddlvm.Chebyshev(n_terms=2, low=-1.0, high=1.0, axis=axis)
    # T_1 on [-1, 1] is the coordinate.
    np.testing.assert_allclose(
        field.at(POINTS)(double(0.0, 1.0)).numpy(), POINTS.x[:, axis], atol=1e-15
    )


@pytest.mark.parametrize(
    ("n_terms", "low", "high"), [(0, 0.0, 1.0), (3, 1.0, 1.0), (3, 2.0, 1.0), (3, np.nan, 1.0)]
)
def test_chebyshev_without_terms_or_range_is_refused(n_terms, low, high):
    with pytest.raises(InputError, match="Chebyshev"):
        pddlvm.Chebyshev(n_terms=n_terms, low=low, high=high)


# Piecewise


@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2)])
def test_blocks_are_numbered_with_the_first_axis_fastest(counts):
    field = pddlvm.Piecewise.on_blocks(SQUARE, counts, prior=pddlvm.Normal())
    z = torch.arange(field.size, dtype=torch.float64)
    x = SQUARE.centroids.x
    expected = np.floor(x[:, 0] / 2.0 * counts[0]) + counts[0] * np.floor(x[:, 1] * counts[1])
    assert field.size == counts[0] * counts[1]
    np.testing.assert_array_equal(field.at(SQUARE.centroids)(z).numpy(), expected)


def test_blocks_follow_a_bounding_box_away_from_the_origin():
    field = pddlvm.Piecewise.on_blocks(LINE, (4,), prior=pddlvm.Normal())
    values = field.at(LINE.centroids)(double(1.0, 2.0, 3.0, 4.0))
    assert values.tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]


def test_each_subdomain_has_its_parameter():
    space = halves()
    field = pddlvm.Piecewise.on_subdomains(space, ["high", "low"], prior=pddlvm.Normal())
    values = field.at(space.centroids)(double(5.0, 7.0)).numpy()
    np.testing.assert_array_equal(values, np.where(space.centroids.x[:, 0] > 1.0, 5.0, 7.0))


def test_all_points_of_a_cell_have_its_value():
    field = FIELDS["blocks"]
    z = double(1.0, 2.0, 3.0, 4.0)
    points = fem.Space(SQUARE.mesh, quadrature=4).interior().points
    by_cell = field.at(SQUARE.centroids)(z)
    assert torch.equal(field.at(points)(z), by_cell[torch.from_numpy(points.cells)])


def test_points_of_a_boundary_have_the_value_of_their_cells():
    points = SQUARE.boundary("right").points
    values = FIELDS["blocks"].at(points)(double(1.0, 2.0, 3.0, 4.0)).numpy()
    np.testing.assert_array_equal(values, np.where(points.x[:, 1] < 0.5, 2.0, 4.0))


def test_subdomains_that_leave_cells_are_refused():
    with pytest.raises(InputError, match=r"\['low'\] leave 16 cells"):
        pddlvm.Piecewise.on_subdomains(halves(), ["low"], prior=pddlvm.Normal())


def test_subdomain_that_the_mesh_lacks_is_refused():
    with pytest.raises(MeshError, match=r"'core'.*'high', 'low'"):
        pddlvm.Piecewise.on_subdomains(halves(), ["low", "core"], prior=pddlvm.Normal())


# Links


@pytest.mark.parametrize(
    ("link", "function"),
    [
        (links.identity, lambda g: g),
        (links.exp, np.exp),
        (links.softplus, lambda g: np.log1p(np.exp(g))),
        (links.one_plus_softplus, lambda g: 1 + np.log1p(np.exp(g))),
    ],
)
def test_link_acts_on_the_shifted_field(link, function):
    z = double([-3.0], [0.0], [2.0])
    values = pddlvm.Constant(link=link, shift=0.5).at(POINTS)(z)[:, 0]
    # One or two elementary functions of numbers of size one.
    np.testing.assert_allclose(values.numpy(), function(z[:, 0].numpy() + 0.5), rtol=1e-14)


@pytest.mark.parametrize("link", [links.exp, links.softplus, links.one_plus_softplus])
def test_link_is_positive_and_finite(link):
    values = link(torch.linspace(-30, 30, 61))
    assert (values > 0).all()
    assert torch.isfinite(values).all()


@pytest.mark.parametrize(
    "link", [links.identity, links.exp, links.softplus, links.one_plus_softplus]
)
def test_link_is_differentiable(link):
    g = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    # The defaults of gradcheck are made for central differences in float64.
    assert torch.autograd.gradcheck(link, (g,))
