"""Models as users have them, see `pddlvm.models.classes`."""

from pddlvm.models.classes import (
    CollocationModel,
    GalerkinModel,
    LatentVariableModel,
    TrajectoryModel,
    load,
)

__all__ = [
    "CollocationModel",
    "GalerkinModel",
    "LatentVariableModel",
    "TrajectoryModel",
    "load",
]
