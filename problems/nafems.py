"""Three standard benchmarks of NAFEMS, with uncertain coefficients around the nominal ones.

    LE1   an elliptic membrane under outward pressure, plane stress    sigma_yy at D = 92.7 MPa
    LE10  a thick elliptic plate under pressure from above             sigma_yy at D = -5.38 MPa
    T4    a plate that loses heat to the air on two sides              T at E = 18.3 C

(The Standard NAFEMS Benchmarks, National Agency for Finite Element Methods and Standards, 1990.)
The plan of LE1 and LE10 is a quarter of the area between the ellipses

    (x / 2)^2 + y^2 = 1    and    (x / 3.25)^2 + (y / 2.75)^2 = 1

in metres. The values above are those of the nominal coefficients, `nominal(problem)`.
"""

import math
from typing import Any

import numpy as np
import skfem
import torch
from torch import Tensor

import pddlvm
from pddlvm import fem
from problems.elasticity import isotropic, moduli

__all__ = ["make_le1", "make_le10", "make_t4", "nominal", "quantity"]

_INNER, _OUTER = (2.0, 1.0), (3.25, 2.75)
"""Half axes along x and y."""
_THICKNESS = 0.6
_NOMINAL = {
    "nafems-le1": [210e3, 0.3, 10.0],
    "nafems-le10": [210e3, 0.3, 1.0],
    "nafems-t4": [52.0, 750.0, 100.0],
}
_ASKED = {
    "nafems-le1": ([2.0, 0.0], "sigma_yy at D"),
    "nafems-le10": ([2.0, 0.0, _THICKNESS], "sigma_yy at D"),
    "nafems-t4": ([0.6, 0.2], "temperature at E"),
}
_ON = 1e-9


def plane_stress(u: Tensor, du: Tensor, x: Tensor, E: Tensor, nu: Tensor) -> Tensor:
    """mu |eps|^2 + lambda* / 2 tr(eps)^2, with lambda* = E nu / (1 - nu^2)."""
    return isotropic(du, moduli(E, nu)[0], E * nu / (1 - nu**2))


def outwards(u: Tensor, du: Tensor, x: Tensor, pressure: Tensor) -> Tensor:
    """-p u . n on the outer ellipse: a pull."""
    normal = torch.stack([x[i] / _OUTER[i] ** 2 for i in range(2)])
    return -pressure * (u * normal).sum() / normal.norm()


def solid(u: Tensor, du: Tensor, x: Tensor, E: Tensor, nu: Tensor) -> Tensor:
    """mu |eps|^2 + lambda / 2 tr(eps)^2."""
    return isotropic(du, *moduli(E, nu))


def downwards(u: Tensor, du: Tensor, x: Tensor, pressure: Tensor) -> Tensor:
    """p u_z on the upper face."""
    return pressure * u[2]


def conduction(u: Tensor, du: Tensor, x: Tensor, k: Tensor) -> Tensor:
    """k / 2 |grad T|^2."""
    return 0.5 * k * (du * du).sum()


