"""Problems: solutions and residuals of any batch, boundary values, and what is refused."""

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

import pddlvm
from pddlvm import fem
from pddlvm.basics.errors import InputError, MeshError, ProblemError, SupportError
from problems import poisson

LINE = fem.Space(fem.interval(4))
SQUARE = fem.Space(fem.unit_square(4))
batches = pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (0,)])


def diffusion(u, du, x, kappa):
    return 0.5 * kappa * (du * du).sum()


def flux(u, du, x, kappa):
    return -1.0, kappa * du


def make(*dirichlet, space=LINE, **fields):
    """-(kappa u')' = 0 with kappa ~ U[1, 2] and other fields."""
    return pddlvm.Problem(
        "test",
        space,
        [pddlvm.Energy(space.interior(), diffusion)],
        fields={"kappa": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)), **fields},
        dirichlet=dirichlet,
    )


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


# Sizes and names


def test_sizes_of_the_problem(poisson_2d):
    assert (poisson_2d.n_dofs, poisson_2d.n_free, poisson_2d.n_parameters) == (81, 49, 4)


def test_free_and_fixed_dofs_are_all_dofs(poisson_2d):
    both = torch.cat(
        [torch.from_numpy(poisson_2d.free_dofs), torch.from_numpy(poisson_2d.fixed_dofs)]
    )
    assert both.sort().values.tolist() == list(range(81))


def test_parameters_have_names(poisson_1d, poisson_2d):
    assert poisson_1d.parameter_names == ("kappa",)
    assert poisson_2d.parameter_names == ("kappa[0]", "kappa[1]", "kappa[2]", "kappa[3]")


def test_problem_of_energies_has_a_potential(poisson_2d):
    assert poisson_2d.has_potential


# Solutions


@batches
def test_solution_has_the_shape_of_the_batch(poisson_2d, generator, batch):
    z = poisson_2d.prior.sample(batch, generator=generator)
    assert poisson_2d.solve(z).shape == (*batch, 81)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_solution_is_in_double_precision(poisson_2d, dtype):
    assert poisson_2d.solve(torch.zeros(4, dtype=dtype)).dtype == torch.float64


def test_solution_of_a_batch_is_that_of_its_samples(poisson_2d, generator):
    z = poisson_2d.prior.sample((2, 3), generator=generator)
    one_by_one = torch.stack([poisson_2d.solve(sample) for sample in z.reshape(6, 4)])
    # The same operations on the same numbers, perhaps in another order.
    torch.testing.assert_close(
        poisson_2d.solve(z), one_by_one.reshape(2, 3, 81), rtol=1e-11, atol=1e-13
    )


def test_solution_is_exact_at_the_nodes_in_one_dimension(poisson_1d, generator):
    z = poisson_1d.prior.sample((5,), generator=generator)
    x = torch.from_numpy(poisson_1d.space.dof_points[:, 0])
    exact = (1 - x**2) / (2 * softplus(z)) + 0.25 * (1 + x)
    # Linear elements with an exact load are exact at the nodes; condition number 200 x round-off.
    torch.testing.assert_close(poisson_1d.solve(z), exact, rtol=1e-12, atol=1e-12)


@batches
def test_residual_vanishes_at_the_solution(poisson_2d, generator, batch):
    z = poisson_2d.prior.sample(batch, generator=generator)
    residual = poisson_2d.residual(poisson_2d.solve(z), z)
    assert residual.shape == (*batch, 49)
    # The entries of the load are 10 / 64: round-off of products with a stiffness of size 10.
    torch.testing.assert_close(residual, torch.zeros(*batch, 49).double(), rtol=0, atol=1e-13)


def test_solution_has_the_least_energy(poisson_2d, generator):
    z = poisson_2d.prior.sample((4,), generator=generator)
    u = poisson_2d.solve(z)
    step = torch.zeros_like(u)
    step[:, poisson_2d.free_dofs] = 0.01
    assert (poisson_2d.energy(u + step, z) > poisson_2d.energy(u, z)).all()
    assert (poisson_2d.energy(u - step, z) > poisson_2d.energy(u, z)).all()


def test_solving_changes_no_argument(poisson_2d):
    z = torch.ones(2, 4, dtype=torch.float64)
    poisson_2d.solve(z)
    assert torch.equal(z, torch.ones_like(z))


# Residuals


