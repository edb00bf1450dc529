"""The gallery of the documentation: ready problems in ten lines, with their pictures and figures.

Run:  python -m benchmarks.gallery [--steps 600] [NAME ...]

The code of the page is what is run here; its fences are tildes, so that no test runs it again. With
names only those are made anew; the page has all that are in `docs/gallery/figures.json`.
"""

import argparse
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import torch
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.run import table

DOCS = Path(__file__).parent.parent / "docs"
FOLDER = DOCS / "gallery"
_N_DRAWS = 50
_DPI, _QUALITY = 80, 80

PROBLEMS = {
    "Poisson": "poisson.make()",
    "Thermal block": "thermal_block.make()",
    "Cookies": "cookies.make(50)",
    "Nonlinear Poisson": "nonlinear_poisson.make()",
    "A quasilinear problem": "nonlinear_poisson.make_quasilinear()",
    "Advection and diffusion": "nonlinear_poisson.make_advection_diffusion()",
    "Stokes flow round an obstacle": "stokes.make_channel()",
    "Navier-Stokes flow": "navier_stokes.make()",
    "Waves": "helmholtz.make()",
    "Damped waves": "helmholtz.make_damped()",
    "Nearly incompressible elasticity": "elasticity.make_incompressible()",
    "Rubber at large strains": "elasticity.make_neo_hookean()",
    "A bracket of two materials": "elasticity.make_bracket()",
    "NAFEMS LE1": "nafems.make_le1()",
    "A periodic cell": "homogenisation.make()",
    "Heat in time": "heat.make()",
    "Nonlinear heat in time": "nonlinear_heat.make()",
    "An elastic pulse": "elastodynamics.make()",
    "Transport": "transport.make()",
    "A shell": "shell.make()",
    "A shell roof": "shell.make_roof()",
    "Heat without a mesh": "pinn.make_heat()",
    "Burgers": "pinn.make_burgers()",
    "Reaction and diffusion": "pinn.make_reaction_diffusion()",
    "Two species": "fitzhugh_nagumo.make()",
    "A wave without a mesh": "wave.make()",
}

CODE = """\
import pddlvm
from pddlvm import plot
from problems import {module}

problem = {module}.{call}
model = pddlvm.LatentVariableModel(problem, seed=0)
pddlvm.train(model, max_steps={steps})
z = problem.prior.sample(seed=1)
figure = plot.forward_figure(model, z)
report = pddlvm.validate(model, n_samples={n_draws})
"""


def run(names: list[str], steps: int) -> None:
    """Make pictures and figures of problems, and the page of all."""
    FOLDER.mkdir(exist_ok=True)
    record = FOLDER / "figures.json"
    found = json.loads(record.read_text()) if record.exists() else {}
    for name in names:
        found[name] = _made(name, steps)
        table(name, [found[name]])
        record.write_text(json.dumps(found, indent=1) + "\n")
        _write_page(found)


def _made(name: str, steps: int) -> dict[str, Any]:
    module, _, call = PROBLEMS[name].partition(".")
    code = CODE.format(module=module, call=call, steps=steps, n_draws=_N_DRAWS)
    variables: dict[str, Any] = {}
    exec(code, variables)
    image = BytesIO()
    variables["figure"].savefig(image, dpi=_DPI, format="png")
    plt.close("all")
    # A tenth of a PNG: the repository keeps each picture for ever.
    Image.open(image).convert("RGB").save(_picture(name), quality=_QUALITY)
    problem, report = variables["problem"], variables["report"]
    return {
        "code": code,
        "what": _first_line(module, call),
        "unknowns": int(torch.Size(problem.solution_shape).numel()),
        "parameters": problem.prior.size,
        "error": report.relative_l2,
        "corrected": report.relative_l2_corrected,
        "coverage": report.coverage_u,
    }


def _first_line(module: str, call: str) -> str:
    maker = getattr(__import__(f"problems.{module}", fromlist=["make"]), call.split("(")[0])
    return str(maker.__doc__).strip().splitlines()[0]


def _picture(name: str) -> Path:
    return FOLDER / f"{name.lower().replace(' ', '_')}.webp"


def _write_page(found: dict[str, dict[str, Any]]) -> None:
    parts = [
        "# Gallery\n",
        "Ready problems in ten lines, and what came of them: made by `python -m "
        "benchmarks.gallery`, one seed, and 600 steps of training each, where more do better. "
        "Errors are relative in L2, means over fresh draws against the reference solver; the "
        "second is that after one correction. +-2 std should hold 95 %.\n",
    ]
    for name in PROBLEMS:
        if name not in found:
            continue
        one = found[name]
        parts.append(
            f"## {name}\n\n{one['what']}\n\n![{name}](gallery/{_picture(name).name})\n\n"
            f"~~~python\n{one['code']}~~~\n\n"
            f"{one['unknowns']:,} unknowns, {one['parameters']} parameters. Error "
            f"{one['error']:.1e}, corrected {one['corrected']:.1e}; +-2 std hold "
            f"{100 * one['coverage']:.0f} %.\n"
        )
    (DOCS / "gallery.md").write_text("\n".join(parts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PROBLEMS)}")
    parser.add_argument("--steps", type=int, default=600, help="of training each")
    options = parser.parse_args()
    run(options.names or list(PROBLEMS), options.steps)
