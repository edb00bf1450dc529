"""Adam with a cosine schedule within a budget: how densities of z are trained.

Models have a loop of their own (`loop`): stages, two optimisers, checkpoints, an ELBO to look at.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pddlvm.basics.checks import check_positive, is_integer
from pddlvm.basics.errors import InputError, NonFiniteError

__all__ = ["Budget", "fit"]

_LAST_RATE = 1e-3
_SHORTEST = 1e-3


@dataclass(frozen=True)
class Budget:
    """What a training may take; steps alone make it repeatable.

    Attributes:
        seconds: of the clock, may be infinite.
        steps: may be infinite.
    """

    seconds: float
    steps: float

    @classmethod
    def of(cls, max_seconds: float | None, max_steps: int | None, default: float) -> "Budget":
        """From the limits of a user; the default is that of the seconds where neither is given.

        Raises:
            InputError: a limit is not positive, or there is none.
        """
        check_positive(max_seconds=max_seconds, max_steps=max_steps)
        if max_steps is not None and not (is_integer(max_steps) or math.isinf(max_steps)):
            raise InputError(f"max_steps must be an integer, got {max_steps!r}")
        if max_seconds is None and max_steps is None:
            max_seconds = default
        found = cls(
            math.inf if max_seconds is None else max_seconds,
            math.inf if max_steps is None else max_steps,
        )
        if math.isinf(found.seconds) and math.isinf(found.steps):
            raise InputError("a training without an end: max_seconds or max_steps must be finite")
        return found

    def share(self, part: float) -> "Budget":
        """A part of it, in (0, 1]."""
        return Budget(part * self.seconds, part * self.steps)

    def since(self, start: float) -> "Budget":
        """What is left of the seconds since then, by `time.perf_counter`, and all steps."""
        return Budget(self.seconds - (time.perf_counter() - start), self.steps)

    def spent(self, seconds: float, steps: int) -> float:
        """Which share of it these are."""
        return max(seconds / max(self.seconds, _SHORTEST), steps / self.steps)


def fit(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[], Tensor],
    budget: Budget,
    *,
    rate: float,
    clip: float,
    name: str,
) -> list[dict[str, float]]:
    """Minimise a random loss.

    Args:
        parameters: changed in place.
        loss: a new draw of it.
        budget: how long; one step at least is made.
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
        done = budget.spent(now - begin, len(history))
    return history
