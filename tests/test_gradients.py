"""Derivatives by z or u: those of the forward map are right, all others are refused, not zero."""

import math
from collections.abc import Callable
from functools import cache

import parabolic
import pytest
import torch
from checks import slope_test
from torch import Tensor
from torch.autograd import forward_ad

import pddlvm
from problems import nonlinear_heat, nonlinear_poisson, pinn, poisson, shell, thermal_block

Function = Callable[[Tensor], Tensor]


def strong_form() -> pddlvm.LatentVariableModel:
    problem = pinn.make_heat(grid=(9, 9))
    return pddlvm.LatentVariableModel(problem, n_functions=8)


@pytest.fixture(scope="module", params=["finite elements", "strong form"])
def model(request) -> pddlvm.LatentVariableModel:
    if request.param == "strong form":
        return strong_form()
    return pddlvm.LatentVariableModel(poisson.make(4, n_terms=2), basis=pddlvm.Nodal())


def functions(model: pddlvm.LatentVariableModel) -> dict[str, tuple[Function, Tensor]]:
    """Each function of z or u that computes without a graph, and where to differentiate it."""
    z = model.problem.prior.sample((1,), seed=0)
    u = torch.zeros(1, model.problem.n_dofs, dtype=torch.float64)
    found = {
        "inverse": (lambda u: model.inverse(u).mean, u),
    }
    if isinstance(model, pddlvm.GalerkinModel):
        found["refine"] = (lambda z: model.refine(z).u, z)
        found["start"] = (lambda u: model.refine(z, u=u).u, u)
    return found


BOX = pddlvm.Box(x=(-1.0, 1.0), t=(0.0, 0.5))


def moving_layer(**changes: object) -> pddlvm.CollocationProblem:
    """Stretch, start and equation follow z; an end is held by a condition."""
    arguments = {
        "fields": {
            "nu": pddlvm.Constant(pddlvm.Uniform(0.2, 0.4)),
            "size": pddlvm.Constant(pddlvm.Uniform(0.5, 1.0)),
        },
        "lift": lambda x, size: -size * torch.sin(math.pi * x),
        "hard": [BOX.start("t"), BOX.start("x")],
        "conditions": [pddlvm.Condition(BOX.end("x"), lambda u, size, t: u - 0.1 * size * t)],
        "stretch": {"x": pddlvm.Sinh(0.0, lambda nu: 2 * nu)},
        "residual_scale": lambda u_x: (1 + u_x * u_x).sqrt(),
        "grid": (9, 7),
        "nodes": (16, 9),
    }
    return pddlvm.CollocationProblem(
        "layer", BOX, lambda u, u_t, u_x, u_xx, nu: u_t + u * u_x - nu * u_xx, **arguments | changes
    )


def two_unknowns() -> pddlvm.CollocationProblem:
    def coupled(u, u_t, u_xx, v, v_t, v_xx, nu, size):  # type: ignore[no-untyped-def]
        return u_t - nu * u_xx + u * v, v_t - 0.1 * v_xx - size * u

    return pddlvm.CollocationProblem(
        "coupled",
        BOX,
        coupled,
        {
            "nu": pddlvm.Constant(pddlvm.Uniform(0.2, 0.4)),
            "size": pddlvm.Constant(pddlvm.Uniform(0.5, 1.0)),
        },
        unknowns=("u", "v"),
        lift=lambda x, size: (size * torch.cos(0.5 * math.pi * x), 0.0),
        hard=[BOX.start("t"), BOX.start("x"), BOX.end("x")],
        grid=(9, 7),
        nodes=(12, 8),
    )


