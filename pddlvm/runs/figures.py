"""The figures of a run, as PNG files."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pddlvm import plot
from pddlvm.basics.errors import InputError
from pddlvm.basics.files import make_folder, replacing
from pddlvm.models import LatentVariableModel
from pddlvm.training.loop import TrainingResult
from pddlvm.validation.maps import ValidationReport

__all__ = ["Figures", "write_figures"]

_DPI = 110


@dataclass(frozen=True)
class Figures:
    """The figures of a run.

    Attributes:
        drawn: caption -> file.
        failed: caption -> why it could not be drawn.
    """

    drawn: dict[str, Path]
    failed: dict[str, str]


def write_figures(
    folder: Path,
    model: LatentVariableModel,
    result: TrainingResult,
    report: ValidationReport,
    seed: int,
) -> Figures:
    """Training, calibration, a forward and an inverse problem.

    A figure that cannot be drawn, as where matplotlib lacks a program, is left out.

    Raises:
        RunFileError: a file cannot be written.
    """
    make_folder(folder)
    z = model.problem.prior.sample(seed=seed)
    made: dict[str, Callable[[], Figure]] = {
        "Training: the ELBO at a few fixed draws": partial(_in_axes, plot.elbo, result, (6, 4)),
        "Calibration of the solution: how many true values the predicted intervals hold": partial(
            _in_axes, plot.calibration, report, (4.5, 4.5)
        ),
        "A forward problem: one draw, and what the reference solver gives": partial(
            plot.forward_figure, model, z
        ),
        "An inverse problem: the parameter field from the solution": partial(
            plot.inverse_figure, model, z
        ),
    }
    drawn, failed = {}, {}
    for caption, draw in made.items():
        image = BytesIO()
        try:
            draw().savefig(image, dpi=_DPI, format="png")
        except InputError:
            # Where the parameters are numbers there is no field to draw.
            continue
        except Exception as error:
            failed[caption] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        path = folder / f"{caption.split(':')[0].lower().replace(' ', '_')}.png"
        with replacing(path) as file:
            file.write(image.getvalue())
        drawn[caption] = path
    plt.close("all")
    return Figures(drawn, failed)


def _in_axes(draw: Callable[[Any, Axes], object], data: Any, size: tuple[float, float]) -> Figure:
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    draw(data, ax)
    return figure
