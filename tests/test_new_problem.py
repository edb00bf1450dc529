"""The page on new problems: its code runs, and its elasticity converges as linear elements do."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import grad, jacrev

import pddlvm
from pddlvm import fem

PAGE = Path(__file__).parent.parent / "docs" / "new_problem.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def page() -> dict:
    """The names that the first block of the page defines."""
    variables: dict = {}
    exec(BLOCKS[0], variables)
    return variables


def test_the_problem_is_as_short_as_the_page_says():
    statements = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(statements) <= 36


@pytest.mark.slow
def test_code_of_the_page_runs():
    code = re.sub(r"max_seconds=\d+", "max_steps=30", "\n".join(BLOCKS))
    code = code.replace("make()", "make(6)").replace("validate(model,", "validate(model, 8,")
    variables: dict = {}
    exec(code, variables)
    assert variables["forward"].mean.shape == (variables["problem"].n_dofs,)
    # The known load is certain.
    assert variables["inverse"].std[-1] == 0


def displacement(x):
    return torch.stack([torch.sin(2 * x[0]) * torch.cos(x[1]), x[0] * x[1] + torch.sin(2 * x[1])])


def error(page, n: int) -> float:
    """L2 error of the displacement for a body force that belongs to a smooth solution."""

    def stress(x):
        du = jacrev(displacement)(x)
        return grad(lambda e: page["strain_energy"](displacement(x), e, x, torch.ones(())))(du)

    def body_force(x):
        return -torch.einsum("ijj->i", jacrev(stress)(x))

    space = fem.Space(fem.unit_square(n), n_components=2)
    problem = pddlvm.Problem(
        "manufactured",
        space,
        [
            pddlvm.Energy(space.interior(), page["strain_energy"]),
            pddlvm.Energy(space.interior(), lambda u, du, x, E: -E * (body_force(x) * u).sum()),
        ],
        {"E": pddlvm.Constant(pddlvm.LogNormal())},
        [pddlvm.Dirichlet(None, displacement)],
    )
    u = problem.solve(torch.ones(1, dtype=torch.float64)).numpy()
    fine = fem.Space(space.mesh, n_components=2, quadrature=6).interior()
    values = (fine.matrix @ u).reshape(-1, fine.shape[2])[:, :2]
    exact = torch.vmap(displacement)(torch.from_numpy(fine.points.x)).numpy()
    return float(np.sqrt(fine.weights.ravel() @ ((values - exact) ** 2).sum(axis=1)))


def test_elasticity_converges_with_second_order(page):
    errors = [error(page, n) for n in (8, 16, 32)]
    # Linear elements: two, within the 0.15 that three meshes can tell.
    assert abs(np.log2(errors[1] / errors[2]) - 2) < 0.15