def trained(
    problem: pddlvm.Problem | pddlvm.CollocationProblem,
) -> pddlvm.LatentVariableModel:
    if isinstance(problem, pddlvm.CollocationProblem):
        model = pddlvm.LatentVariableModel(problem, n_functions=16, seed=0, dtype=torch.float64)
        pddlvm.train(model, max_steps=20, calibrate=False)
    else:
        # A certificate of all modes would be nothing but rounding.
        basis = pddlvm.ResidualEnriched(8)
        model = pddlvm.LatentVariableModel(problem, basis=basis, seed=0, dtype=torch.float64)
        pddlvm.train(model, max_steps=10, calibrate=False)
    model.calibrate(64)
    return model


MAKE = {
    "linear": lambda: poisson.make(8, n_terms=3),
    "sum of few parts": lambda: thermal_block.make(n=12),
    "nonlinear": lambda: nonlinear_poisson.make(6, n_terms=3),
    "no potential": lambda: nonlinear_poisson.make_advection_diffusion(6, 2),
    "strong form": moving_layer,
    "strong form, two unknowns": two_unknowns,
}
ANSWERS = {
    "mean": lambda forward: forward.mean,
    "std": lambda forward: forward.std,
    "certificate": lambda forward: forward.residual_norm,
}


IN_STRONG_FORM = {"strong form", "strong form, two unknowns"}


@cache
def made(name: str) -> pddlvm.LatentVariableModel:
    return trained(MAKE[name]())


@pytest.fixture(params=MAKE)
def differentiable(request) -> pddlvm.LatentVariableModel:
    return made(request.param)


@pytest.fixture(params=sorted(MAKE.keys() - IN_STRONG_FORM))
def finite_elements(request) -> pddlvm.LatentVariableModel:
    return made(request.param)


@pytest.mark.parametrize("corrections", [0, 1])
@pytest.mark.parametrize("answer", ANSWERS)
def test_derivatives_of_the_forward_map_are_those_of_differences(
    differentiable, answer, corrections
):
    model, prior = differentiable, differentiable.problem.prior
    is_linear = getattr(model.problem, "is_linear", False)
    # A solution in the basis has the derivative of one, and few steps from afar have not.
    n = corrections if is_linear else 4 * corrections
    slope_test(
        lambda z: ANSWERS[answer](model.forward(z, corrections=n)),
        prior.sample((2,), seed=3),
        prior.units[1],
        rtol=1e-3,
        atol=1e-6,
    )


def test_what_is_held_has_no_derivative_and_makes_no_nan():
    model = trained(poisson.make(4, n_terms=2))
    z = model.problem.prior.sample(seed=0).requires_grad_()
    forward = model.forward(z, corrections=1)
    (slope,) = torch.autograd.grad(forward.std.sum() + forward.mean.sum(), z)
    assert torch.isfinite(slope).all()
    fixed = torch.from_numpy(model.problem.fixed_dofs)
    assert (forward.std[fixed] == 0).all()


def test_what_a_graph_changes_is_nothing_but_the_graph(differentiable):
    z = differentiable.problem.prior.sample((3,), seed=5)
    for n in (0, 1):
        plain, recorded = (differentiable.forward(x, n) for x in (z, z.clone().requires_grad_()))
        for read in ANSWERS.values():
            # A correction without a graph may need no mesh, and rounds in another order.
            torch.testing.assert_close(read(recorded).detach(), read(plain), rtol=1e-5, atol=1e-9)


def test_a_derivative_of_a_derivative_of_a_correction_is_refused(differentiable):
    model = differentiable
    z = model.problem.prior.sample(seed=0).requires_grad_()
    for read in ANSWERS.values():
        with pytest.raises(pddlvm.InputError, match="first derivatives only"):
            torch.autograd.grad(read(model.forward(z, 1)).sum(), z, create_graph=True)


def test_corrections_in_three_coordinates_have_no_derivative_and_say_so():
    model = pddlvm.LatentVariableModel(pinn.make_heat_2d((5, 5, 5), (6, 6, 5)), n_functions=8)
    z = model.problem.prior.sample(seed=0).requires_grad_()
    (slope,) = torch.autograd.grad(model.forward(z).mean.sum(), z)
    assert slope.abs().max() > 0
    with pytest.raises(pddlvm.InputError, match="three coordinates"):
        model.forward(z, corrections=1)


