"""Problems of several fields: point functions, boundary values and sensors by field."""

import copy
import pickle

import matplotlib.figure
import matplotlib.pyplot as plt
import meshio
import numpy as np
import pytest
import torch
from checks import refuses
from flows import MESH, PRESSURE, SPACE, VELOCITY, VISCOSITY, P, U, channel, draw, parabola, stokes

import pddlvm
from pddlvm import fem, plot
from pddlvm.runs.tables import read_measurements


def double(values):
    return torch.tensor(values, dtype=torch.float64)


# --- point functions -----------------------------------------------------------------------------


def with_function(function, kind=pddlvm.Flux, **changes):
    space = changes.pop("space", SPACE)
    return channel(terms=[kind(space.interior(), function)], space=space, **changes)


def test_a_function_gets_what_it_names_in_any_order():
    seen = {}

    def flux(nu, x, dp, u, p):
        seen.update(u=tuple(u.shape), p=tuple(p.shape), dp=tuple(dp.shape), x=tuple(x.shape))
        return {"u": (nu * u, 0.0), "p": (p, dp)}

    with_function(flux)
    assert seen == {"u": (2,), "p": (), "dp": (2,), "x": (2,)}


def test_rows_of_a_flux_are_those_of_its_fields():
    def flux(u, du, p, x, nu):
        return {"p": (nu + p, 0.0), "u": (torch.stack([x[0], 0 * x[1]]) + u, du)}

    case = with_function(flux, dirichlet=[])
    r = case.residual(torch.zeros(SPACE.n_dofs).double(), torch.ones(1).double())
    region = PRESSURE.interior()
    # Sums in another order: int q, and int x_0 v_0.
    np.testing.assert_allclose(r[P], region.matrix[::3].T @ region.weights.ravel(), atol=1e-15)
    region = VELOCITY.interior()
    loads = region.weights.ravel() * region.points.x[:, 0]
    np.testing.assert_allclose(r[U], region.matrix[::6].T @ loads, atol=1e-15)


def test_a_field_that_is_left_out_has_no_rows():
    def held(u, du, p):
        return {"u": (u, du), "p": (p, 0.0)}

    def load(nu, x):
        return {"p": (nu * x[0], 0.0)}

    terms = [pddlvm.Flux(SPACE.interior(), f) for f in (held, load)]
    case = channel(space=SPACE, terms=terms, dirichlet=[])
    r = case.residual(torch.zeros(SPACE.n_dofs).double(), torch.ones(1).double())
    assert not r[U].any()
    assert r[P].all()


