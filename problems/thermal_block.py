"""The thermal block, the first test of reduced basis methods: as many conductivities as blocks.

-div(theta_q grad u) = 1   in block q of nx x ny equal ones of the unit square,   u = 0 around it
Pi = int 1/2 theta |grad u|^2 - u

The stationary heat problem that pyMOR (https://pymor.org) ships as its thermal block.
"""

from math import lcm

import pddlvm
from pddlvm import fem
from problems.poisson import diffusion, load

__all__ = ["make"]

_CELLS = 42
"""A side, about: 1,849 degrees of freedom."""


def make(nx: int = 3, ny: int = 3, n: int | None = None) -> pddlvm.Problem:
    """The problem with theta ~ U[0.1, 1] in each of nx x ny blocks.

    Args:
        nx: blocks along x; theta stands in z row by row from below.
        ny: blocks along y.
        n: cells per side, a multiple of nx and of ny; by default the one next to 42.

    Raises:
        InputError: blocks that are no whole numbers of cells.
    """
    for name, value in {"nx": nx, "ny": ny, "n": 1 if n is None else n}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise pddlvm.InputError(f"{name} must be a whole number from 1 on, got {value!r}")
    whole = lcm(nx, ny)
    if n is None:
        n = whole * max(1, round(_CELLS / whole))
    if n % whole:
        raise pddlvm.InputError(
            f"n must be a multiple of nx = {nx} and ny = {ny}, or a block would cut cells; got "
            f"{n}, try {whole * max(1, round(n / whole))}"
        )
    space = fem.Space(fem.unit_square(n))
    return pddlvm.Problem(
        "thermal block",
        space,
        terms=[
            pddlvm.Energy(space.interior(), diffusion),
            pddlvm.Energy(space.interior(), load),
        ],
        fields={
            "kappa": pddlvm.Piecewise.on_blocks(space, (nx, ny), prior=pddlvm.Uniform(0.1, 1.0)),
            "f": 1.0,
        },
        dirichlet=[pddlvm.Dirichlet(None)],
    )