REFERENCES = {
    **{name: MAKE[name] for name in MAKE.keys() - IN_STRONG_FORM},
    "shell": lambda: shell.make_roof(4),
    "in time": lambda: parabolic.make("heat", 3, 4),
    "nonlinear in time": lambda: nonlinear_heat.make(10, n_terms=2, n_steps=10),
}


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_reference_solutions_are_differentiable(name):
    problem = REFERENCES[name]()
    z = problem.prior.sample((2,), seed=3)
    generator = torch.Generator().manual_seed(1)
    along = problem.prior.units[1] * torch.randn(z.shape, generator=generator, dtype=z.dtype)
    u = problem.solve(z)
    weights = torch.randn(u.shape, generator=generator, dtype=u.dtype) / u.norm()
    at = z.clone().requires_grad_()
    there = problem.solve(at)
    torch.testing.assert_close(there.detach(), u)
    (slope,) = torch.autograd.grad((there * weights).sum(), at)
    h = 1e-3
    ends = [(problem.solve(z + s * h * along) * weights).sum() for s in (-2, -1, 1, 2)]
    difference = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
    torch.testing.assert_close((slope * along).sum(), difference, rtol=1e-5, atol=1e-8)
    with pytest.raises(pddlvm.InputError, match="first derivatives only"):
        torch.autograd.grad(problem.solve(at).sum(), at, create_graph=True)


def test_reference_solutions_in_strong_form_have_no_derivative_and_say_so():
    problem = two_unknowns()
    with pytest.raises(pddlvm.ProblemError, match="no derivatives by z"):
        problem.solve(problem.prior.sample(seed=0).requires_grad_())


def test_jacobians_by_rows_and_quantities(differentiable):
    problem = differentiable.problem
    z = problem.prior.sample(seed=4)
    found = torch.autograd.functional.jacobian(lambda x: differentiable.forward(x).mean, z)
    assert found.shape == (problem.n_dofs, problem.n_parameters)
    quantity = pddlvm.Quantity(problem, torch.ones(1, problem.n_dofs, dtype=z.dtype), "sum")
    own = torch.autograd.functional.jacobian(lambda x: quantity(differentiable.forward(x).mean), z)
    torch.testing.assert_close(own[0], found.sum(0))


@cache
def quantity_of(made_of: str, name: str) -> pddlvm.Quantity:
    """Several rows, and functions of u, and of u and z."""
    problem = made(made_of).problem
    n = problem.n_dofs
    i = int(problem.free_dofs[3]) if isinstance(problem, pddlvm.Problem) else 7
    functional = {
        "averages": torch.linspace(-1, 1, 2 * n, dtype=torch.float64).reshape(2, n),
        "maximum": pddlvm.maximum(problem),
        "mixed": lambda u, z: torch.stack([(u**2).sum(-1) * z[:, 0], u[:, i] ** 3], -1),
    }[name]
    return pddlvm.Quantity(problem, functional, name)


@pytest.mark.parametrize("corrections", [0, 1])
@pytest.mark.parametrize("part", ["mean", "std"])
@pytest.mark.parametrize("name", ["averages", "maximum", "mixed"])
@pytest.mark.parametrize(
    "made_of",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "linear"))
        for name in sorted(MAKE.keys() - IN_STRONG_FORM)
    ],
)
@pytest.mark.slow
def test_derivatives_of_quantities_are_those_of_differences(made_of, name, part, corrections):
    model = made(made_of)
    n = corrections if model.problem.is_linear else 4 * corrections
    check_quantity(model, quantity_of(made_of, name), part, n)


