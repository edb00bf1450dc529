"""Saving and loading a trained model, without ever executing what a file says.

See `pddlvm.basics.files` for the format. The fields of the problem travel with a model
(`Field.state`): z keeps its meaning on a machine whose eigenvectors differ. A file serves the
problem whose mark it bears (`pddlvm.parameters.identity`), and it has what the maps say of a few
draws: they must say it again.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pddlvm import galerkin_content
from pddlvm.basics.errors import RunFileError
from pddlvm.basics.files import check_tensor, decoding, read_content, write_content
from pddlvm.basics.random import seeded
from pddlvm.basics.summary import summarise
from pddlvm.collocation import content as collocation_content
from pddlvm.collocation.model import CollocationModel
from pddlvm.latent.core import LatentVariableModel
from pddlvm.latent.networks import evaluating
from pddlvm.model import GalerkinModel
from pddlvm.parameters.identity import adopt, mark_of
from pddlvm.strong.problem import CollocationProblem
from pddlvm.weak.problem import Problem

__all__ = ["content_of", "differences", "load", "restore_state", "save"]

AnyProblem = Problem | CollocationProblem

_N_DRAWS, _SEED = 2, 20226
_CLOSE = 1e-3
"""Relative: rounding of float32 differs between machines."""
_SAME = 1e-6
_LEARNT = ("state", "answers")


def save(model: LatentVariableModel, path: str | Path) -> None:
    """Write a model to a file; an existing file is replaced in one step or left as it is.

    Raises:
        RunFileError: the folder does not exist or cannot be written to.
    """
    write_content(content_of(model), path)


def content_of(model: LatentVariableModel) -> dict[str, Any]:
    """What a file says of a model."""
    if isinstance(model, CollocationModel):
        parts = collocation_content.content_of(model)
    else:
        assert isinstance(model, GalerkinModel)
        parts = galerkin_content.content_of(model)
    return {
        **mark_of(model.problem),
        "problem": model.problem.name,
        "seed": model.seed,
        "dtype": str(model.sigma_residual.dtype).removeprefix("torch."),
        "state": {k: v.cpu() for k, v in model.state_dict().items()},
        **parts,
        "answers": _answers(model),
    }


def differences(content: dict[str, Any], model: LatentVariableModel) -> list[str]:
    """Names of what a model was made of, in which it differs from that of a content."""
    mark = mark_of(model.problem)
    is_same = adopt(model.problem, content) and _same(mark["fields"], content["fields"])
    made = {k: v for k, v in content_of(model).items() if k not in _LEARNT and k not in mark}
    found = [name for name, value in made.items() if not _same(content[name], value)]
    return found if is_same else ["the problem", *found]


def restore_state(model: LatentVariableModel, content: dict[str, Any]) -> None:
    """What training has learnt; a ValueError where it cannot be that of this model."""
    for name, value in model.state_dict().items():
        check_tensor(content["state"][name], name, tuple(value.shape), value.dtype)
    model.load_state_dict(content["state"])
    model.after_loading()
    here, saved = _answers(model), content["answers"]
    if here.shape != saved.shape or ((here - saved).abs() > _CLOSE * saved[:, :1]).any():
        raise ValueError("the maps do not say what they said when they were saved")


def load(
    path: str | Path,
    problem: AnyProblem,
    *,
    forward_network: nn.Module | None = None,
    inverse_network: nn.Module | None = None,
) -> LatentVariableModel:
    """Read a model that was saved for this problem; predictions are bit-equal to those saved.

    Args:
        path: the file.
        problem: the same problem, made anew. The returned model's own `.problem` has the saved
            parameter fields: use that one where z comes from the model.
        forward_network: own module, if the model was made with one.
        inverse_network: the same for the inverse map.

    Raises:
        RunFileError: no such file, not a saved model, or saved from another problem.
    """
    content = read_content(Path(path))
    # Networks are made with random weights before theirs are read.
    with decoding(f"{str(path)!r} is damaged or incomplete"), seeded(0):
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
                stacklevel=2,
            )
        model: CollocationModel | GalerkinModel
        if isinstance(own, CollocationProblem):
            model = collocation_content.rebuild(content, own, forward_network, inverse_network)
        else:
            model = galerkin_content.rebuild(content, own, forward_network, inverse_network)
        restore_state(model, content)
        return model


def _answers(model: LatentVariableModel) -> Tensor:
    """What both maps say of a few draws, (n_rows, 4)."""
    z = model.problem.prior.sample((_N_DRAWS,), seed=_SEED)
    # Corrections would hide the inverse map.
    options: dict[str, Any] = {"corrections": 0} if isinstance(model, GalerkinModel) else {}
    with evaluating(model):
        forward = model.forward(z)
        found = [forward.mean, forward.std]
        if torch.isfinite(forward.mean).all():
            inverse = model.inverse(forward.mean, **options)
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
