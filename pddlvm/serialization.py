"""Saving and loading a trained model, without ever executing what a file says.

A file holds tensors and plain values only, read by `torch.load(weights_only=True)`. It is written
to a temporary name beside its target and renamed, so that no reader sees half of it. The fields of
the problem travel with it (`Field.state`): z keeps its meaning on a machine whose eigenvectors
differ.
"""

import os
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pddlvm import covariances
from pddlvm.affine import Interpolation
from pddlvm.covariances import Covariance
from pddlvm.cubature import CellSelection
from pddlvm.errors import RunFileError
from pddlvm.model import LatentVariableModel
from pddlvm.networks import NeuralGaussian
from pddlvm.problem import Problem
from pddlvm.reduction import Reduction, TermReduction
from pddlvm.representation import Reference

__all__ = ["load", "save"]

_FORMAT = "pddlvm-model-1"
_COVARIANCES: dict[str, type[Covariance]] = {
    name: getattr(covariances, name) for name in ("EnergyNorm", "Isotropic", "Whitened")
}


def save(model: LatentVariableModel, path: str | Path) -> None:
    """Write a model to a file; an existing file is replaced in one step or left as it is.

    Raises:
        RunFileError: the folder does not exist or cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise RunFileError(f"{str(path)!r} is a folder; give the name of a file in it")
    reduction = model.reduction
    content = {
        "format": _FORMAT,
        "fingerprint": model.problem.fingerprint,
        "probe": model.problem.probe,
        "problem": model.problem.name,
        "objective": model.objective,
        "seed": model.seed,
        "dtype": str(model.sigma_residual.dtype).removeprefix("torch."),
        "covariance": type(model.covariance).__name__,
        "tolerance": model.covariance.tolerance,
        "networks": {
            "forward": _describe(model.forward_map.network),
            "inverse": _describe(model.inverse_map.network),
        },
        "fields": {k: f.state for k, f in model.problem.random_fields.items()},
        "v": torch.from_numpy(np.ascontiguousarray(reduction.v)),
        "terms": [_pack(term) for term in reduction.terms],
        "xi": reduction.xi,
        "c": reduction.c,
        "energy": reduction.energy,
        "cubature_error": reduction.cubature_error,
        # Reduced operators in float64, for refinement and calibration after loading.
        "exact": cast(nn.Module, model.exact.terms).state_dict(),
        "state": {k: v.cpu() for k, v in model.state_dict().items()},
    }
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RunFileError(
            f"cannot write to {str(path.parent)!r} ({error.strerror}); create the folder or choose "
            "another one"
        ) from error
    try:
        # mkstemp makes files private; give this one the permissions of any other new file.
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(handle, 0o666 & ~mask)
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(
    path: str | Path,
    problem: Problem,
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
    content = _read(Path(path))
    try:
        _check_problem(content, problem, path)
        return _rebuild(content, problem, forward_network, inverse_network)
    except RunFileError:
        raise
    except Exception as error:
        # Whatever a file can say that is not what `save` writes.
        raise RunFileError(
            f"{str(path)!r} is damaged or incomplete ({type(error).__name__}: {error})"
        ) from error


def _check_problem(content: dict[str, Any], problem: Problem, path: str | Path) -> None:
    saved = content["problem"]
    same_mesh = content["fingerprint"] == problem.fingerprint
    if not (same_mesh and np.isclose(content["probe"], problem.probe, rtol=1e-6)):
        raise RunFileError(
            f"{str(path)!r} was saved from another problem ({saved!r}); it needs the "
            "same mesh, physics, boundary conditions and parameters. Make the problem with the "
            "arguments that it had"
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RunFileError(f"there is no file {str(path)!r}; check the path")
    try:
        # torch does not look at the checksums of the archive.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Bytes that are no archive fail in many ways, inside of torch, zipfile and pickle.
        raise RunFileError(
            f"{str(path)!r} is not a model saved by pddlvm, or damaged ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise RunFileError(f"{str(path)!r} is not a model saved by pddlvm (format {_FORMAT})")
    return content


def _rebuild(
    content: dict[str, Any],
    problem: Problem,
    forward_network: nn.Module | None,
    inverse_network: nn.Module | None,
) -> LatentVariableModel:
    states = content["fields"]
    if not all(
        torch.allclose(v, states[k][n], rtol=1e-6, atol=1e-9)
        for k, f in problem.random_fields.items()
        for n, v in f.state.items()
    ):
        warnings.warn(
            "the parameter fields computed here differ from the saved ones (eigenvectors of equal "
            "eigenvalues may): use the `problem` of the loaded model; its z has the saved meaning",
            stacklevel=3,
        )
        problem = problem.with_states(states)
    reduction = Reduction(
        reference=Reference.of(problem),
        v=content["v"].numpy(),
        terms=tuple(_unpack(t, p) for t, p in zip(content["terms"], problem.terms, strict=True)),
        xi=content["xi"],
        c=content["c"],
        energy=content["energy"],
        cubature_error=content["cubature_error"],
    )
    networks = content["networks"]
    model = LatentVariableModel(
        problem,
        covariance=_COVARIANCES[content["covariance"]](content["tolerance"]),
        objective=content["objective"],
        forward_network=_network("forward", networks["forward"], forward_network),
        inverse_network=_network("inverse", networks["inverse"], inverse_network),
        reduction=reduction,
        seed=content["seed"],
        dtype=cast(torch.dtype, getattr(torch, content["dtype"])),
    )
    model.load_state_dict(content["state"])
    cast(nn.Module, model.exact.terms).load_state_dict(content["exact"])
    if not all(torch.isfinite(v).all() for v in model.state_dict().values()):
        raise ValueError("values that are not finite")
    return model


def _describe(network: nn.Module) -> dict[str, int] | None:
    """Sizes of a `NeuralGaussian`; None for a user's own module."""
    if not isinstance(network, NeuralGaussian):
        return None
    linear = [layer for layer in network.body if isinstance(layer, nn.Linear)]
    return {
        "n_in": linear[0].in_features,
        "n_out": network.head.out_features // 2,
        "width": linear[0].out_features,
        "depth": len(linear),
    }


def _network(name: str, sizes: dict[str, int] | None, own: nn.Module | None) -> nn.Module:
    if own is not None:
        return own
    if sizes is None:
        raise RunFileError(f"the model had a {name} network of its own: pass {name}_network")
    return NeuralGaussian(**sizes)


def _pack(term: TermReduction) -> dict[str, Tensor]:
    if isinstance(term, CellSelection):
        return {"cells": torch.from_numpy(term.cells), "weights": torch.from_numpy(term.weights)}
    return {"tangent": torch.from_numpy(term[0].index), "load": torch.from_numpy(term[1].index)}


def _unpack(packed: dict[str, Tensor], term: Any) -> TermReduction:
    if "cells" in packed:
        return CellSelection(packed["cells"].numpy(), packed["weights"].numpy())
    # The reduced operators come with the state; cardinal functions are needed to make them only.
    n_points = term.region.weights.size
    s = term.region.shape[2]
    tangent, load = packed["tangent"].numpy(), packed["load"].numpy()
    return (
        Interpolation(tangent, np.zeros((n_points * s * s, len(tangent)))),
        Interpolation(load, np.zeros((n_points * s, len(load)))),
    )