@pytest.mark.parametrize(
    ("u_batch", "z_batch", "batch"),
    [((3,), (), (3,)), ((), (3,), (3,)), ((2, 1), (3,), (2, 3)), ((), (), ())],
)
def test_batches_of_u_and_z_are_broadcast(poisson_2d, generator, u_batch, z_batch, batch):
    u = torch.randn(*u_batch, 81, generator=generator, dtype=torch.float64)
    z = poisson_2d.prior.sample(z_batch, generator=generator)
    expected = poisson_2d.residual(u.expand(*batch, 81), z.expand(*batch, 4))
    assert poisson_2d.residual(u, z).shape == (*batch, 49)
    # The same operations on the same numbers, perhaps in another order.
    torch.testing.assert_close(poisson_2d.residual(u, z), expected, rtol=1e-13, atol=1e-13)


def test_energies_of_u_and_z_are_broadcast(poisson_2d):
    u, z = torch.ones(2, 1, 81), torch.zeros(3, 4)
    assert poisson_2d.energy(u, z).shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_residual_has_the_dtype_of_u(poisson_2d, dtype):
    u = torch.ones(81, dtype=dtype)
    assert poisson_2d.residual(u, double(0, 0, 0, 0)).dtype == dtype


def test_single_precision_residual_is_close_to_the_double_one(poisson_2d, generator):
    u = torch.randn(5, 81, generator=generator, dtype=torch.float64)
    z = poisson_2d.prior.sample((5,), generator=generator)
    # Ten additions of numbers of size ten in single precision: 10 * 10 * 6e-8.
    torch.testing.assert_close(
        poisson_2d.residual(u.float(), z).double(), poisson_2d.residual(u, z), rtol=0, atol=1e-5
    )


# Dirichlet values


def ends(problem, *z):
    u = problem.solve(double(*z))
    return u[0].item(), u[-1].item()


@pytest.mark.parametrize("value", [0.1, 2.0, -1 / 3])
def test_boundary_value_is_the_number_given(value):
    problem = make(pddlvm.Dirichlet("left", value), pddlvm.Dirichlet("right", -value))
    assert ends(problem, 1.5) == (value, -value)


def test_boundary_value_is_zero_by_default():
    problem = make(pddlvm.Dirichlet("left", 1.0), pddlvm.Dirichlet("right"))
    assert ends(problem, 1.5) == (1.0, 0.0)


def test_boundary_without_a_name_is_all_of_it():
    assert ends(make(pddlvm.Dirichlet(None, 2.0)), 1.5) == (2.0, 2.0)


def test_boundary_value_may_depend_on_x():
    problem = make(pddlvm.Dirichlet(None, lambda x: 1 + 2 * x[0] - x[1]), space=SQUARE)
    x = torch.from_numpy(SQUARE.dof_points)
    # A patch test: the linear function solves the problem; condition number 10 x round-off.
    torch.testing.assert_close(
        problem.solve(double(1.5)), 1 + 2 * x[:, 0] - x[:, 1], rtol=0, atol=1e-13
    )


def test_boundary_value_may_be_a_parameter():
    problem = make(
        pddlvm.Dirichlet("left", lambda x, g: 2 * g),
        pddlvm.Dirichlet("right", lambda x, g: x[0] + g),
        g=pddlvm.Constant(pddlvm.Normal()),
    )
    assert ends(problem, 1.5, 0.3) == (0.6, 1.3)


def test_boundary_value_is_differentiable_in_its_parameter():
    problem = make(pddlvm.Dirichlet(None, lambda x, g: g**2), g=pddlvm.Constant(pddlvm.Normal()))
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    z = double(1.5, 0.3)[None].requires_grad_()
    # The defaults of gradcheck are made for central differences in float64.
    assert torch.autograd.gradcheck(operators.lift, (z,))


def test_boundary_value_may_be_a_known_number():
    problem = make(pddlvm.Dirichlet(None, lambda x, g: 2 * g), g=0.25)
    assert ends(problem, 1.5) == (0.5, 0.5)


def test_boundary_value_may_be_a_field_of_x():
    field = pddlvm.Chebyshev(prior=pddlvm.Normal(), n_terms=2, low=0.0, high=1.0)
    problem = make(pddlvm.Dirichlet(None, lambda x, g: g), g=field)
    # T_0 + 3 T_1 at the two ends of [0, 1].
    assert ends(problem, 1.5, 1.0, 3.0) == (-2.0, 4.0)


