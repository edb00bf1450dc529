"""Figures with matplotlib: axes in, axes out.

What has several panels takes a figure, or a part of one,
`figure.subfigures(1, 2, squeeze=False)[0, 0]`.

Colour maps are perceptually uniform and readable for the colour-blind.
"""

from pddlvm.plot.fields import calibration, elbo, field, inverse_figure
from pddlvm.plot.forward import forward_figure
from pddlvm.plot.grids import space_time
from pddlvm.plot.placement import sensors
from pddlvm.plot.posteriors import corner, expected_coverage, inference_figure, marginals, ranks
from pddlvm.plot.series import animate, filmstrip, series

__all__ = [
    "animate",
    "calibration",
    "corner",
    "elbo",
    "expected_coverage",
    "field",
    "filmstrip",
    "forward_figure",
    "inference_figure",
    "inverse_figure",
    "marginals",
    "ranks",
    "sensors",
    "series",
    "space_time",
]
