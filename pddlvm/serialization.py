"""Saving and loading a trained model, without ever executing what a file says.

See `pddlvm.files` for the format. The fields of the problem travel with a model (`Field.state`): z
keeps its meaning on a machine whose eigenvectors differ.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pddlvm import galerkin_content
from pddlvm.collocation import content as collocation_content
from pddlvm.collocation.model import CollocationModel
from pddlvm.collocation.problem import CollocationProblem
from pddlvm.errors import RunFileError
from pddlvm.files import decoding, read_content, write_content
from pddlvm.latent import LatentVariableModel
from pddlvm.model import GalerkinModel
from pddlvm.problem import Problem

__all__ = ["content_of", "load", "save"]

AnyProblem = Problem | CollocationProblem


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
        "fingerprint": model.problem.fingerprint,
        "probe": model.problem.probe,
        "problem": model.problem.name,
        "seed": model.seed,
        "dtype": str(model.sigma_residual.dtype).removeprefix("torch."),
        "fields": {k: f.state for k, f in model.problem.random_fields.items()},
        "state": {k: v.cpu() for k, v in model.state_dict().items()},
        **parts,
    }


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
    with decoding(f"{str(path)!r} is damaged or incomplete"):
        _check_problem(content, problem, path)
        problem = _with_saved_fields(content["fields"], problem)
        model: CollocationModel | GalerkinModel
        if isinstance(problem, CollocationProblem):
            model = collocation_content.rebuild(content, problem, forward_network, inverse_network)
        else:
            model = galerkin_content.rebuild(content, problem, forward_network, inverse_network)
        model.load_state_dict(content["state"])
        if not all(torch.isfinite(v).all() for v in model.state_dict().values()):
            raise ValueError("values that are not finite")
        model.after_loading()
        return model


def _check_problem(content: dict[str, Any], problem: AnyProblem, path: str | Path) -> None:
    saved = content["problem"]
    same_mesh = content["fingerprint"] == problem.fingerprint
    if not (same_mesh and np.isclose(content["probe"], problem.probe, rtol=1e-6)):
        raise RunFileError(
            f"{str(path)!r} was saved from another problem ({saved!r}); it needs the "
            "same mesh, physics, boundary conditions and parameters. Make the problem with the "
            "arguments that it had"
        )


def _with_saved_fields(states: dict[str, Any], problem: AnyProblem) -> AnyProblem:
    if all(
        torch.allclose(v, states[k][n], rtol=1e-6, atol=1e-9)
        for k, f in problem.random_fields.items()
        for n, v in f.state.items()
    ):
        return problem
    warnings.warn(
        "the parameter fields computed here differ from the saved ones (eigenvectors of equal "
        "eigenvalues may): use the `problem` of the loaded model; its z has the saved meaning",
        stacklevel=3,
    )
    return problem.with_states(states)
