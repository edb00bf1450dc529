"""Derivatives by z or u: those of the forward map are right, all others are refused, not zero."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import pddlvm
from problems import nonlinear_poisson, pinn, poisson, thermal_block

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
        "solve": (model.problem.solve, z),
        "inverse": (lambda u: model.inverse(u).mean, u),
    }
    if isinstance(model, pddlvm.GalerkinModel):
        found["refine"] = (lambda z: model.refine(z).u, z)
        found["start"] = (lambda u: model.refine(z, u=u).u, u)
    else:
        found["forward"] = (lambda z: model.forward(z).mean, z)
    return found


def trained(problem: pddlvm.Problem) -> pddlvm.LatentVariableModel:
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
}


def quantity_of(problem: pddlvm.Problem, name: str) -> pddlvm.Quantity:
    """Several rows, and functions of u, and of u and z."""
    n = problem.n_dofs
    functional = {
        "averages": torch.linspace(-1, 1, 2 * n, dtype=torch.float64).reshape(2, n),
        "maximum": lambda u: u.amax(-1, keepdim=True),
        "mixed": lambda u, z: torch.stack([(u**2).sum(-1) * z[:, 0], u[:, n // 3] ** 3], -1),
    }[name]
    return pddlvm.Quantity(problem, functional, name)


QUANTITIES: dict[tuple[int, str], pddlvm.Quantity] = {}


def answer_of(name: str, part: str, forward: Any) -> Tensor:
    """Of a quantity, whose law is fitted once."""
    problem = forward.representation.problem
    key = id(problem), name
    if key not in QUANTITIES:
        QUANTITIES[key] = quantity_of(problem, name)
    return getattr(forward.of(QUANTITIES[key]), part)


ANSWERS = {
    "mean": lambda forward: forward.mean,
    "std": lambda forward: forward.std,
    "certificate": lambda forward: forward.residual_norm,
    **{
        f"{part} of {name}": partial(answer_of, name, part)
        for name in ("averages", "maximum", "mixed")
        for part in ("mean", "std")
    },
}


@pytest.fixture(scope="module", params=MAKE)
def differentiable(request) -> pddlvm.LatentVariableModel:
    return trained(MAKE[request.param]())


@pytest.mark.parametrize("corrections", [0, 1])
@pytest.mark.parametrize("answer", ANSWERS)
def test_derivatives_of_the_forward_map_are_those_of_differences(
    differentiable, answer, corrections
):
    model, read = differentiable, ANSWERS[answer]
    prior, generator = model.problem.prior, torch.Generator().manual_seed(1)
    is_linear = model.problem.is_linear
    # A solution in the basis has the derivative of one, and few steps from afar have not.
    n = corrections if is_linear else 4 * corrections
    z = prior.sample((2,), seed=3)
    along = prior.units[1] * torch.randn(z.shape, generator=generator, dtype=z.dtype)

    there = read(model.forward(z, corrections=n))
    weights = torch.randn(there.shape, generator=generator, dtype=z.dtype) / there.norm()

    def total(z: Tensor) -> Tensor:
        return (read(model.forward(z, corrections=n)) * weights).sum()

    at = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(total(at), at)
    h = 1e-4
    difference = (total(z + h * along) - total(z - h * along)) / (2 * h)
    torch.testing.assert_close((slope * along).sum(), difference, rtol=1e-3, atol=1e-6)


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


def test_a_derivative_of_a_derivative_of_a_correction_is_refused():
    model = trained(poisson.make(4, n_terms=2))
    z = model.problem.prior.sample(seed=0).requires_grad_()
    for read in ANSWERS.values():
        with pytest.raises(pddlvm.InputError, match="first derivatives only"):
            torch.autograd.grad(read(model.forward(z, 1)).sum(), z, create_graph=True)


def test_jacobians_by_rows_and_quantities(differentiable):
    problem = differentiable.problem
    z = problem.prior.sample(seed=4)
    found = torch.autograd.functional.jacobian(lambda x: differentiable.forward(x).mean, z)
    assert found.shape == (problem.n_dofs, problem.n_parameters)
    quantity = pddlvm.Quantity(problem, torch.ones(1, problem.n_dofs, dtype=z.dtype), "sum")
    own = torch.autograd.functional.jacobian(lambda x: quantity(differentiable.forward(x).mean), z)
    torch.testing.assert_close(own[0], found.sum(0))


def test_bounds_of_quantities_have_no_derivative(differentiable):
    quantity = quantity_of(differentiable.problem, "averages")
    z = differentiable.problem.prior.sample(seed=0).requires_grad_()
    with pytest.raises(pddlvm.InputError, match="error_bound has none"):
        _ = differentiable.forward(z).of(quantity).bound


@pytest.mark.parametrize("name", ["error_bound", "error_interval", "stability"])
def test_bounds_have_no_derivative_and_say_so(differentiable, name):
    z = differentiable.problem.prior.sample(seed=0)
    getattr(differentiable.forward(z), name)
    with pytest.raises(pddlvm.InputError, match="error_bound has none"):
        getattr(differentiable.forward(z.requires_grad_()), name)


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
    from problems import shell

    problem = shell.make_roof(4)
    z, u = problem.prior.sample(seed=0), torch.zeros(problem.n_dofs, dtype=torch.float64)
    with pytest.raises(pddlvm.InputError, match="u requires a gradient"):
        pddlvm.shell_stresses(problem, u.requires_grad_(), z)


def test_where_gradients_are_off_nothing_is_asked_for(model):
    z = model.problem.prior.sample((1,), seed=0).requires_grad_()
    with torch.no_grad():
        assert torch.equal(model.forward(z).mean, model.forward(z.detach()).mean)