def test_boundary_value_may_be_a_piecewise_field():
    field = pddlvm.Piecewise.on_blocks(LINE, (2,), prior=pddlvm.Normal())
    problem = make(pddlvm.Dirichlet(None, lambda x, g: g), g=field)
    assert ends(problem, 1.5, 3.0, 5.0) == (3.0, 5.0)


def test_boundary_values_vary_over_the_batch():
    problem = make(pddlvm.Dirichlet(None, lambda x, g: g), g=pddlvm.Constant(pddlvm.Normal()))
    u = problem.solve(double([1.5, 0.3], [1.5, 0.7], [1.0, 0.7]))
    assert u[:, 0].tolist() == [0.3, 0.7, 0.7]


def test_later_condition_wins_where_two_boundaries_meet():
    conditions = [pddlvm.Dirichlet("left", 1.0), pddlvm.Dirichlet("top", 2.0)]
    corner = torch.from_numpy((SQUARE.dof_points == [0, 1]).all(axis=1))
    for values in (conditions, conditions[::-1]):
        u = make(*values, space=SQUARE).solve(double(1.5))
        assert u[corner].item() == values[-1].value


def test_lifting_is_zero_at_the_free_degrees_of_freedom(poisson_1d):
    operators = poisson_1d.discretisation(torch.float64, torch.device("cpu"))
    lift = operators.lift(double([0.0], [1.0]))
    assert torch.count_nonzero(lift[:, poisson_1d.free_dofs]) == 0
    assert lift[:, -1].tolist() == [0.5, 0.5]


# Vector problems


def plane_strain(u, du, x, kappa):
    strain = 0.5 * (du + du.T)
    return kappa * (strain * strain).sum() + 0.5 * kappa * strain.trace() ** 2


def elasticity(value, degree=1):
    space = fem.Space(fem.unit_square(3), degree, n_components=2)
    return pddlvm.Problem(
        "elasticity",
        space,
        [pddlvm.Energy(space.interior(), plane_strain)],
        fields={"kappa": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))},
        dirichlet=[pddlvm.Dirichlet(None, value)],
    )


@pytest.mark.parametrize("degree", [1, 2])
def test_translation_of_the_boundary_translates_the_inside(degree):
    problem = elasticity(lambda x: x.new_tensor([2.0, -3.0]), degree)
    u = problem.solve(double(1.5))[torch.from_numpy(problem.space.vertex_dofs)]
    # Condition number 100 x round-off.
    torch.testing.assert_close(u, double(2.0, -3.0).expand(16, 2), rtol=0, atol=1e-13)


@pytest.mark.parametrize("degree", [1, 2])
def test_homogeneous_deformation_of_the_boundary_deforms_the_inside(degree):
    gradient = double([0.1, 0.3], [-0.2, 0.4])
    problem = elasticity(lambda x: gradient.to(x) @ x, degree)
    u = problem.solve(double(1.5))[torch.from_numpy(problem.space.vertex_dofs)]
    x = torch.from_numpy(problem.space.mesh.p.T.copy())
    # Condition number 100 x round-off.
    torch.testing.assert_close(u, x @ gradient.T, rtol=0, atol=1e-13)


def test_number_on_the_boundary_holds_for_each_component():
    u = elasticity(0.5).solve(double(1.5))
    # Condition number 100 x round-off.
    torch.testing.assert_close(u, torch.full_like(u, 0.5), rtol=0, atol=1e-13)


# Parameter fields


@batches
def test_parameter_field_has_one_value_per_cell(poisson_2d, generator, batch):
    z = poisson_2d.prior.sample(batch, generator=generator)
    assert poisson_2d.parameter_field(z).shape == (*batch, 128)


def test_parameter_field_of_a_constant(poisson_1d):
    z = double([0.3], [-1.0])
    expected = softplus(z).expand(2, 20)
    assert torch.equal(poisson_1d.parameter_field(z), expected)


def test_parameter_field_is_the_field_at_the_centroids(poisson_2d, generator):
    z = poisson_2d.prior.sample((3,), generator=generator)
    field = poisson_2d.fields["kappa"].at(poisson_2d.space.centroids)
    assert torch.equal(poisson_2d.parameter_field(z), field(z))


