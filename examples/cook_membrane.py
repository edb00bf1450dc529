"""Nearly incompressible bodies: why displacement and pressure, and rubber at large strains.

    sigma = 2 mu eps - p,   p = -lambda div u,   lambda -> infinity as nu -> 1/2

Cook's membrane is clamped on its left and sheared on its right. Linear elements of the displacement
alone lock: as nu goes to 1/2 they hardly move. With the pressure as a second field the deflection
converges. Reference solutions, on meshes that are drawn as they are deformed.

Run:  python examples/cook_membrane.py --out membrane
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation

import pddlvm
from pddlvm import fem
from problems import elasticity

GAPS = (0.4, 0.1, 0.02, 4e-3, 1e-3, 2e-4)
"""1 - 2 nu: from a metal to rubber."""
LOAD = 1e-3
CORNER = [[48.0, 60.0]]


def displacement_energy(
    u: torch.Tensor, du: torch.Tensor, x: torch.Tensor, nu: torch.Tensor
) -> torch.Tensor:
    """mu |eps|^2 + lambda/2 (div u)^2 for E = 1."""
    mu, lame = elasticity.moduli(torch.ones_like(nu), nu)
    strain = 0.5 * (du + du.T)
    return mu * (strain * strain).sum() + 0.5 * lame * strain.trace() ** 2


def displacement_alone(n: int) -> pddlvm.Problem:
    """The membrane in linear elements of u."""
    space = fem.Space(elasticity.cook_membrane(n), n_components=2)
    return pddlvm.Problem(
        "displacement",
        space,
        [
            pddlvm.Energy(space.interior(), displacement_energy),
            pddlvm.Energy(space.boundary("right"), lambda u, du, x: -LOAD * u[1]),
        ],
        {"nu": pddlvm.Constant(pddlvm.Uniform(0.0, 0.5))},
        [pddlvm.Dirichlet("left")],
    )


def deflections(problem: pddlvm.Problem, z: torch.Tensor) -> np.ndarray:
    """Of the upper right corner, (batch,)."""
    return (problem.evaluation(CORNER) @ problem.solve(z).T.numpy())[1]


def deformed(
    space: fem.FunctionSpace, u: np.ndarray, values: np.ndarray, ax: Axes, scale: float
) -> None:
    """Values at vertices or of cells, on the mesh that is moved by u (n_dofs,), scale times."""
    moved = space.mesh.p.T + scale * space.at_nodes(u)
    triangles = Triangulation(moved[:, 0], moved[:, 1], space.mesh.t.T)
    picture = ax.tripcolor(triangles, values)
    ax.triplot(triangles, color="k", lw=0.2)
    plt.colorbar(picture, ax=ax, shrink=0.7)
    ax.set_aspect("equal")


def main(arguments: list[str] | None = None) -> dict[str, np.ndarray]:
    """Solve and draw; the deflections of both forms at `GAPS` are returned, by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("membrane"), help="folder for the results")
    parser.add_argument("--n", type=int, default=20, help="cells per side")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    alone, both = displacement_alone(options.n), elasticity.make_incompressible(options.n)
    print(both)
    gaps = torch.tensor(GAPS, dtype=torch.float64)
    z = torch.zeros(len(gaps), both.n_parameters, dtype=torch.float64)
    z[:, both.prior.slices["nu"]] = gaps.log()[:, None]
    z[:, both.prior.slices["load"]] = LOAD
    found = {
        "u alone": deflections(alone, 0.5 * (1 - gaps)[:, None]),
        "u and p": deflections(both, z),
    }
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    for name, style in (("u alone", "C3s--"), ("u and p", "C0o-")):
        axes[0].semilogx(GAPS, found[name], style, label=name)
    axes[0].set(
        xlabel="1 - 2 nu", ylabel="deflection of the corner", title="Locking", ylim=(0, None)
    )
    axes[0].invert_xaxis()
    axes[0].legend()

    u = both.solve(z[-1]).numpy()
    assert isinstance(both.space, fem.MixedSpace)
    (dofs, space), (pressures, of_p) = map(both.space.field, "up")
    deformed(space, u[dofs], of_p.at_nodes(u[pressures])[:, 0], axes[1], 10.0)
    axes[1].set(title="p at nu = 0.4999, u ten times", xlabel="x", ylabel="y")

    rubber = elasticity.make_neo_hookean(min(options.n, 16))
    z = rubber.prior.sample((40,), seed=0)
    softest = z[rubber.solve(z).abs().amax(dim=1).argmax()]
    u = rubber.solve(softest).numpy()
    deformed(rubber.space, u, rubber.parameter_field(softest).numpy(), axes[2], 1.0)
    axes[2].set(title="rubber, the largest of 40 draws; colours are E", xlabel="x", ylabel="y")
    figure.savefig(options.out / "membrane.png", dpi=120)
    plt.close("all")
    for name, values in found.items():
        print(name, np.round(values, 3))
    print(f"the figure is in {options.out}/")
    return found


if __name__ == "__main__":
    main()
