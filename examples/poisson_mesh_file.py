"""Heat in a plate of two materials, from a mesh file: holes at 1, a clamped edge at 0, inflow.

    -div(kappa grad u) = 0,   u = 0 on the left edge,   u = 1 on the bolt holes,
    kappa du/dn = 1 on the right edge,   insulated elsewhere

kappa is a log-normal field times one uncertain factor per material; the insert conducts about
five times better than the plate. Any mesh file with named boundaries and subdomains works alike.

Run:  python examples/poisson_mesh_file.py --out plate
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import pddlvm
from pddlvm import plot
from problems import poisson

PLATE = Path(__file__).parent.parent / "meshes" / "plate.msh"


def make(mesh: Path = PLATE) -> pddlvm.Problem:
    """The plate problem: 8 Karhunen-Loève terms and 2 material factors."""
    return poisson.make(
        n_terms=8,
        mesh=mesh,
        length=0.5,
        source=0.0,
        dirichlet={"left": 0.0, "holes": 1.0},
        flux={"right": 1.0},
        materials={"base": 1.0, "insert": 5.0},
    )


def main(arguments: list[str] | None = None) -> pddlvm.ValidationReport:
    """Train, solve, invert, validate; write figures, a VTU file and a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("plate"), help="folder for the results")
    parser.add_argument("--mesh", type=Path, default=PLATE, help="mesh file of the plate")
    parser.add_argument("--seconds", type=float, default=90.0, help="training time")
    parser.add_argument("--steps", type=int, default=None, help="limit on the training steps")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = make(options.mesh)
    print(problem)
    model = pddlvm.LatentVariableModel(problem, seed=0)
    result = pddlvm.train(
        model, max_seconds=options.seconds, max_steps=options.steps, progress=True
    )

    z = problem.prior.sample(seed=11)
    plot.forward_figure(model, z).savefig(options.out / "forward.png", dpi=120)
    plot.inverse_figure(model, z).savefig(options.out / "inverse.png", dpi=120)
    report = pddlvm.validate(model)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    plot.elbo(result, axes[0])
    plot.calibration(report, axes[1])
    figure.savefig(options.out / "training.png", dpi=120)
    plt.close("all")

    # The material factors that belong to a given temperature field, the field kappa known.
    known = {"kappa": z[: problem.prior.blocks["kappa"].size]}
    factors = model.inverse(problem.solve(z), z_known=known)
    for name, true, mean, std in zip(
        problem.parameter_names, z, factors.mean, factors.std, strict=True
    ):
        if name.startswith("material"):
            print(f"{name}: true {true:.4f}, inferred {mean:.4f} +- {std:.1e}")

    model.to_vtu(options.out / "plate.vtu", z)
    (options.out / "report.txt").write_text(f"{problem}\n\n{report}\n")
    print(f"\n{report}\n\nfigures, VTU and report are in {options.out}/")
    return report


if __name__ == "__main__":
    main()