def test_parameter_field_by_name_is_not_the_first_one():
    field = pddlvm.Chebyshev(prior=pddlvm.Normal(), n_terms=2, low=0.0, high=1.0)
    problem = make(pddlvm.Dirichlet(None, lambda x, g: g), g=field)
    x = torch.from_numpy(LINE.centroids.x[:, 0])
    values = problem.parameter_field(double(1.5, 0.2, 3.0), "g")
    # 0.2 T_0 + 3 T_1 on [0, 1]: round-off.
    torch.testing.assert_close(values, 0.2 + 3 * (2 * x - 1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameter_field_has_the_dtype_of_z(poisson_2d, dtype):
    assert poisson_2d.parameter_field(torch.zeros(4, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("name", ["f", "nothing"])
def test_parameter_field_of_another_name_is_refused(poisson_1d, name):
    with pytest.raises(InputError, match=rf"'{name}'.*'kappa'"):
        poisson_1d.parameter_field(double(0.0), name)


# Identity


def test_fingerprint_is_that_of_an_equal_problem(poisson_2d):
    assert poisson.make(8, n_terms=4).fingerprint == poisson_2d.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        poisson.make(7, n_terms=4),
        poisson.make(8, n_terms=3),
        poisson.make(8, 4, dirichlet={"left": 0}),
    ],
    ids=["mesh", "parameters", "boundary"],
)
def test_fingerprint_differs_for_another_problem(poisson_2d, other):
    assert other.fingerprint != poisson_2d.fingerprint


@pytest.mark.parametrize("source", [10.0, 11.0])
def test_probe_marks_the_physics(poisson_2d, source):
    other = poisson.make(8, n_terms=4, source=source)
    # The same sums of the same numbers; another source changes one row by ten per cent.
    size = poisson_2d.probe[:, 0].clamp(min=1e-300)
    difference = (other.probe - poisson_2d.probe).norm(dim=1) / size
    assert (difference.max() < 1e-12) if source == 10.0 else (difference.max() > 0.09)


def test_problem_with_its_own_states_is_the_same(poisson_2d, generator):
    states = {name: field.state for name, field in poisson_2d.random_fields.items()}
    z = poisson_2d.prior.sample((2,), generator=generator)
    assert torch.equal(poisson_2d.with_states(states).solve(z), poisson_2d.solve(z))


def test_problem_with_other_states_follows_them(poisson_2d, generator):
    state = poisson_2d.fields["kappa"].state
    flipped = poisson_2d.with_states({"kappa": {**state, "modes": -state["modes"]}})
    z = poisson_2d.prior.sample((2,), generator=generator)
    assert torch.equal(flipped.solve(-z), poisson_2d.solve(z))


# Wrong arguments

WRONG_PARAMETERS = {
    "too few": (torch.zeros(3), r"4 parameters.*\(3,\)"),
    "too many": (torch.zeros(2, 5), r"4 parameters.*\(2, 5\)"),
    "a number": (torch.tensor(0.0), r"4 parameters.*\(\)"),
    "integers": (torch.zeros(4, dtype=torch.int64), r"torch.int64"),
    "a text": ("0, 0, 0, 0", "str"),
    "NaN": (torch.tensor([0, 0, torch.nan, 0]), "not finite"),
    "infinity": (torch.tensor([0, 0, torch.inf, 0]), "not finite"),
}


@pytest.mark.parametrize(("z", "message"), WRONG_PARAMETERS.values(), ids=WRONG_PARAMETERS)
@pytest.mark.parametrize("method", ["solve", "parameter_field", "residual", "energy"])
def test_wrong_parameters_are_refused(poisson_2d, z, message, method):
    arguments = (torch.zeros(81), z) if method in ("residual", "energy") else (z,)
    with pytest.raises(InputError, match=message):
        getattr(poisson_2d, method)(*arguments)


WRONG_SOLUTIONS = {
    "free ones only": (torch.zeros(49), r"81 degrees of freedom.*\(49,\)"),
    "a number": (torch.tensor(0.0), r"81 degrees of freedom.*\(\)"),
    "integers": (torch.zeros(81, dtype=torch.int64), "floating-point"),
    "a text": ("0", "floating-point"),
    "NaN": (torch.full((81,), torch.nan), "not finite"),
    "infinity": (torch.full((2, 81), torch.inf), "not finite"),
}


@pytest.mark.parametrize(("u", "message"), WRONG_SOLUTIONS.values(), ids=WRONG_SOLUTIONS)
@pytest.mark.parametrize("method", ["residual", "energy"])
def test_wrong_solutions_are_refused(poisson_2d, u, message, method):
    with pytest.raises(InputError, match=message):
        getattr(poisson_2d, method)(u, torch.zeros(4))


@pytest.mark.parametrize("method", ["residual", "energy"])
def test_batches_that_do_not_fit_are_refused(poisson_2d, method):
    with pytest.raises(InputError):
        getattr(poisson_2d, method)(torch.zeros(3, 81), torch.zeros(2, 4))


@pytest.mark.parametrize("value", [0.9, 2.1])
@pytest.mark.parametrize("method", ["solve", "parameter_field"])
def test_parameters_outside_their_support_are_refused(value, method):
    problem = make(pddlvm.Dirichlet(None))
    with pytest.raises(SupportError, match=rf"'kappa': {value}.*Uniform"):
        getattr(problem, method)(double(value))


def test_negative_log_normal_parameter_is_refused():
    problem = make(pddlvm.Dirichlet(None, lambda x, g: g), g=pddlvm.Constant(pddlvm.LogNormal()))
    with pytest.raises(SupportError, match=r"'g': -1 .*LogNormal"):
        problem.solve(double(1.5, -1.0))


# Wrong problems


def test_problem_without_dirichlet_boundary_is_refused():
    with pytest.raises(ProblemError, match="no Dirichlet boundary"):
        make()


def conduction(u, du, x, k):
    return 0.5 * k * (du * du).sum() - u


def robin(u, du, x):
    return 0.5 * 3.0 * u**2


def reaction(u, du, x):
    return 0.5 * u**2 - u * x[0]


def without_dirichlet(name):
    space = fem.Space(fem.interval(4))
    held = {
        "Robin": pddlvm.Energy(space.boundary("left"), robin),
        "reaction": pddlvm.Energy(space.interior(), reaction),
    }
    terms = [pddlvm.Energy(space.interior(), conduction), held[name]]
    return pddlvm.Problem(name, space, terms, {"k": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))})


