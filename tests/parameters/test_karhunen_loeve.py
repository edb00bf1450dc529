"""Karhunen-Loeve fields: eigenvalues, variances and covariances known in closed form."""

import math
import time

import numpy as np
import pytest
import scipy.optimize
import skfem
import torch

import pddlvm
from pddlvm import fem, links
from pddlvm.basics.errors import InputError

COVARIANCES = {
    "gaussian": pddlvm.gaussian,
    "exponential": pddlvm.exponential,
    "Matern 0.5": pddlvm.Matern(0.5),
    "Matern 1.5": pddlvm.Matern(1.5),
    "Matern 2.5": pddlvm.Matern(2.5),
    "Matern 10": pddlvm.Matern(10.0),
    "Matern 40": pddlvm.Matern(40.0),
}
covariances = pytest.mark.parametrize("covariance", COVARIANCES.values(), ids=COVARIANCES)
DISTANCE = np.linspace(0.0, 8.0, 81)


def latent(space, n_terms, **kwargs):
    """A Gaussian field (identity link)."""
    kwargs = {"length": 0.3, "link": links.identity, **kwargs}
    return pddlvm.KarhunenLoeve.on(space, n_terms, **kwargs)


# Covariances


@covariances
def test_correlation_at_no_distance_is_one(covariance):
    # Matern: to first order in the least distance that is distinguished from zero, 1e-10.
    assert covariance(np.zeros(1))[0] == pytest.approx(1.0, abs=1e-9)


@covariances
def test_correlation_falls_with_the_distance(covariance):
    assert (np.diff(covariance(DISTANCE)) < 0).all()


@covariances
def test_correlation_vanishes_far_away(covariance):
    # exp(-100), and less for smoother fields.
    assert abs(covariance(np.array([100.0, 1e4]))).max() < 1e-40


@covariances
def test_correlation_has_the_shape_of_the_distances(covariance):
    assert covariance(np.ones((2, 3))).shape == (2, 3)


def test_matern_one_half_is_exponential():
    # The Bessel function has 14 digits; 1e-10 as above.
    np.testing.assert_allclose(
        pddlvm.Matern(0.5)(DISTANCE), pddlvm.exponential(DISTANCE), rtol=1e-12, atol=2e-10
    )


@pytest.mark.parametrize(
    ("nu", "polynomial"), [(1.5, lambda s: 1 + s), (2.5, lambda s: 1 + s + s**2 / 3)]
)
def test_matern_has_its_closed_form(nu, polynomial):
    s = math.sqrt(2 * nu) * DISTANCE
    # The Bessel function has 14 digits.
    np.testing.assert_allclose(
        pddlvm.Matern(nu)(DISTANCE), polynomial(s) * np.exp(-s), rtol=1e-11, atol=1e-14
    )


def test_smooth_matern_is_nearly_gaussian():
    # The first term of the expansion in 1 / nu is at most 0.23 / nu, the others are smaller.
    np.testing.assert_allclose(
        pddlvm.Matern(20.0)(DISTANCE), pddlvm.gaussian(DISTANCE), atol=0.3 / 20
    )


def test_gaussian_and_exponential_have_their_closed_forms():
    assert pddlvm.gaussian(np.array([2.0]))[0] == pytest.approx(math.exp(-2.0), rel=1e-15)
    assert pddlvm.exponential(np.array([2.0]))[0] == pytest.approx(math.exp(-2.0), rel=1e-15)


@pytest.mark.parametrize("nu", [0.0, -1.0, math.nan])
def test_matern_without_smoothness_is_refused(nu):
    with pytest.raises(InputError, match="nu must be positive"):
        pddlvm.Matern(nu)


# Eigenvalues


def exponential_eigenvalues(n, half_width, length):
    """Eigenvalues of exp(-|x - y| / length) on [-half_width, half_width], largest first.

    lambda = 2 c / (w^2 + c^2), c = 1 / length, with w tan(w a) = c for the even eigenfunctions
    and w + c tan(w a) = 0 for the odd ones: one root in each interval of length pi / (2 a).
    """
    c, a = 1 / length, half_width

    def even(w):
        return c * np.cos(w * a) - w * np.sin(w * a)

    def odd(w):
        return w * np.cos(w * a) + c * np.sin(w * a)

    edges = np.arange(n + 1) * np.pi / (2 * a)
    edges[0] = 1e-12
    roots = [
        scipy.optimize.brentq(odd if i % 2 else even, edges[i], edges[i + 1]) for i in range(n)
    ]
    return 2 * c / (np.square(roots) + c**2)


def eigenvalues(field, space):
    """int psi_i^2, by the midpoint rule."""
    return space.cell_volumes @ field.shapes(space.centroids).numpy() ** 2