def convection(u: Tensor, du: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """h / 2 T^2, to air of 0 C."""
    return 0.5 * h * u**2


def held(x: Tensor, below: Tensor) -> Tensor:
    """The temperature below."""
    return below


def _quarter(mesh: Any) -> Any:
    """Cells of the unit square, or cube, between the ellipses: x along the radius, y the angle."""

    def between(i: int) -> Any:
        turn = (np.cos, np.sin)[i]
        return lambda x: (_INNER[i] + x[0] * (_OUTER[i] - _INNER[i])) * turn(0.5 * math.pi * x[1])

    further = [lambda x: _THICKNESS * x[2]] * (mesh.dim() - 2)
    # Cells with curved sides: stresses at the hole converge with second order.
    kind = skfem.MeshQuad2 if mesh.dim() == 2 else skfem.MeshHex2
    mesh = kind.from_mesh(mesh).with_boundaries(mesh.boundaries)
    # The names of the sides stay: left is the inner ellipse, right the outer one.
    return mesh.morphed(between(0), between(1), *further)


def _elastic(pressure: float) -> dict[str, pddlvm.Constant]:
    return {
        "E": pddlvm.Constant(pddlvm.LogNormal(math.log(210e3), 0.1)),
        "nu": pddlvm.Constant(pddlvm.Uniform(0.25, 0.35)),
        "pressure": pddlvm.Constant(pddlvm.Uniform(0.8 * pressure, 1.2 * pressure)),
    }


def make_le1(n: int = 16) -> pddlvm.Problem:
    """LE1: u in metres, E ~ 210 GPa (log std 0.1), nu ~ U[0.25, 0.35], pressure ~ U[8, 12] MPa.

    Quadratic quadrilaterals, smaller towards the point D = (2, 0) whose stress is asked for.
    Symmetry holds u_x on the y axis and u_y on the x axis. With n = 16 2,178 degrees of freedom and
    the printed stress to 0.02 %.

    Args:
        n: cells along each side.
    """
    square = fem.unit_square(n, quadrilaterals=True)
    mesh = _quarter(square.morphed(lambda x: x[0] ** 1.5, lambda x: x[1] ** 1.5))
    space = fem.Space(mesh, degree=2, n_components=2)
    return pddlvm.Problem(
        "nafems-le1",
        space,
        terms=[
            pddlvm.Energy(space.interior(), plane_stress),
            pddlvm.Energy(space.boundary("right"), outwards),
        ],
        fields=_elastic(10.0),
        dirichlet=[
            pddlvm.Dirichlet("top", component=0),
            pddlvm.Dirichlet("bottom", component=1),
        ],
    )


def make_le10(n: int = 8) -> pddlvm.Problem:
    """LE10: u in metres, E ~ 210 GPa (log std 0.1), nu ~ U[0.25, 0.35], pressure ~ U[0.8, 1.2] MPa.

    Symmetry as in LE1; the outer face does not move in its plane, and the middle line of it not
    along z. Quadratic hexahedra; D = (2, 0, 0.6). With n = 8 7,803 degrees of freedom and 2 % from
    the printed stress, with n = 4 5 %.

    Args:
        n: cells along each side, and half as many through the thickness: a multiple of 4.

    Raises:
        InputError: n is none, and no nodes stand on the middle line.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 4 or n % 4:
        raise pddlvm.InputError(
            f"n must be a multiple of 4, for nodes half way through the plate, got {n!r}"
        )
    side, up = np.linspace(0, 1, n + 1), np.linspace(0, 1, n // 2 + 1)
    cube = skfem.MeshHex.init_tensor(side**1.5, side**1.5, up).with_defaults()
    on_line = (abs(cube.p[0] - 1) < _ON) & (abs(cube.p[2] - 0.5) < _ON)
    space = fem.Space(_quarter(cube), degree=2, n_components=3)
    return pddlvm.Problem(
        "nafems-le10",
        space,
        terms=[
            pddlvm.Energy(space.interior(), solid),
            pddlvm.Energy(space.boundary("back"), downwards),
        ],
        fields=_elastic(1.0),
        dirichlet=[
            pddlvm.Dirichlet("top", component=0),
            pddlvm.Dirichlet("bottom", component=1),
            pddlvm.Dirichlet("right", component=0),
            pddlvm.Dirichlet("right", component=1),
            pddlvm.Dirichlet(fem.Nodes(np.flatnonzero(on_line)), component=2),
        ],
    )


def make_t4(n: int = 20) -> pddlvm.Problem:
    """T4: T in degrees Celsius on 0.6 m x 1 m, 100 C below, insulated on the left.

    Right and top lose heat to air of 0 C. Conductivity k ~ 52 W/(m K), log std 0.1, coefficient of
    convection h ~ 750 W/(m^2 K), log std 0.1, temperature below ~ U[90, 110]. Quadratic
    quadrilaterals, smaller towards the lower right corner, where the flux is singular;
    E = (0.6, 0.2).

    Args:
        n: cells along each side.
    """
    mesh = fem.unit_square(n, quadrilaterals=True).morphed(
        lambda x: 0.6 * (1 - (1 - x[0]) ** 1.5), lambda x: x[1] ** 1.5
    )
    space = fem.Space(mesh, degree=2)
    return pddlvm.Problem(
        "nafems-t4",
        space,
        terms=[
            pddlvm.Energy(space.interior(), conduction),
            pddlvm.Energy(space.boundary("right"), convection),
            pddlvm.Energy(space.boundary("top"), convection),
        ],
        fields={
            "k": pddlvm.Constant(pddlvm.LogNormal(math.log(52.0), 0.1)),
            "h": pddlvm.Constant(pddlvm.LogNormal(math.log(750.0), 0.1)),
            "below": pddlvm.Constant(pddlvm.Uniform(90.0, 110.0)),
        },
        dirichlet=[pddlvm.Dirichlet("bottom", held)],
    )


def nominal(problem: pddlvm.Problem) -> Tensor:
    """The parameters of the benchmark itself, (3,).

    Raises:
        InputError: the problem is none of this module.
    """
    return torch.tensor(_known(problem, _NOMINAL), dtype=torch.float64)


def quantity(problem: pddlvm.Problem) -> pddlvm.Quantity:
    """What NAFEMS gives: sigma_yy at D in MPa, or T at E in degrees Celsius.

    Raises:
        InputError: the problem is none of this module.
    """
    point, name = _known(problem, _ASKED)
    if problem.name == "nafems-t4":
        return pddlvm.Quantity(problem, pddlvm.PointObservation(problem, [point], 1.0), name)
    gradient = torch.from_numpy(pddlvm.gradient_matrix(problem, [point]).toarray())
    dim = problem.dim

    def stress(u: Tensor, z: Tensor) -> Tensor:
        du = (u @ gradient.T.to(u)).unflatten(-1, (dim, dim))
        E, nu = z[..., 0], z[..., 1]
        mu, lame = moduli(E, nu)
        if dim == 2:
            lame = E * nu / (1 - nu**2)
        strains = du.diagonal(dim1=-2, dim2=-1)
        return (2 * mu * strains[..., 1] + lame * strains.sum(-1))[..., None]

    return pddlvm.Quantity(problem, stress, name)


def _known(problem: pddlvm.Problem, table: dict[str, Any]) -> Any:
    name = getattr(problem, "name", None)
    if name not in table:
        raise pddlvm.InputError(f"problem must be one of {', '.join(table)}, got {problem!r}")
    return table[name]