def test_a_robin_condition_holds_a_problem_without_dirichlet_boundary():
    problem = without_dirichlet("Robin")
    # k u'(0) = 3 u(0) = 1, the whole load.
    u = problem.solve(double(1.5))
    assert float(u[0]) == pytest.approx(1 / 3, rel=1e-12)


def test_a_model_needs_no_dirichlet_boundary(tmp_path):
    problem = without_dirichlet("reaction")
    model = pddlvm.LatentVariableModel(problem)
    pddlvm.train(model, max_steps=160, calibrate=False)
    z = problem.prior.sample((4,), seed=0)
    u = problem.solve(z)
    # Both maps of one parameter are smooth functions: 160 steps give two digits and more.
    assert float((model.forward(z).mean - u).abs().max()) < 0.01 * float(u.abs().max())
    assert float((model.inverse(u).mean - z).abs().max()) < 0.05
    torch.testing.assert_close(model.refine(z).u, u, rtol=1e-8, atol=0.0)
    model.save(tmp_path / "a.pt")
    torch.testing.assert_close(
        pddlvm.load(tmp_path / "a.pt", problem).forward(z).mean, model.forward(z).mean
    )


def test_dirichlet_boundary_that_the_mesh_lacks_is_refused():
    with pytest.raises(MeshError, match=r"'rim'.*'left', 'right'"):
        make(pddlvm.Dirichlet("rim"))


def test_dirichlet_value_of_an_unknown_field_is_named():
    with pytest.raises(ProblemError, match=r"'pressure'.*'kappa'"):
        make(pddlvm.Dirichlet(None, lambda x, pressure: pressure))


def test_problem_without_free_degree_of_freedom_is_refused():
    with pytest.raises(ProblemError, match="no free degree of freedom"):
        make(pddlvm.Dirichlet(None), space=fem.Space(fem.interval(1)))


def test_problem_without_parameters_is_refused():
    with pytest.raises(InputError, match="at least one uncertain parameter"):
        make(pddlvm.Dirichlet(None), kappa=1.0)


def test_problem_without_terms_is_refused():
    fields = {"kappa": pddlvm.Constant(pddlvm.Normal())}
    with pytest.raises(ProblemError):
        pddlvm.Problem("test", LINE, [], fields, [pddlvm.Dirichlet(None)])