def test_an_energy_is_the_potential_of_its_flux():
    def energy(du, p, nu):
        return 0.5 * nu * (du * du).sum() - p * du.trace()

    def flux(du, p, x, nu):
        return {"u": (0.0, nu * du - p * torch.eye(2, dtype=x.dtype)), "p": (-du.trace(), 0.0)}

    one, other = with_function(energy, pddlvm.Energy), with_function(flux)
    u, z = draw(SPACE.n_dofs), double([1.3])
    assert one.has_potential
    torch.testing.assert_close(one.residual(u, z), other.residual(u, z), rtol=1e-12, atol=1e-13)
    r = torch.autograd.functional.jacobian(lambda u: one.energy(u, z), u)[one.free_dofs]
    torch.testing.assert_close(one.residual(u, z), r, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("n_batch", [0, 1, 3])
def test_gradcheck_of_the_residual(n_batch):
    case = channel(1)
    u, z = draw(case.n_dofs).expand(n_batch, -1).clone(), torch.ones(n_batch, 1).double()
    # The defaults of gradcheck: half of the digits.
    if n_batch:
        assert torch.autograd.gradcheck(
            case.residual, (u.requires_grad_(), z.requires_grad_()), check_batched_grad=False
        )
    assert case.residual(u, z).shape == (n_batch, case.n_free)


def test_the_matrix_is_the_jacobian():
    case = channel(2)
    u, z = draw(case.n_dofs), torch.ones(1).double()
    full = torch.autograd.functional.jacobian(lambda u: case.residual(u, z), u)
    matrix = case.solver.matrix(u, z).toarray()
    # Sums in another order, entries of size one.
    np.testing.assert_allclose(matrix, full[:, case.free_dofs], atol=1e-13)


WRONG = {
    "a Flux of several fields is a mapping": lambda u, du, nu: (0.0, nu * du),
    "it returns a tensor of shape": lambda u, du, nu: nu * du,
    r"rows of \['q'\], and the fields are \['u', 'p'\]": lambda du, nu: {"q": (0.0, nu * du)},
    "a Flux is a pair": lambda du, nu: {"u": nu * du},
    "f1 of 'p' has 4 entries, and 2 are expected": lambda du, nu: {"p": (0.0, nu * du)},
    "f1 of 'u' has 1 entries": lambda du, nu: {"u": (0.0, nu * du.trace())},
    "cannot be evaluated at a point": lambda du, nu: {"u": (nu * du, 0.0)},
    "a field 'v' that the problem does not have.*other than": lambda v, du, nu: {
        "u": (0.0, nu * v)
    },
    "is of float32": lambda du, p, nu: {"u": (0.0, nu * du - p * torch.eye(2)), "p": (p, 0.0)},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_flux_is_explained(message):
    refuses(message, with_function, WRONG[message])


def test_a_mapping_is_no_energy():
    refuses("an Energy is one number", with_function, stokes, pddlvm.Energy)


@pytest.mark.parametrize("name", ["u", "du", "p", "dp", "x"])
def test_a_parameter_field_has_a_name_of_its_own(name):
    refuses(f"cannot be named {name!r}", channel, fields={name: VISCOSITY})


def test_names_that_no_field_has_are_free():
    space = fem.MixedSpace({"a": fem.Space(MESH), "b": fem.Space(MESH)})
    case = pddlvm.Problem(
        "two",
        space,
        [pddlvm.Energy(space.interior(), lambda da, db, b, a, u: u * (da @ da + db @ db) + a * b)],
        {"u": VISCOSITY},
        [pddlvm.Dirichlet(None, field="a"), pddlvm.Dirichlet(None, field="b")],
    )
    assert case.n_free == 2 * 4


def test_terms_are_on_regions_of_the_mixed_space():
    term = pddlvm.Energy(VELOCITY.interior(), lambda u, du, x, nu: nu * (du * du).sum())
    refuses("on a region of another space", channel, space=SPACE, terms=[term])


# --- boundary values -----------------------------------------------------------------------------


def test_dirichlet_values_are_those_of_a_field():
    values = [
        pddlvm.Dirichlet("left", parabola),
        pddlvm.Dirichlet("top", 2.0, component=1),
        pddlvm.Dirichlet("right", lambda x, nu: nu * x[1], field="p"),
    ]
    case = channel(space=SPACE, dirichlet=values)
    u = case.solve(double([0.7])).numpy()
    right = PRESSURE.dofs_on("right")
    np.testing.assert_allclose(u[P][right], 0.7 * PRESSURE.dof_points[right, 1])
    top = VELOCITY.dofs_on("top", 1)
    np.testing.assert_array_equal(u[U][top], 2.0)
    np.testing.assert_array_equal(
        case.fixed_dofs,
        np.sort([*VELOCITY.dofs_on("left"), *np.setdiff1d(top, VELOCITY.dofs_on("left")),
                 *(P.start + right)]),
    )  # fmt: skip


def test_dirichlet_values_of_no_field_are_refused():
    refuses(r"no field 'q'", channel, dirichlet=[pddlvm.Dirichlet("left", field="q")])
    refuses("component must be between 0 and 0", channel,
            dirichlet=[pddlvm.Dirichlet("left", component=1, field="p")])  # fmt: skip
    refuses("one number, 'u'|is one field, 'u'", pddlvm.Problem, "one", PRESSURE,
            [pddlvm.Energy(PRESSURE.interior(), lambda u, du, x, nu: nu * du @ du)],
            {"nu": VISCOSITY}, [pddlvm.Dirichlet("left", field="p")])  # fmt: skip


def test_what_nothing_holds_is_named_by_field():
    walls = pddlvm.Dirichlet(None)
    refuses("nothing holds field 'p' .*constraints=.MeanValue", channel, dirichlet=[walls])
    refuses("nothing holds field 'u' .* shift or turn", channel, dirichlet=[])
    only = with_function(lambda du, p, nu: {"u": (0.0, nu * du), "p": (p, 0.0)})
    assert only.n_free
    refuses("nothing holds field 'p'", with_function, lambda du, nu: {"u": (0.0, nu * du)})


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([pddlvm.Dirichlet("left", component=0)], "field 'u' and 'p'"),
        ([pddlvm.Dirichlet(fem.Nodes([0])), pddlvm.Dirichlet(None, field="p")], "field 'u' .*turn"),
        ([pddlvm.Dirichlet("left")], "field 'p' .*constant"),
        ([pddlvm.Dirichlet("left", component=0), pddlvm.Dirichlet("bottom", component=1),
          pddlvm.Dirichlet("left", field="p")], None),
    ],
)  # fmt: skip
def test_a_body_beside_a_temperature_may_not_turn(held, message):
    def energy(du, p, dp, nu):
        strain = 0.5 * (du + du.T)
        return 1e11 * (strain * strain).sum() + 0.5 * nu * dp @ dp - p

    arguments = (energy, pddlvm.Energy)
    if message:
        refuses(f"nothing holds {message}", with_function, *arguments, dirichlet=held)
    else:
        assert with_function(*arguments, dirichlet=held).n_free


