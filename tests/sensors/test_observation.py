"""Observation operators and noise."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import pddlvm
from pddlvm import fem
from pddlvm.sensors.noise import Gaussian, StudentT, UnknownStd
from problems import nonlinear_poisson, pinn, poisson, shell

ROOT = Path(__file__).parents[2]
POINTS = np.array([[0.13, 0.21], [0.5, 0.5], [0.99, 0.02]])


def quadratic(space, f):
    """Dofs of a function of x, exact where the element holds it."""
    return torch.from_numpy(f(space.dof_points))


# --- operators ---------------------------------------------------------------------------------


def test_sensors_whose_covariance_fits_nowhere_are_refused(poisson_2d):
    with pytest.raises(pddlvm.InputError, match=r"1000000 sensors are too many.*at most 20000"):
        pddlvm.PointObservation(poisson_2d, np.full((1_000_000, 2), 0.5), 0.1)


def test_values_at_points_are_those_of_a_linear_function(poisson_2d):
    space = poisson_2d.space
    u = quadratic(space, lambda x: 1 + 2 * x[:, 0] - 3 * x[:, 1])
    obs = pddlvm.PointObservation(poisson_2d, POINTS, 0.1)
    expected = 1 + 2 * POINTS[:, 0] - 3 * POINTS[:, 1]
    torch.testing.assert_close(obs.apply(u), torch.from_numpy(expected))


def test_gradients_at_points_are_those_of_a_linear_function(poisson_2d):
    u = quadratic(poisson_2d.space, lambda x: 1 + 2 * x[:, 0] - 3 * x[:, 1])
    matrix = pddlvm.gradient_matrix(poisson_2d, POINTS)
    obs = pddlvm.LinearObservation(poisson_2d, matrix, 0.1)
    expected = torch.tensor([2.0, -3.0], dtype=torch.float64).repeat(3)
    torch.testing.assert_close(obs.apply(u), expected)


def test_quadratic_vector_elements():
    space = fem.Space(fem.unit_square(3), degree=2, n_components=2)
    x = space.dof_points
    first = space.dof_components == 0
    u = np.where(first, x[:, 0] ** 2, x[:, 0] * x[:, 1])
    values = (space.evaluation(POINTS) @ u).reshape(3, 2)
    np.testing.assert_allclose(values, np.stack([POINTS[:, 0] ** 2, POINTS.prod(1)], 1))
    slopes = (space.evaluation(POINTS, gradient=True) @ u).reshape(3, 2, 2)
    px, py = POINTS.T
    zero = np.zeros(3)
    expected = np.stack([np.stack([2 * px, zero], 1), np.stack([py, px], 1)], 1)
    np.testing.assert_allclose(slopes, expected, atol=1e-12)


def test_points_on_a_line(poisson_1d):
    u = quadratic(poisson_1d.space, lambda x: 3 * x[:, 0])
    obs = pddlvm.PointObservation(poisson_1d, [-0.93, 0.0, 1.0], 0.1)
    torch.testing.assert_close(obs.apply(u), torch.tensor([-2.79, 0.0, 3.0], dtype=torch.float64))


def test_points_of_a_solid():
    space = fem.Space(fem.unit_cube(2))
    points = np.array([[0.2, 0.3, 0.9]])
    u = space.dof_points @ np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(space.evaluation(points) @ u, points @ np.array([1.0, -2.0, 0.5]))


def test_a_point_outside_of_the_mesh_is_named(poisson_2d):
    with pytest.raises(pddlvm.InputError, match=r"point 1, \[1\.2, 0\.5\], is outside"):
        pddlvm.PointObservation(poisson_2d, [[0.5, 0.5], [1.2, 0.5]], 0.1)


@pytest.mark.parametrize("x", [-1.5, 1.01])
def test_a_point_outside_of_the_line_is_named(poisson_1d, x):
    with pytest.raises(pddlvm.InputError, match="point 0"):
        pddlvm.PointObservation(poisson_1d, [x], 0.1)


def test_displacements_of_a_shell():
    problem = shell.make_roof(4, n_terms=2)
    space = problem.space
    vertices = space.mesh.p.T
    u = np.zeros((len(vertices), 6))
    u[:, :3] = vertices @ np.array([[1.0, 0.2, 0.0], [0.0, 2.0, 0.1], [0.3, 0.0, 1.0]])
    corner = vertices[space.mesh.t.T[3]]
    inside = corner.mean(axis=0, keepdims=True)
    found = (space.evaluation(inside) @ u.ravel()).reshape(1, 3)
    np.testing.assert_allclose(found, u[space.mesh.t.T[3], :3].mean(axis=0, keepdims=True))
    # A point near the surface is moved onto it.
    normal = np.cross(corner[1] - corner[0], corner[2] - corner[0])
    above = inside + 0.01 * normal / np.linalg.norm(normal)
    np.testing.assert_allclose((space.evaluation(above) @ u.ravel()).reshape(1, 3), found)
    with pytest.raises(pddlvm.InputError, match="away from the surface"):
        space.evaluation(inside + 1e3)


def test_points_between_those_of_a_grid():
    problem = pinn.make_heat(grid=(40, 30))
    x, t = problem.grid_points.unbind(-1)
    u = torch.sin(x) * torch.exp(-t)
    points = np.array([[1.234, 0.567], [0.0, 0.0], [2 * math.pi, 2.0]])
    obs = pddlvm.PointObservation(problem, points, 0.1)
    expected = np.sin(points[:, 0]) * np.exp(-points[:, 1])
    # Cubic: (2 pi / 39)^4 / 384 is 2e-6.
    np.testing.assert_allclose(obs.apply(u), expected, atol=1e-5)
    with pytest.raises(pddlvm.InputError, match="outside the domain"):
        pddlvm.PointObservation(problem, [[7.0, 0.0]], 0.1)
    # 2 pi with four digits is outside by 1.5e-5.
    table = problem.evaluation([[6.2832, 2.0001], [0.0, -1e-4]])
    ends = problem.evaluation([[2 * math.pi, 2.0], [0.0, 0.0]])
    assert (table != ends).nnz == 0


def test_averages_over_subdomains():
    problem = poisson.make(mesh=ROOT / "meshes" / "plate.msh")
    names = sorted(problem.space.mesh.subdomains)
    matrix = pddlvm.average_matrix(problem, names)
    assert matrix.shape == (len(names), problem.n_dofs)
    np.testing.assert_allclose(matrix @ np.ones(problem.n_dofs), 1.0)
    # Linear u: its mean is its value at the centre of gravity.
    centroids, volumes = problem.space.centroids.x, problem.space.cell_volumes
    for name, found in zip(names, matrix @ problem.space.dof_points[:, 0], strict=True):
        cells = problem.space.cells(name)
        assert found == pytest.approx(np.average(centroids[cells, 0], weights=volumes[cells]))


def test_averages_over_patches():
    problem = poisson.make(40)
    disc = pddlvm.average_matrix(
        problem, [lambda x: np.hypot(x[:, 0] - 0.4, x[:, 1] - 0.5) < 0.2, lambda x: x[:, 1] > 0.5]
    )
    x, y = problem.space.dof_points.T
    np.testing.assert_allclose(disc @ (2 * x + 3 * y), [2.3, 3.25], rtol=5e-3)
    # The mean of r^2 over a disc is half of that at its rim.
    square = (x - 0.4) ** 2 + (y - 0.5) ** 2
    assert (disc @ square)[0] == pytest.approx(0.02, rel=0.03)


def test_averages_are_checked():
    problem = poisson.make(4, n_terms=2)
    with pytest.raises(pddlvm.InputError, match="no quadrature point"):
        pddlvm.average_matrix(problem, [lambda x: x[:, 0] > 2])
    for other in (pinn.make_heat(grid=(8, 8)), shell.make_roof(4, n_terms=2)):
        with pytest.raises(pddlvm.InputError, match="Lagrange"):
            pddlvm.average_matrix(other, [lambda x: x[:, 0] > 0])


def test_masks(poisson_2d):
    seen = np.zeros(poisson_2d.n_dofs, dtype=bool)
    seen[[3, 7]] = True
    obs = pddlvm.LinearObservation(poisson_2d, pddlvm.mask_matrix(poisson_2d, seen), 0.1)
    u = torch.arange(poisson_2d.n_dofs, dtype=torch.float64)
    assert obs.apply(u).tolist() == [3.0, 7.0]
    with pytest.raises(pddlvm.InputError, match="select"):
        pddlvm.mask_matrix(poisson_2d, [poisson_2d.n_dofs])


def test_a_function_of_u(poisson_2d):
    obs = pddlvm.FunctionObservation(poisson_2d, lambda u: u[..., :3] ** 2, 3, 0.1)
    u = torch.full((2, poisson_2d.n_dofs), 2.0, dtype=torch.float64)
    assert obs.apply(u).tolist() == [[4.0] * 3] * 2
    with pytest.raises(pddlvm.InputError, match=r"\(2, 3\)"):
        pddlvm.FunctionObservation(poisson_2d, lambda u: u[..., :2], 3, 0.1)


def test_batches_dtypes_and_gradients(poisson_2d):
    obs = pddlvm.PointObservation(poisson_2d, POINTS, 0.1)
    u = torch.randn(2, 5, poisson_2d.n_dofs, requires_grad=True)
    y = obs.apply(u)
    assert y.shape == (2, 5, 3)
    assert y.dtype == torch.float32
    y.sum().backward()
    dense = torch.from_numpy(obs.matrix.toarray().sum(0)).float()
    torch.testing.assert_close(u.grad, dense.expand_as(u))


@pytest.mark.parametrize("matrix", [np.ones((2, 3)), np.full((1, 81), np.nan)])
def test_matrices_are_checked(poisson_2d, matrix):
    with pytest.raises(pddlvm.InputError, match="matrix"):
        pddlvm.LinearObservation(poisson_2d, matrix, 0.1)


def test_a_matrix_of_values_takes_tensors(poisson_2d):
    points = torch.tensor([[0.3, 0.4], [0.5, 0.1]], dtype=torch.float64)
    expected = poisson_2d.evaluation(points.tolist())
    assert (poisson_2d.evaluation(points) != expected).nnz == 0


@pytest.mark.parametrize("points", [[[0.1, 0.2, 0.3]], [[np.nan, 0.1]], np.zeros((0, 2))])
def test_points_are_checked(poisson_2d, points):
    with pytest.raises(pddlvm.InputError, match="points"):
        pddlvm.PointObservation(poisson_2d, points, 0.1)


# --- noise -------------------------------------------------------------------------------------

FULL = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64)


@pytest.mark.parametrize("std", [0.3, torch.tensor([0.1, 0.7], dtype=torch.float64), FULL])
def test_the_gaussian_density(std):
    noise = Gaussian(std, 2)
    e = torch.tensor([[0.1, -0.4], [2.0, 0.3]], dtype=torch.float64)
    expected = stats.multivariate_normal(np.zeros(2), noise.covariance().numpy()).logpdf(e)
    torch.testing.assert_close(noise.log_prob(e), torch.from_numpy(expected))


def test_missing_values_are_marginalised():
    e = torch.tensor([[0.1, torch.nan], [torch.nan, 0.3]], dtype=torch.float64)
    expected = [stats.norm(0, 1.0).logpdf(0.1), stats.norm(0, math.sqrt(2.0)).logpdf(0.3)]
    np.testing.assert_allclose(Gaussian(FULL, 2).log_prob(e), expected)
    diagonal = Gaussian(FULL.diagonal().sqrt(), 2).log_prob(e)
    np.testing.assert_allclose(diagonal, expected)
    heavy = StudentT(0.5, 2, df=5.0).log_prob(e)
    np.testing.assert_allclose(heavy, stats.t(5.0, scale=0.5).logpdf([0.1, 0.3]))


def test_an_unknown_std_is_integrated_out():
    noise = UnknownStd(0.2, 0.5, 3)
    e = torch.tensor([0.1, -0.3, torch.nan], dtype=torch.float64)

    def integrand(t):
        s = 0.2 * math.exp(0.5 * t)
        return stats.norm(0, s).pdf([0.1, -0.3]).prod() * stats.norm.pdf(t)

    expected, _ = integrate.quad(integrand, -8, 8)
    assert float(noise.log_prob(e)) == pytest.approx(math.log(expected), rel=1e-8)


@pytest.mark.parametrize(
    "noise",
    [
        Gaussian(FULL, 2),
        Gaussian(torch.tensor([0.1, 0.7]).double(), 2),
        StudentT(0.5, 2, df=5.0),
        UnknownStd(0.2, 0.5, 2),
    ],
)
@pytest.mark.parametrize("misfit", [[0.3, -0.4], [torch.nan, 0.2]])
def test_the_precision_gives_the_slope_of_the_density(noise, misfit):
    e = torch.tensor(misfit, dtype=torch.float64)
    at = e.clone().requires_grad_()
    (slope,) = torch.autograd.grad(noise.log_prob(at), at)
    seen = ~torch.isnan(e)
    found = -(noise.precision(e).dense() @ e.nan_to_num())
    torch.testing.assert_close(found[seen], slope[seen], rtol=1e-7, atol=1e-9)
    assert (noise.precision(e).dense()[~seen] == 0).all()


@pytest.mark.parametrize(
    ("noise", "std"),
    [
        (Gaussian(FULL, 2), [1.0, math.sqrt(2.0)]),
        (StudentT(0.5, 2, df=8.0), [0.5 * math.sqrt(8 / 6)] * 2),
        (UnknownStd(0.2, 0.3, 2), [0.2 * math.exp(0.3**2)] * 2),
    ],
)
def test_moments_of_the_draws(noise, std, generator):
    draws = noise.sample((40_000,), generator)
    # Four standard errors, generous for the heavy tails.
    np.testing.assert_allclose(draws.std(0), std, rtol=0.05)
    assert (draws.mean(0).abs() < 4 * draws.std(0) / 200).all()


@pytest.mark.parametrize(
    "noise",
    [Gaussian(FULL, 2), StudentT(0.5, 2, df=3.0), UnknownStd(0.2, 0.5, 2)],
    ids=lambda noise: type(noise).__name__,
)
@pytest.mark.parametrize("n_seen", [0, 1, 2])
def test_the_size_of_noise_is_a_chi_square(noise, n_seen, generator):
    e = noise.sample((1000,), generator)
    e[:, n_seen:] = torch.nan
    found = noise.square(e)
    if n_seen == 0:
        assert (found < 1e-6).all()
    else:
        assert stats.kstest(found.numpy(), stats.chi2(n_seen).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    "noise", [Gaussian(0.1, 3), StudentT(0.1, 3), UnknownStd(0.1, 0.5, 3)], ids=repr
)
def test_noise_of_any_kind_can_be_contradicted(noise):
    far = torch.full((3,), 1e6, dtype=torch.float64)
    assert stats.chi2.sf(float(noise.square(far)), 3) < 1e-4


def test_an_outlier_is_what_heavy_tails_are_for():
    misfit = torch.tensor([0.1, -0.1, 0.05, 30.0], dtype=torch.float64)
    assert stats.chi2.sf(float(StudentT(0.1, 4).square(misfit)), 4) > 0.01
    assert stats.chi2.sf(float(Gaussian(0.1, 4).square(misfit)), 4) < 1e-9


def test_the_draws_of_a_full_covariance_are_correlated(generator):
    draws = Gaussian(FULL, 2).sample((40_000,), generator)
    np.testing.assert_allclose(torch.cov(draws.T), FULL, atol=0.06)


@pytest.mark.parametrize(
    "std", [-0.1, 0.0, math.nan, torch.ones(3).double(), -FULL, torch.ones(2, 2).double()]
)
def test_noise_is_checked(std):
    with pytest.raises(pddlvm.InputError, match="noise"):
        Gaussian(std, 2)


@pytest.mark.parametrize(
    "build", [lambda: StudentT(0.1, 2, df=2.0), lambda: UnknownStd(0.0, 1.0, 2)]
)
def test_other_noise_is_checked(build):
    with pytest.raises(pddlvm.InputError, match="must be"):
        build()


# --- data --------------------------------------------------------------------------------------


def test_simulated_data_have_the_noise(poisson_2d):
    obs = pddlvm.PointObservation(poisson_2d, POINTS, 0.1)
    u = torch.zeros(5000, poisson_2d.n_dofs, dtype=torch.float64)
    y = obs.simulate(u, seed=0)
    assert float(y.std()) == pytest.approx(0.1, rel=0.03)
    assert torch.equal(y, obs.simulate(u, seed=0))
    expected = stats.norm(0, 0.1).logpdf(y[:4]).sum(1)
    np.testing.assert_allclose(obs.log_prob(y[:4], u[:4]), expected)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(4), "3 values"),
        (torch.full((3,), torch.inf), "infinite"),
        (torch.full((3,), torch.nan), "no value at all"),
        (torch.zeros(3, dtype=torch.int64), "floating-point"),
    ],
)
def test_data_are_checked(poisson_2d, y, message):
    obs = pddlvm.PointObservation(poisson_2d, POINTS, 0.1)
    with pytest.raises(pddlvm.InputError, match=message):
        obs.check(y)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.inf, r"y\[3\] has infinite values"),
        (1e30, r"y\[3\] has a value of 1e\+31"),
        (torch.nan, r"y\[3\] has no value at all"),
    ],
)
def test_the_data_set_that_is_wrong_is_named(poisson_2d, value, message):
    obs = pddlvm.PointObservation(poisson_2d, POINTS, 0.1)
    y = torch.zeros(5, 3)
    y[3] = value
    with pytest.raises(pddlvm.InputError, match=message):
        obs.check(y)
    many = torch.zeros(2, 4, 3)
    many[1, 2:] = value
    with pytest.raises(pddlvm.InputError, match=r"y\[1, 2\] \(as 1 more of its data sets\) has"):
        obs.check(many)


def test_missing_data_are_refused_where_they_cannot_be_used(poisson_2d):
    obs = pddlvm.PointObservation(poisson_2d, POINTS, 0.1)
    with pytest.raises(pddlvm.InputError, match="missing"):
        obs.check(torch.tensor([0.0, torch.nan, 1.0]), allow_missing=False)


def test_the_missing_middle(poisson_1d):
    """The paper's case: the first and the last forty of a hundred and one nodes."""
    problem = nonlinear_poisson.make_1d()
    seen = np.r_[0:20, problem.n_dofs - 20 : problem.n_dofs]
    obs = pddlvm.LinearObservation(problem, pddlvm.mask_matrix(problem, seen), 0.01)
    assert obs.n == 40
