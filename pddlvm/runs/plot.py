"""The figures of a run, as PNG files."""

from contextlib import suppress
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pddlvm import plot
from pddlvm.basics.errors import InputError
from pddlvm.basics.files import make_folder, replacing
from pddlvm.models import LatentVariableModel
from pddlvm.training.loop import TrainingResult
from pddlvm.validation.maps import ValidationReport

__all__ = ["write_figures"]

_DPI = 110


def write_figures(
    folder: Path,
    model: LatentVariableModel,
    result: TrainingResult,
    report: ValidationReport,
    seed: int,
) -> dict[str, Path]:
    """Training, calibration, a forward and an inverse problem: caption -> file."""
    make_folder(folder)
    training, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    plot.elbo(result, ax)
    coverage, ax = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    plot.calibration(report, ax)
    z = model.problem.prior.sample(seed=seed)
    made = {
        "Training: the ELBO at a few fixed draws": training,
        "Calibration of the solution: how many true values the predicted intervals hold": coverage,
        "A forward problem: one draw, and what the reference solver gives": plot.forward_figure(
            model, z
        ),
    }
    # Where the parameters are numbers there is no field to draw.
    with suppress(InputError):
        made["An inverse problem: the parameter field from the solution"] = plot.inverse_figure(
            model, z
        )
    found = {}
    for caption, figure in made.items():
        path = folder / f"{caption.split(':')[0].lower().replace(' ', '_')}.png"
        with replacing(path) as file:
            figure.savefig(file, dpi=_DPI, format="png")
        found[caption] = path
    plt.close("all")
    return found
