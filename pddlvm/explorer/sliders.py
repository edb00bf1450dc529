"""Sliders of parameters: their names, ranges and middles in the units of the problem."""

import math
from typing import Any

from pddlvm.parameters.space import ParameterSpace

__all__ = ["blocks_of"]

_REACH = 3.0
"""Standard deviations on either side of the middle, where a prior has no bounds."""
_DECADES = 1.0


def blocks_of(prior: ParameterSpace) -> list[dict[str, Any]]:
    """For each block of z its name and its parameters.

    A parameter has a name, the ends `low` and `high` of its slider, the middle `z` of its prior,
    and `log`: does its slider go by factors?
    """
    low, middle, high = (prior.at_score(s * _REACH) for s in (-1, 0, 1))
    rows = [
        {"name": name, "low": a, "high": b, "z": c, "log": _is_wide(a, b)}
        for name, a, b, c in zip(
            prior.names, low.tolist(), high.tolist(), middle.tolist(), strict=True
        )
    ]
    return [
        {"name": name, "parameters": rows[prior.slices[name]], "prior": repr(block.prior)}
        for name, block in prior.blocks.items()
    ]


def _is_wide(low: float, high: float) -> bool:
    return low > 0 and math.log10(high / low) > _DECADES