def check_quantity(model, quantity, part, corrections):
    z = model.problem.prior.sample((2,), seed=3)
    unit = getattr(model.forward(z, corrections).of(quantity), part).abs().mean()

    def answer(z: Tensor) -> Tensor:
        return getattr(model.forward(z, corrections).of(quantity), part) / unit

    # What adjoint solutions leave of a quantity is 1e-9 of it on these meshes, near its rounding.
    tolerances = {"eps": 1e-4, "rtol": 1e-3, "atol": 1e-4}
    assert torch.autograd.gradcheck(answer, z.requires_grad_(), **tolerances)
    torch.testing.assert_close(answer(z).detach(), answer(z.detach()), rtol=1e-5, atol=1e-9)


def test_bounds_of_quantities_have_no_derivative():
    model, quantity = made("linear"), quantity_of("linear", "averages")
    z = model.problem.prior.sample(seed=0)
    assert model.forward(z).of(quantity).bound is not None
    with pytest.raises(pddlvm.InputError, match="error_bound has none"):
        _ = model.forward(z.requires_grad_()).of(quantity).bound


@pytest.mark.parametrize("part", ["mean", "std"])
@pytest.mark.parametrize("name", ["averages", "maximum", "mixed"])
@pytest.mark.parametrize(
    "made_of",
    [
        pytest.param(name, marks=[pytest.mark.slow] * ("two" in name))
        for name in sorted(IN_STRONG_FORM)
    ],
)
def test_derivatives_of_quantities_in_strong_form_are_those_of_differences(made_of, name, part):
    check_quantity(made(made_of), quantity_of(made_of, name), part, 0)


@pytest.mark.parametrize("name", ["error_bound", "error_interval", "stability"])
def test_bounds_have_no_derivative_and_say_so(finite_elements, name):
    z = finite_elements.problem.prior.sample(seed=0)
    getattr(finite_elements.forward(z), name)
    with pytest.raises(pddlvm.InputError, match="error_bound has none"):
        getattr(finite_elements.forward(z.requires_grad_()), name)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_transforms_of_functions_are_refused(differentiable):
    z = differentiable.problem.prior.sample((1,), seed=0)
    with pytest.raises(pddlvm.InputError, match="backwards"):
        torch.func.jacrev(lambda x: differentiable.forward(x).mean)(z)
    with forward_ad.dual_level(), pytest.raises(pddlvm.InputError, match="backwards"):
        differentiable.forward(forward_ad.make_dual(z, torch.ones_like(z)))


@pytest.mark.parametrize(
    "differentiate",
    [
        lambda f, x: f(x.clone().requires_grad_()),
        lambda f, x: torch.autograd.functional.jacobian(f, x),
        lambda f, x: torch.func.jacrev(f)(x),
        lambda f, x: torch.func.vmap(torch.func.jacrev(f))(x[None]),
    ],
)
def test_derivatives_are_refused(model, differentiate):
    for function, x in functions(model).values():
        with pytest.raises(pddlvm.InputError, match=r"gradient.*detach\(\)"):
            differentiate(function, x)


# torch compiles rules of its own when forward mode is first used, by what it calls deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_forward_mode_is_refused_too(model):
    for function, x in functions(model).values():
        with forward_ad.dual_level(), pytest.raises(pddlvm.InputError, match="gradient"):
            function(forward_ad.make_dual(x, torch.ones_like(x)))


def test_stresses_have_no_derivatives_either():
    problem = shell.make_roof(4)
    z, u = problem.prior.sample(seed=0), torch.zeros(problem.n_dofs, dtype=torch.float64)
    with pytest.raises(pddlvm.InputError, match="u requires a gradient"):
        pddlvm.shell_stresses(problem, u.requires_grad_(), z)


def test_where_gradients_are_off_nothing_is_asked_for(model):
    z = model.problem.prior.sample((1,), seed=0).requires_grad_()
    with torch.no_grad():
        assert torch.equal(model.forward(z).mean, model.forward(z.detach()).mean)