# The midpoint rule costs the tenth, of wave number w = 5 pi, (w h)^2 / 12 = 9e-4 of itself for
# 300 cells, and 8e-5 for the 1000 inducing points that stand for 3000 cells.
@pytest.mark.parametrize(("n_cells", "tolerance"), [(300, 1e-3), (3000, 1e-4)])
@pytest.mark.parametrize("length", [0.5, 2.0])
def test_eigenvalues_of_the_exponential_covariance(n_cells, tolerance, length):
    space = fem.Space(fem.interval(n_cells, -1.0, 1.0))
    field = latent(space, 10, length=length, covariance=pddlvm.exponential)
    exact = exponential_eigenvalues(10, 1.0, length)
    np.testing.assert_allclose(eigenvalues(field, space), exact, rtol=tolerance)


def test_inducing_points_are_chosen_among_some_of_very_many_cells(monkeypatch):
    monkeypatch.setattr("pddlvm.parameters.karhunen_loeve._N_CANDIDATES", 2000)
    space = fem.Space(fem.interval(6000, -1.0, 1.0))
    field = latent(space, 10, length=0.5, covariance=pddlvm.exponential)
    exact = exponential_eigenvalues(10, 1.0, 0.5)
    # Their cells are no longer of one size: 1.0e-4 was measured, with all as candidates 7.6e-5.
    np.testing.assert_allclose(eigenvalues(field, space), exact, rtol=3e-4)


def test_eigenvalues_grow_with_the_variance():
    space = fem.Space(fem.unit_square(4))
    one, three = latent(space, 5), latent(space, 5, std=3.0)
    # The same eigenvalue problem times nine.
    np.testing.assert_allclose(eigenvalues(three, space), 9 * eigenvalues(one, space), rtol=1e-12)


def test_eigenvalues_are_in_descending_order():
    space = fem.Space(fem.unit_square(6))
    assert (np.diff(eigenvalues(latent(space, 12), space)) < 0).all()


def test_eigenfunctions_are_orthogonal():
    space = fem.Space(fem.unit_square(6))
    psi = latent(space, 12).shapes(space.centroids).numpy()
    gram = psi.T @ (space.cell_volumes[:, None] * psi)
    # Orthogonal vectors of the discrete problem; round-off relative to the largest eigenvalue,
    # magnified where a small one divides.
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-12)


def test_fewer_terms_are_the_first_ones():
    space = fem.Space(fem.unit_square(6, quadrilaterals=True).scaled((1.0, 0.7)))
    few, many = (latent(space, n).shapes(space.centroids) for n in (3, 9))
    # The same sums of 36 numbers of size one, perhaps in another order.
    torch.testing.assert_close(few, many[:, :3], rtol=0, atol=1e-13)


# Variances and covariances


@pytest.mark.parametrize("std", [1.0, 0.4])
@pytest.mark.parametrize("covariance", [pddlvm.exponential, pddlvm.Matern(1.5)])
def test_variance_with_all_terms_is_that_asked_for(std, covariance):
    space = fem.Space(fem.unit_square(5))
    field = latent(space, 50, covariance=covariance, std=std)
    variance = (field.shapes(space.centroids) ** 2).sum(dim=1)
    # The whole spectrum of a matrix whose condition number is at most 1e4: round-off.
    np.testing.assert_allclose(variance.numpy(), std**2, rtol=1e-11)


def test_covariance_with_many_terms_is_that_asked_for():
    space = fem.Space(fem.unit_square(8))
    psi = latent(space, 60, length=0.5, std=2.0).shapes(space.centroids).numpy()
    x = space.centroids.x
    distance = np.linalg.norm(x[:, None] - x, axis=-1)
    # The last eigenvalue is 4 * 3e-12, spread over cells of volume 1 / 128.
    np.testing.assert_allclose(psi @ psi.T, 4 * pddlvm.gaussian(distance / 0.5), atol=2e-9)


def test_variance_away_from_the_inducing_points_is_that_asked_for():
    space = fem.Space(fem.unit_square(8), quadrature=4)
    variance = (latent(space, 60, length=0.5).shapes(space.interior().points) ** 2).sum(dim=1)
    # A smooth kernel is interpolated between centroids 0.1 lengths apart.
    np.testing.assert_allclose(variance.numpy(), 1.0, atol=1e-6)


def test_draws_have_the_variance_of_their_terms(generator):
    space = fem.Space(fem.unit_square(3))
    field = latent(space, 5)
    n = 100_000
    z = field.prior.sample_standard((n, 5), generator)
    values = field.at(space.centroids)(z)
    variance = (field.shapes(space.centroids) ** 2).sum(dim=1)
    # z-tests of 18 variances at five standard deviations.
    np.testing.assert_allclose(values.var(dim=0), variance, rtol=5 * math.sqrt(2 / n))


# Links and states


