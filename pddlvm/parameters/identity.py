"""Which problem is which: the mark of a problem, that files bear, and its comparison.

    fingerprint   what must be equal: name, mesh, prior, arguments of the fields
    probe         what its functions and fields give at random parameters and states
    sizes         of the shapes of each field
    fields        tensors that define the shapes

Functions are known by their values alone. A machine may find other eigenvectors of equal
eigenvalues: then the tensors of the mark define the fields, and all the rest is compared.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor

from pddlvm.parameters.problem import ParametricProblem

__all__ = ["adopt", "is_like", "mark_of"]

P = TypeVar("P", bound=ParametricProblem)

_ROUND_OFF = 1e-9
_ROTATED = 0.05
"""By which a rotation within an eigenspace changes sizes on a mesh at most."""


def mark_of(problem: ParametricProblem) -> dict[str, Any]:
    """Tensors and a text, as a file holds them."""
    return {
        "fingerprint": problem.fingerprint,
        "probe": problem.probe,
        "sizes": problem.shape_sizes,
        "fields": {k: f.state for k, f in problem.random_fields.items()},
    }


def adopt(problem: P, mark: dict[str, Any]) -> P | None:
    """The problem, with the fields of the mark, if it is the one that bears the mark."""
    sizes, states = mark["sizes"], mark["fields"]
    if mark["fingerprint"] != problem.fingerprint or sizes.keys() != problem.shape_sizes.keys():
        return None
    for name, here in problem.shape_sizes.items():
        if not torch.allclose(sizes[name], here, rtol=_ROTATED, atol=_ROTATED * float(here.max())):
            return None
    for name, field in problem.random_fields.items():
        if not all(torch.equal(value, states[name][k]) for k, value in field.state.items()):
            problem = problem.with_states(states)
            break
    return problem if _close(problem.probe, mark["probe"]) else None


def is_like(problem: ParametricProblem, other: ParametricProblem) -> bool:
    """Are two problems the same, but for the choice of eigenvectors? Remembered."""
    if other is problem:
        return True
    if other not in problem.compared:
        problem.compared[other] = adopt(other, mark_of(problem)) is not None
    return problem.compared[other]


def _close(a: Tensor, b: Tensor) -> bool:
    """Are two probes equal to round-off? A row is that of one function."""
    if a.shape != b.shape:
        return False
    size = torch.maximum(a[:, :1], b[:, :1])
    return bool(((a - b).abs() <= _ROUND_OFF * size).all())
