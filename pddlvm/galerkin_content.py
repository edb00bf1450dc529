"""What a saved `GalerkinModel` consists of, and how it is put together again."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pddlvm import covariances
from pddlvm.affine import Interpolation
from pddlvm.covariances import Covariance
from pddlvm.cubature import CellSelection
from pddlvm.model import GalerkinModel
from pddlvm.networks import rebuild_network, sizes_of
from pddlvm.problem import Problem
from pddlvm.reduction import Reduction, TermReduction
from pddlvm.representation import Reference

__all__ = ["content_of", "rebuild"]

_COVARIANCES: dict[str, type[Covariance]] = {
    name: getattr(covariances, name) for name in ("EnergyNorm", "Isotropic", "Whitened")
}


def content_of(model: GalerkinModel) -> dict[str, Any]:
    """All but the state: what the constructor needs, and the reduced basis."""
    reduction = model.reduction
    return {
        "objective": model.objective,
        "covariance": type(model.covariance).__name__,
        "tolerance": model.covariance.tolerance,
        "networks": {
            "forward": sizes_of(model.forward_map.network),
            "inverse": sizes_of(model.inverse_map.network),
        },
        "v": torch.from_numpy(np.ascontiguousarray(reduction.v)),
        "terms": [_pack(term) for term in reduction.terms],
        "xi": reduction.xi,
        "c": reduction.c,
        "energy": reduction.energy,
        "cubature_error": reduction.cubature_error,
        # Reduced operators in float64, for refinement and calibration after loading.
        "exact": cast(nn.Module, model.exact.terms).state_dict(),
    }


def rebuild(
    content: dict[str, Any],
    problem: Problem,
    forward_network: nn.Module | None,
    inverse_network: nn.Module | None,
) -> GalerkinModel:
    """The model of a content; its state is still to be loaded."""
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
    n_saved = sum(value.numel() for value in content["state"].values())
    model = GalerkinModel(
        problem,
        covariance=_COVARIANCES[content["covariance"]](content["tolerance"]),
        objective=content["objective"],
        forward_network=rebuild_network("forward", networks["forward"], forward_network, n_saved),
        inverse_network=rebuild_network("inverse", networks["inverse"], inverse_network, n_saved),
        reduction=reduction,
        seed=content["seed"],
        dtype=cast(torch.dtype, getattr(torch, content["dtype"])),
    )
    cast(nn.Module, model.exact.terms).load_state_dict(content["exact"])
    return model


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
