"""Laws of quantities, each fitted when it is first asked for and kept as long as its quantity.

The draws that they are fitted to are the same for all quantities and models of a problem: reference
solutions, `problem.solve`, on the workers of `joblib.parallel_config`. None of it is in files.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.by_object import ByObject
from pddlvm.basics.grad_mode import out_of_inference
from pddlvm.basics.unchanged import Unchanged
from pddlvm.latent.quantity_law import QuantityLaw
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.sensors.quantity import Quantity

__all__ = ["QuantityLaws", "n_draws_of", "solved_draws"]

_SEED = 141421
_LEAST, _MOST, _NUMBERS = 128, 1024, 1_100_000
_SOLVED: ByObject[ParametricProblem, tuple[Tensor, Tensor]] = ByObject()


def n_draws_of(problem: ParametricProblem) -> int:
    """1024 draws, fewer where solutions are large: of a million numbers in all, at least 128."""
    return max(_LEAST, min(_MOST, _NUMBERS // prod(problem.solution_shape)))


def solved_draws(problem: ParametricProblem, n: int) -> tuple[Tensor, Tensor]:
    """Parameters (n, d) and their reference solutions, the same whenever they are asked for."""
    if problem not in _SOLVED:
        z = problem.prior.sample((n,), seed=_SEED)
        _SOLVED[problem] = z, problem.solve(z)
    return _SOLVED[problem]


class QuantityLaws:
    """Those of a model, as it is.

    Args:
        model: any; `model.forward(z, corrections).of(quantity)` are its answers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._made: ByObject[Quantity, dict[int, tuple[Unchanged[Any], QuantityLaw]]] = ByObject()

    def __getstate__(self) -> dict[str, Any]:
        # Quantities are known as objects, and a copy of the model has none of them.
        return {"_model": self._model, "_made": ByObject()}

    @out_of_inference
    @torch.no_grad()
    def __call__(self, quantity: Quantity, corrections: int) -> QuantityLaw:
        """The law of a quantity after so many corrections.

        Raises:
            ConvergenceError: a reference solution of a draw was not found.
            InputError: in strong form, after corrections.
        """
        laws = self._made.setdefault(quantity, {})
        if corrections not in laws or not laws[corrections][0].is_same:
            same = Unchanged(self._model)
            z, u = self._model.solved_draws(corrections)
            answer = self._model.forward(z, corrections=corrections).of(quantity)
            value = answer.value()
            features, log_size = answer.known(value)
            errors = quantity(u, z) - value
            laws[corrections] = same, QuantityLaw.of_errors(features, log_size, errors)
        return laws[corrections][1]
