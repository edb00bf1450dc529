"""Derivatives by z or u that nobody computes are refused, instead of being zero."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import pddlvm
from problems import pinn, poisson

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
        "forward": (lambda z: model.forward(z).mean, z),
        "solve": (model.problem.solve, z),
        "inverse": (lambda u: model.inverse(u).mean, u),
    }
    if isinstance(model, pddlvm.GalerkinModel):
        found["refine"] = (lambda z: model.refine(z).u, z)
        found["start"] = (lambda u: model.refine(z, u=u).u, u)
    return found


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