def test_field_is_log_normal_by_default():
    space = fem.Space(fem.unit_square(4))
    z = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    kappa = pddlvm.KarhunenLoeve.on(space, 3, length=0.3, shift=0.1).at(space.centroids)(z)
    g = latent(space, 3).at(space.centroids)(z)
    # The exponential of the same numbers.
    torch.testing.assert_close(kappa, (0.1 + g).exp(), rtol=1e-14, atol=0)


def test_terms_have_a_standard_normal_prior():
    field = latent(fem.Space(fem.unit_square(4)), 3, std=2.0)
    assert field.prior == pddlvm.Normal(0.0, 1.0)
    assert field.size == 3


def test_equal_arguments_give_equal_fields():
    space = fem.Space(fem.unit_square(6))
    first, second = (latent(space, 8).shapes(space.centroids) for _ in range(2))
    assert torch.equal(first, second)


def test_state_makes_the_same_field():
    space = fem.Space(fem.unit_square(6))
    field, other = latent(space, 8), latent(fem.Space(fem.unit_square(3)), 8)
    restored = other.with_state(field.state)
    assert torch.equal(restored.shapes(space.centroids), field.shapes(space.centroids))


def test_field_with_a_state_keeps_its_link_and_covariance():
    space = fem.Space(fem.unit_square(4))
    field = pddlvm.KarhunenLoeve.on(space, 3, length=0.3, covariance=pddlvm.Matern(), shift=0.2)
    restored = field.with_state(field.state)
    assert (restored.link, restored.shift) == (links.exp, 0.2)
    assert restored.covariance == pddlvm.Matern()


def test_state_holds_tensors_only():
    state = latent(fem.Space(fem.unit_square(4)), 3).state
    assert set(state) == {"inducing", "modes"}
    assert all(isinstance(value, torch.Tensor) for value in state.values())


# Meshes


@pytest.mark.parametrize(
    ("mesh", "n_terms"),
    [
        (fem.interval(40), 6),
        (fem.unit_square(6), 20),
        (fem.unit_square(6, quadrilaterals=True), 20),
        (fem.unit_cube(3), 50),
        (fem.unit_cube(4, hexahedra=True), 50),
    ],
    ids=["lines", "triangles", "quadrilaterals", "tetrahedra", "hexahedra"],
)
def test_variance_on_any_cells(mesh, n_terms):
    space = fem.Space(mesh)
    variance = (latent(space, n_terms, length=1.0).shapes(space.interior().points) ** 2).sum(dim=1)
    # A domain of one length is exhausted by these terms.
    np.testing.assert_allclose(variance.numpy(), 1.0, atol=1e-3)


def test_unequal_cells_do_not_distort_the_eigenvalues():
    graded = fem.Space(skfem.MeshLine(2 * np.linspace(0, 1, 301) ** 2 - 1))
    field = latent(graded, 10, length=0.5, covariance=pddlvm.exponential)
    exact = exponential_eigenvalues(10, 1.0, 0.5)
    # As above, with cells up to twice as long.
    np.testing.assert_allclose(eigenvalues(field, graded), exact, rtol=4e-3)


@pytest.mark.slow
def test_a_hundred_thousand_points_take_seconds():
    space = fem.Space(fem.unit_square(224))
    start = time.perf_counter()
    field = latent(space, 40)
    shapes = field.shapes(space.centroids)
    # A dense eigenvalue problem of this size would need 80 GB and days; this needs about 5 s.
    assert time.perf_counter() - start < 60
    # 40 terms at three lengths per side leave less than a per cent of the variance.
    np.testing.assert_allclose((shapes**2).sum(dim=1).numpy(), 1.0, atol=0.01)
    some = np.array([0, 19_999, 20_000, 100_351])
    # The same sums of 1000 numbers of size one, perhaps in another order.
    torch.testing.assert_close(
        shapes[some], field.shapes(space.centroids.take(some)), rtol=0, atol=1e-13
    )


# Wrong arguments


@pytest.mark.parametrize(
    "wrong",
    [{"length": 0.0}, {"length": -1.0}, {"length": math.nan}, {"std": 0.0}, {"std": math.nan}],
    ids=str,
)
def test_length_and_deviation_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match="must be positive"):
        latent(fem.Space(fem.unit_square(2)), 2, **wrong)


@pytest.mark.parametrize("n_terms", [0, -1, 9, "5", 2.5])
def test_number_of_terms_out_of_range_is_refused(n_terms):
    most = ", at most 8" if n_terms == 9 else ""
    message = f"n_terms must be an integer, at least 1{most}, got {n_terms!r}"
    with pytest.raises(InputError, match=message):
        latent(fem.Space(fem.unit_square(2)), n_terms)


def test_more_terms_than_inducing_points_are_refused():
    with pytest.raises(InputError, match="at most 1000"):
        latent(fem.Space(fem.unit_square(23)), 1001)


def test_more_terms_than_the_covariance_has_are_refused():
    with pytest.raises(InputError, match="fewer than 60 terms"):
        latent(fem.Space(fem.unit_square(8)), 60, length=20.0)
