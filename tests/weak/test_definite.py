"""Operators without any norm, and problems with nothing to learn, are refused in words."""

import dataclasses

import numpy as np
import pytest
import skfem

import pddlvm
from pddlvm import fem
from pddlvm.reduced import reduction

HALF = pddlvm.Uniform(0.9, 1.1)


def two_squares() -> skfem.MeshTri:
    """Two unit squares that do not touch; the left side of the first is named."""
    one = fem.unit_square(3)
    two = dataclasses.replace(one, doflocs=one.doflocs + np.array([[2.0], [0.0]]))
    n = one.p.shape[1]
    mesh = skfem.MeshTri(np.hstack([one.p, two.p]), np.hstack([one.t, two.t + n]))
    return mesh.with_boundaries({"left": lambda x: x[0] < 1e-9})


def helmholtz(
    square: float, *, sign: float = 1.0, load: float = 1.0, prior=HALF, mesh=None, side=None
) -> pddlvm.Problem:
    """-sign div(a grad u) - square u = load."""
    space = fem.Space(mesh or fem.unit_square(6))

    def density(u, du, x, a):
        return sign * 0.5 * a * (du * du).sum() - 0.5 * square * u * u - load * u

    return pddlvm.Problem(
        "helmholtz",
        space,
        terms=[pddlvm.Energy(space.interior(), density)],
        fields={"a": pddlvm.Constant(prior)},
        dirichlet=[pddlvm.Dirichlet(side)],
    )


def floating(square: float) -> pddlvm.Problem:
    return helmholtz(square, mesh=two_squares(), side="left")


# The eigenvalues of the Laplacian are 19.7, 49.3 (twice), 79 on the unit square, a little larger on
# this mesh.
REFUSED = {
    "25 of its 25 .*wrong sign of an energy": lambda: helmholtz(0.0, sign=-1.0),
    r"nothing holds a part between \[2.0, 0.0\] and \[3.0, 1.0\]": lambda: floating(0.0),
    "is singular: is a coefficient zero": lambda: helmholtz(0.0, prior=pddlvm.Normal()),
    "loses its positivity within the prior, at .* of {n} draws, z = ": lambda: helmholtz(
        0.0, prior=pddlvm.Normal(1.0, 0.5)
    ),
    "zero for all parameters": lambda: helmholtz(0.0, load=0.0),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_has_no_positive_operator_is_refused_in_words(words):
    match = words.replace("{n}", str(reduction._N_SNAPSHOTS))
    with pytest.raises(pddlvm.ProblemError, match=match):
        pddlvm.LatentVariableModel(REFUSED[words]())


@pytest.mark.parametrize("make", [lambda: helmholtz(10.0), lambda: floating(-1.0)])
def test_what_is_positive_is_taken(make):
    """Helmholtz below its first eigenvalue; a floating part on a foundation."""
    assert pddlvm.LatentVariableModel(make()).n_modes > 0


def test_an_indefinite_problem_can_be_solved():
    problem = helmholtz(65.0)
    z = problem.prior.sample((2,), seed=0)
    # Direct solves: rounding times the condition number.
    assert float(problem.residual(problem.solve(z), z).abs().max()) < 1e-12


@pytest.mark.parametrize("basis", [pddlvm.ResidualEnriched(4), pddlvm.EnergyModes(4)], ids=repr)
@pytest.mark.parametrize("n", [8, 2000])
def test_boundary_values_alone_have_nothing_to_teach(n, basis):
    """On a fine mesh they leave a residual a hundred times the rounding of a number."""
    space = fem.Space(fem.interval(n))
    problem = pddlvm.Problem(
        "ramp",
        space,
        terms=[pddlvm.Energy(space.interior(), lambda u, du, x, a: 0.5 * a * (du * du).sum())],
        fields={"a": pddlvm.Constant(HALF)},
        dirichlet=[pddlvm.Dirichlet("left", 0.0), pddlvm.Dirichlet("right", 1.0)],
    )
    with pytest.raises(pddlvm.ProblemError, match="nothing to learn"):
        pddlvm.LatentVariableModel(problem, basis=basis)
