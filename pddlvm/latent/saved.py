"""Saving and loading a trained model, without ever executing what a file says.

See `pddlvm.basics.files` for the format. The fields of the problem travel with a model
(`Field.state`): z keeps its meaning on a machine whose eigenvectors differ. A file serves the
problem whose mark it bears (`pddlvm.parameters.identity`), and it has what the maps say of a few
draws: they must say it again.
"""

import warnings
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pddlvm.basics.errors import RunFileError
from pddlvm.basics.files import check_tensor, write_content
from pddlvm.basics.summary import summarise
from pddlvm.latent.core import LatentModel
from pddlvm.latent.networks import evaluating
from pddlvm.latent.uncertainty import unseen
from pddlvm.parameters.identity import adopt, mark_of
from pddlvm.parameters.problem import ParametricProblem

__all__ = ["content_of", "differences", "restore_state", "save", "with_saved_fields"]

P = TypeVar("P", bound=ParametricProblem)

_N_DRAWS, _SEED = 2, 20226
_CLOSE = 1e-3
"""Relative: rounding of float32 differs between machines."""
_SAME = 1e-6
_LEARNT = ("state", "answers")


def save(model: LatentModel, path: str | Path) -> None:
    """Write a model to a file; an existing file is replaced in one step or left as it is.

    Raises:
        RunFileError: the folder does not exist or cannot be written to.
    """
    write_content(content_of(model), path)


def content_of(model: LatentModel) -> dict[str, Any]:
    """What a file says of a model."""
    return {
        **mark_of(model.problem),
        "problem": model.problem.name,
        "seed": model.seed,
        "dtype": str(model.sigma_residual.dtype).removeprefix("torch."),
        "state": {k: v.cpu() for k, v in model.state_dict().items()},
        **model.content(),
        "answers": _answers(model),
    }


def with_saved_fields(problem: P, content: dict[str, Any], path: str | Path) -> P:
    """The problem, with the fields that a content has.

    Raises:
        RunFileError: the content is of another problem.
    """
    own = adopt(problem, content)
    if own is None:
        raise RunFileError(
            f"{str(path)!r} was saved from another problem ({content['problem']!r}); it needs "
            "the same mesh, physics, boundary conditions, fields and parameters. Make the "
            "problem with the arguments that it had"
        )
    if not _same(mark_of(problem)["fields"], content["fields"]):
        warnings.warn(
            "the parameter fields computed here differ from the saved ones (eigenvectors of "
            "equal eigenvalues may): use the `problem` of the loaded model; its z has the "
            "saved meaning",
            stacklevel=3,
        )
    return own


def differences(content: dict[str, Any], model: LatentModel) -> list[str]:
    """Names of what a model was made of, in which it differs from that of a content."""
    mark = mark_of(model.problem)
    is_same = adopt(model.problem, content) and _same(mark["fields"], content["fields"])
    made = {k: v for k, v in content_of(model).items() if k not in _LEARNT and k not in mark}
    found = [name for name, value in made.items() if not _same(content[name], value)]
    return found if is_same else ["the problem", *found]


def restore_state(model: LatentModel, content: dict[str, Any]) -> None:
    """What training has learnt; a ValueError where it cannot be that of this model."""
    for name, value in model.state_dict().items():
        check_tensor(content["state"][name], name, tuple(value.shape), value.dtype)
    model.load_state_dict(content["state"])
    model.after_loading()
    here, saved = _answers(model), content["answers"]
    if here.shape != saved.shape or ((here - saved).abs() > _CLOSE * saved[:, :1]).any():
        raise ValueError("the maps do not say what they said when they were saved")


def _answers(model: LatentModel) -> Tensor:
    """What both maps say of a few draws, (n_rows, 4)."""
    z = model.problem.prior.sample((_N_DRAWS,), seed=_SEED)
    # Corrections would hide the inverse map.
    with evaluating(model), unseen():
        forward = model.forward(z)
        found = [forward.mean, forward.std]
        if torch.isfinite(forward.mean).all():
            inverse = model.inverse(forward.mean, **model.uncorrected)
            found += [inverse.mean, inverse.std]
    return torch.cat([summarise(part) for part in found])


def _same(a: Any, b: Any) -> bool:
    """Are parts of two contents equal, their numbers to rounding?"""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return False
        size = float(b.double().abs().max()) if b.numel() else 0.0
        return bool(((a.double() - b.double()).abs() <= _SAME * size).all())
    return bool(a == b)
