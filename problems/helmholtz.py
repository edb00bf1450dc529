"""Waves of one frequency on the unit square: an operator that is not positive.

    -div(grad u) - k^2 u = f,   u = 0 on the boundary,   f = a_1 s_1(x) + a_2 s_2(x)

There is one solution for each k^2 that is no eigenvalue of the Laplacian, (m^2 + n^2) pi^2 = 19.7,
49.3, 79.0, 98.7, ...; next to one u grows like 1 / (k^2 - eigenvalue). With damping k^2 (1 + i eta)
there is one for each k, and it is two real fields, u + i v:

    -div(grad u) - k^2 (u - eta v) = f,   -div(grad v) - k^2 (v + eta u) = 0

Lengths are sides of the square, k waves per 2 pi of them.
"""

from functools import partial

import torch
from torch import Tensor

import pddlvm
from pddlvm import fem

__all__ = ["make", "make_crossing", "make_damped"]

_WIDTH = 0.1
_STRENGTH = 50.0


def source(x: Tensor, a1: Tensor, a2: Tensor) -> Tensor:
    """f: two Gaussian bumps."""
    first = (x[0] - 0.3) ** 2 + (x[1] - 0.4) ** 2
    second = (x[0] - 0.7) ** 2 + (x[1] - 0.6) ** 2
    bumps = (-torch.stack([first, second]) / (2 * _WIDTH**2)).exp()
    return _STRENGTH * (a1 * bumps[0] + a2 * bumps[1])


def wave(u: Tensor, du: Tensor, x: Tensor, k2: Tensor) -> Tensor:
    """1/2 |grad u|^2 - 1/2 k^2 u^2: stationary at the solution, and not bounded below."""
    return 0.5 * (du @ du) - 0.5 * k2 * u**2


def load(u: Tensor, du: Tensor, x: Tensor, a1: Tensor, a2: Tensor) -> Tensor:
    """-f u."""
    return -source(x, a1, a2) * u


def _undamped(name: str, n: int, low: float, high: float) -> pddlvm.Problem:
    space = fem.Space(fem.unit_square(n), degree=2)
    return pddlvm.Problem(
        name,
        space,
        terms=[pddlvm.Energy(space.interior(), wave), pddlvm.Energy(space.interior(), load)],
        fields=_fields(low, high),
        dirichlet=[pddlvm.Dirichlet(None)],
    )


def _fields(low: float, high: float) -> dict[str, pddlvm.Field | float]:
    amplitude = pddlvm.Constant(pddlvm.Uniform(0.5, 1.5))
    return {"k2": pddlvm.Constant(pddlvm.Uniform(low, high)), "a1": amplitude, "a2": amplitude}


def make(n: int = 24) -> pddlvm.Problem:
    """k^2 ~ U[24, 45], between the first and the second eigenvalue, 19.7 and 49.3.

    a_1, a_2 ~ U[0.5, 1.5]. Quadratic elements; with n = 24 2,401 degrees of freedom.

    Args:
        n: cells per side.
    """
    return _undamped("helmholtz", n, 24.0, 45.0)


def make_crossing(n: int = 24) -> pddlvm.Problem:
    """k^2 ~ U[16, 81], across the eigenvalues 19.7, 49.3 and 79.0: u is not bounded.

    For what a model does where its prior crosses resonances. a_1, a_2 ~ U[0.5, 1.5].

    Args:
        n: cells per side.
    """
    return _undamped("helmholtz-crossing", n, 16.0, 81.0)


def damped_wave(
    eta: float, u: Tensor, du: Tensor, v: Tensor, dv: Tensor, k2: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Real and imaginary part of grad w : grad (u + i v) - k^2 (1 + i eta) w (u + i v)."""
    return {"u": (-k2 * (u - eta * v), du), "v": (-k2 * (v + eta * u), dv)}


def damped_load(x: Tensor, a1: Tensor, a2: Tensor) -> dict[str, tuple[Tensor, float]]:
    """-f in the row of the real part."""
    return {"u": (-source(x, a1, a2), 0.0)}


def make_damped(n: int = 24, *, eta: float = 0.2) -> pddlvm.Problem:
    """k^2 (1 + i eta), k^2 ~ U[16, 81]: u is the real part of the amplitude, v the imaginary one.

    a_1, a_2 ~ U[0.5, 1.5]. Quadratic elements; with n = 24 4,802 degrees of freedom.

    Args:
        n: cells per side.
        eta: loss factor, > 0.
    """
    if not (isinstance(eta, float | int) and 0 < eta < float("inf")):
        raise pddlvm.InputError(f"eta must be positive and finite, got {eta!r}")
    mesh = fem.unit_square(n)
    space = fem.MixedSpace({name: fem.Space(mesh, degree=2) for name in ("u", "v")})
    return pddlvm.Problem(
        "helmholtz-damped",
        space,
        terms=[
            pddlvm.Flux(space.interior(), partial(damped_wave, eta)),
            pddlvm.Flux(space.interior(), damped_load),
        ],
        fields=_fields(16.0, 81.0),
        dirichlet=[pddlvm.Dirichlet(None, field="u"), pddlvm.Dirichlet(None, field="v")],
    )