def test_fields_are_compared_in_units_of_their_own():
    # A displacement in GPa beside a pressure in Pa: the traction side holds the pressure.
    case = channel(fields={"nu": pddlvm.Constant(pddlvm.Uniform(1e11, 2e11))})
    assert case.n_free


# --- sensors and what is around ------------------------------------------------------------------

CASE = channel(space=SPACE)
SOLUTION = CASE.solve(double([[0.8], [1.2]]))
POINTS = [[0.5, 0.5], [0.25, 0.1]]


def test_sensors_see_one_field():
    u, p = (pddlvm.PointObservation(CASE, POINTS, 0.1, field=name) for name in "up")
    assert (u.n, p.n) == (4, 2)
    x = double(POINTS)
    expected = torch.stack([parabola(one) for one in x]).flatten()
    # The parabola is in the space: round-off of the solver.
    torch.testing.assert_close(u.apply(SOLUTION), expected.expand(2, 4), rtol=0, atol=1e-12)
    slope = double([[0.8], [1.2]]) * 8
    torch.testing.assert_close(p.apply(SOLUTION), slope * (1 - x[:, 0]), rtol=1e-11, atol=0)
    np.testing.assert_array_equal(CASE.evaluation(POINTS).toarray(), u.matrix.toarray())


def test_gradients_and_means_see_one_field():
    slopes = pddlvm.gradient_matrix(CASE, POINTS, field="p") @ SOLUTION[0].numpy()
    np.testing.assert_allclose(slopes.reshape(2, 2), [[-6.4, 0.0]] * 2, atol=1e-11)
    mean = pddlvm.average_matrix(CASE, [lambda x: x[:, 0] < 2], field="p") @ SOLUTION[0].numpy()
    np.testing.assert_allclose(mean, 0.8 * 8 / 2, rtol=1e-11)


@pytest.mark.parametrize("read", [
    lambda: pddlvm.PointObservation(CASE, POINTS, 0.1, field="q"),
    lambda: CASE.evaluation(POINTS, "q"),
    lambda: pddlvm.gradient_matrix(CASE, POINTS, field="q"),
    lambda: pddlvm.average_matrix(CASE, ["low"], field="q"),
])  # fmt: skip
def test_sensors_of_no_field_are_refused(read):
    refuses("no field 'q'", read)


def test_a_solution_of_one_field_has_the_name_u(poisson_2d):
    refuses("one field, 'u'", poisson_2d.evaluation, [[0.5, 0.5]], "p")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_have_equal_solutions(copied):
    z = double([[0.8]])
    assert torch.equal(copied(CASE).solve(z), CASE.solve(z))
    assert copied(CASE).fingerprint == CASE.fingerprint


