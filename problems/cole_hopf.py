"""The exact solution of Burgers' equation, by the transform of Cole and Hopf.

    u_t + u u_x = nu u_xx,    u = -sin(pi x) at the start,    u = 0 at x = -1 and 1
    u(x, t) = -E sin(pi y),    y = x - sqrt(4 nu t) s,
    s of density proportional to exp(-s^2 - cos(pi y) / (2 pi nu))

(C. Basdevant et al., Computers and Fluids 14(1), 1986.) The trapezoidal rule finds the expectation
to round-off: the integrand is analytic, and s reaches to sqrt(t / 4 nu) = 9 where nu = 0.01 / pi.
"""

import math

import torch
from torch import Tensor

import pddlvm

__all__ = ["burgers"]

_FARTHEST, _STEP = 16.0, 0.125
_LEAST = math.log(0.01 / math.pi) - 1e-6
"""Of log nu, with some slack for round-off."""


def burgers(z: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """u on the grid, (n, len(x) * len(t)), float64.

    Args:
        z: log nu, (n, 1), at least log(0.01 / pi).
        x: grid in [-1, 1].
        t: grid in [0, 1].

    Raises:
        InputError: other shapes, or values out of range.
    """
    given = (z, x, t)
    if not all(isinstance(v, Tensor) and v.is_floating_point() for v in given) or not (
        z.ndim == 2 and z.shape[1] == x.ndim == t.ndim == 1
    ):
        raise pddlvm.InputError(
            "burgers takes floating-point tensors z (n, 1), x (n_x,) and t (n_t,), got "
            f"{', '.join(str(getattr(v, 'shape', type(v).__name__)) for v in given)}"
        )
    if not ((z >= _LEAST).all() and (x.abs() <= 1).all() and (t >= 0).all() and (t <= 1).all()):
        raise pddlvm.InputError("z must be at least log(0.01 / pi), x in [-1, 1] and t in [0, 1]")
    s = torch.arange(-_FARTHEST, _FARTHEST + _STEP, _STEP, dtype=torch.float64)

    def solve(nu: Tensor) -> Tensor:
        y = x[:, None, None] - (4 * nu * t).sqrt()[:, None] * s
        density = (-s.square() - torch.cos(math.pi * y) / (2 * math.pi * nu)).softmax(-1)
        return -(torch.sin(math.pi * y) * density).sum(-1)

    return torch.stack([solve(nu) for nu in z[:, 0].double().exp()]).flatten(1)