def test_energy_of_a_flux_problem_is_refused():
    problem = pddlvm.Problem(
        "test",
        LINE,
        [pddlvm.Energy(LINE.interior(), diffusion), pddlvm.Flux(LINE.interior(), flux)],
        fields={"kappa": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))},
        dirichlet=[pddlvm.Dirichlet(None)],
    )
    assert not problem.has_potential
    with pytest.raises(ProblemError, match="no energy"):
        problem.energy(torch.zeros(5), double(1.5))


def rollers(*conditions):
    space = fem.Space(fem.unit_square(3), n_components=2)
    return pddlvm.Problem(
        "rollers",
        space,
        [pddlvm.Energy(space.interior(), lambda u, du, x, k: k * (du * du).sum())],
        {"k": pddlvm.Constant(pddlvm.LogNormal())},
        conditions,
    )


def test_one_component_may_be_prescribed_alone():
    problem = rollers(
        pddlvm.Dirichlet("left", 1.0, component=0), pddlvm.Dirichlet("bottom", 2.0, component=1)
    )
    assert len(problem.fixed_dofs) == 8
    u = problem.solve(torch.ones(1, dtype=torch.float64))
    at, component = problem.space.dof_points, problem.space.dof_components
    # Without other loads the solution is constant.
    np.testing.assert_allclose(u.numpy(), np.where(component == 0, 1.0, 2.0), rtol=1e-12)
    on_left = (at[:, 0] == 0) & (component == 0)
    assert set(np.flatnonzero(on_left)) <= set(problem.fixed_dofs)


@pytest.mark.parametrize("component", [-1, 2])
def test_a_component_that_u_does_not_have_is_refused(component):
    with pytest.raises(pddlvm.ProblemError, match="component"):
        rollers(pddlvm.Dirichlet("left", component=component))


def one_term(term_of, fields=None):
    space = fem.Space(fem.unit_square(2))
    return pddlvm.Problem(
        "mistaken",
        space,
        [term_of(space.interior())],
        {"k": pddlvm.Constant(pddlvm.LogNormal())} if fields is None else fields,
        [pddlvm.Dirichlet(None)],
    )


def returns_a_vector(u, du, x, k):
    return k * du


def branches(u, du, x, k):
    return k * (du @ du) if k > 1 else u


def forgets_f1(u, du, x, k):
    return k * u


def short_flux(u, du, x, k):
    return 0 * u, du[:1]


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        (pddlvm.Energy, returns_a_vector),
        (pddlvm.Energy, branches),
        (pddlvm.Flux, forgets_f1),
        (pddlvm.Flux, short_flux),
    ],
)
def test_a_mistake_in_a_point_function_is_named(kind, function):
    with pytest.raises(pddlvm.ProblemError, match=function.__name__):
        one_term(lambda cells: kind(cells, function))


def test_a_prior_is_no_field():
    with pytest.raises(pddlvm.ProblemError, match="Constant"):
        one_term(lambda cells: pddlvm.Energy(cells, returns_a_vector), {"k": pddlvm.LogNormal()})


def test_one_term_alone_is_no_list():
    space = fem.Space(fem.unit_square(2))
    with pytest.raises(pddlvm.ProblemError, match="brackets"):
        pddlvm.Problem(
            "alone",
            space,
            pddlvm.Energy(space.interior(), returns_a_vector),
            {"k": pddlvm.Constant(pddlvm.LogNormal())},
            [pddlvm.Dirichlet(None)],
        )


def test_probe_marks_the_boundary_values():
    values = (0.0, 1.0, lambda x: 2 * x[0])
    probes = {tuple(boundary_problem(value).probe.flatten().tolist()) for value in values}
    assert len(probes) == 3


def boundary_problem(value):
    space = fem.Space(fem.interval(4))
    return pddlvm.Problem(
        "ends",
        space,
        [pddlvm.Energy(space.interior(), lambda u, du, x, k: k * (du * du).sum())],
        {"k": pddlvm.Constant(pddlvm.LogNormal())},
        [pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right", value)],
    )


def test_the_ready_problem_without_a_source_is_loaded_by_its_ends():
    problem = poisson.make(4, n_terms=2, source=0.0, dirichlet={"left": 0.0, "right": 1.0})
    assert problem.solve(problem.prior.sample((1,), seed=0)).abs().max() > 0.9
