"""Adam with a cosine schedule for a given time: how densities of z are trained."""

import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pddlvm.errors import NonFiniteError

__all__ = ["fit"]

_LAST_RATE = 1e-3


def fit(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[], Tensor],
    end: float,
    *,
    rate: float,
    clip: float,
    name: str,
) -> list[dict[str, float]]:
    """Minimise a random loss.

    Args:
        parameters: changed in place.
        loss: a new draw of it.
        end: when to stop, by `time.perf_counter`; one step at least is made.
        rate: initial learning rate.
        clip: largest norm of a gradient.
        name: of what is trained, for the error.

    Returns:
        One row per step: step, seconds, loss.

    Raises:
        NonFiniteError: a loss or a gradient is not finite.
    """
    trained = list(parameters)
    optimizer = torch.optim.Adam(trained, lr=rate)
    history: list[dict[str, float]] = []
    begin, done = time.perf_counter(), 0.0
    while done < 1 or not history:
        cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        optimizer.param_groups[0]["lr"] = rate * (_LAST_RATE + cosine)
        value = loss()
        optimizer.zero_grad()
        value.backward()
        norm = nn.utils.clip_grad_norm_(trained, clip)
        if not torch.isfinite(value.detach() + norm):
            raise NonFiniteError(
                f"the training of {name} stopped at step {len(history)}: its loss or a gradient is "
                "not finite; do the data lie within what the prior can produce?"
            )
        optimizer.step()
        now = time.perf_counter()
        history.append(
            {"step": len(history), "seconds": now - begin, "loss": float(value.detach())}
        )
        done = (now - begin) / max(end - begin, 1e-3)
    return history