def test_problems_that_differ_by_a_name_differ():
    other = fem.MixedSpace({"u": VELOCITY, "q": PRESSURE})

    def flux(du, q, x, nu):
        return stokes(0, du, q, 0, x, nu) | {}

    def named(du, q, x, nu):
        rows = flux(du, q, x, nu)
        return {"u": rows["u"], "q": rows["p"]}

    assert with_function(named, space=other).fingerprint != CASE.fingerprint


def test_a_field_that_no_other_sees_has_no_norm():
    def energy(du, p, nu):
        return 0.5 * nu * (du * du).sum() - p**2

    case = with_function(energy, pddlvm.Energy)
    refuses("field 'p' has no energy of its own", pddlvm.LatentVariableModel, case)


@pytest.fixture(scope="module")
def exchange():
    """Two temperatures that exchange heat, and their model."""
    space = fem.MixedSpace({"a": fem.Space(MESH), "b": fem.Space(MESH, 2)})

    def energy(a, b, da, db, k):
        return 0.5 * k * (da @ da + db @ db) + 0.5 * (a - b) ** 2 - a

    case = pddlvm.Problem(
        "exchange",
        space,
        [pddlvm.Energy(space.interior(), energy)],
        {"k": VISCOSITY},
        [pddlvm.Dirichlet("left", field="a")],
    )
    return pddlvm.LatentVariableModel(case, seed=0)


def test_fields_with_an_energy_have_a_model(exchange):
    z = double([[0.9]])
    u = exchange.problem.solve(z)
    # A basis of one parameter: the correction is next to exact.
    assert (exchange.forward(z, corrections=1).mean - u).norm() < 1e-3 * u.norm()


def test_files_and_figures_have_each_field(exchange, tmp_path):
    case, z = exchange.problem, double([0.9])
    exchange.to_vtu(tmp_path / "solution.vtu", z)
    written = meshio.read(tmp_path / "solution.vtu").point_data
    assert set(written) == {"a_mean", "a_std", "b_mean", "b_std"}
    dofs, space = case.space.field("b")
    mean = exchange.forward(z).mean.numpy()
    np.testing.assert_array_equal(written["b_mean"], space.at_nodes(mean[dofs])[:, 0])
    figure = matplotlib.figure.Figure()
    for name, expected in ((None, "a"), ("b", "b")):
        ax = plot.field(case, torch.from_numpy(mean).double(), figure.subplots(), name=name)
        drawn = ax.collections[0].get_array()
        np.testing.assert_allclose(drawn, written[f"{expected}_mean"])
    refuses("no field 'c'", plot.field, case, torch.from_numpy(mean), figure.subplots(), name="c")


def test_a_forward_figure_shows_every_field(exchange):
    figure = plot.forward_figure(exchange, double([0.9]))
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    for name in ("a", "b"):
        assert f"reference solution {name}" in titles
    assert len(titles) == 8
    # The panels of b show b, and its reference and mean have colours of one scale.
    dofs, space = exchange.problem.space.field("b")
    u = space.at_nodes(exchange.problem.solve(double([0.9])).numpy()[dofs])[:, 0]
    first = next(ax for ax in figure.axes if ax.get_title() == "reference solution b")
    np.testing.assert_allclose(first.collections[0].get_array(), u)
    plt.close(figure)


def test_a_solution_of_several_fields_is_written_without_a_model(exchange, tmp_path):
    u = exchange.problem.solve(double([0.9]))
    pddlvm.write_solution(exchange.problem, tmp_path / "u.vtu", u)
    assert set(meshio.read(tmp_path / "u.vtu").point_data) == {"a", "b"}


def test_a_table_may_be_of_any_field(exchange, tmp_path):
    (tmp_path / "data.csv").write_text("x,y,value\n0.4,0.5,0.2\n0.6,0.7,0.3\n")
    case = exchange.problem
    found = read_measurements(tmp_path / "data.csv", case, 0.1, "b").observation
    expected = pddlvm.PointObservation(case, [[0.4, 0.5], [0.6, 0.7]], 0.1, field="b")
    u = draw(case.n_dofs)
    torch.testing.assert_close(found.apply(u), expected.apply(u))
    refuses("there is no field 'u'", read_measurements, tmp_path / "data.csv", case, 0.1)
