"""What we make and train outlives the mode of torch in which somebody called us."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

__all__ = ["out_of_inference", "with_gradients"]

P = ParamSpec("P")
R = TypeVar("R")


def out_of_inference(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run outside of torch.inference_mode: no derivative is taken of its tensors."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run where derivatives can be taken, whatever its caller does without."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return run
