"""What a saved `GalerkinModel` consists of, and how it is put together again."""

import math
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pddlvm.basics.files import check_tensor
from pddlvm.galerkin import covariances
from pddlvm.galerkin.covariances import Covariance
from pddlvm.galerkin.model import GalerkinMaps
from pddlvm.latent.networks import rebuild_network, sizes_of
from pddlvm.linalg.empirical_interpolation import Interpolation
from pddlvm.reduced.cubature import CellSelection
from pddlvm.reduced.reduction import Reduction, TermReduction
from pddlvm.reduced.reference import Reference
from pddlvm.reduced.representation import Units
from pddlvm.weak.problem import Problem

__all__ = ["arguments", "content_of", "restore_exact"]

_COVARIANCES: dict[str, type[Covariance]] = {
    name: getattr(covariances, name)
    for name in ("Dual", "EnergyNorm", "Isotropic", "Natural", "Whitened")
}

_ORTHONORMAL = 1e-6


def content_of(model: GalerkinMaps) -> dict[str, Any]:
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
        "w": None if reduction.w is None else torch.from_numpy(np.ascontiguousarray(reduction.w)),
        "terms": [_pack(term) for term in reduction.terms],
        "xi": reduction.xi,
        "c": reduction.c,
        "energy": reduction.energy,
        "cubature_error": reduction.cubature_error,
        "units": asdict(reduction.units),
        # Reduced operators in float64, for refinement and calibration after loading.
        "exact": cast(nn.Module, model.exact.terms).state_dict(),
    }


def arguments(
    content: dict[str, Any],
    problem: Problem,
    forward_network: nn.Module | None,
    inverse_network: nn.Module | None,
) -> dict[str, Any]:
    """Those of the constructor, beside the problem; the state is still to be loaded."""
    (_, m), n = content["v"].shape, len(content["xi"])
    reference = Reference.of(problem, is_dual=content["w"] is not None)
    v, w = (_orthonormal(content, name, problem, reference) for name in "vw")
    if v is None or (w is None) != (not reference.is_dual):
        raise ValueError("a basis, or its test functions, are missing")
    reduction = Reduction(
        reference=reference,
        v=v,
        terms=tuple(_unpack(t, p) for t, p in zip(content["terms"], problem.terms, strict=True)),
        xi=check_tensor(content["xi"], "xi", (n, problem.n_parameters)),
        c=check_tensor(content["c"], "c", (n, m)),
        energy=check_tensor(content["energy"], "energy", (n,)),
        cubature_error=content["cubature_error"],
        units=Units(**content["units"]),
        w=w,
    )
    if not 0 <= reduction.cubature_error < math.inf:
        raise ValueError("an impossible error of the cubature")
    if not all(0 < unit < math.inf for unit in content["units"].values()):
        raise ValueError("impossible units")
    networks = content["networks"]
    n_saved = sum(value.numel() for value in content["state"].values())
    return {
        "covariance": _COVARIANCES[content["covariance"]](content["tolerance"]),
        "objective": content["objective"],
        "forward_network": rebuild_network(
            "forward", networks["forward"], forward_network, n_saved
        ),
        "inverse_network": rebuild_network(
            "inverse", networks["inverse"], inverse_network, n_saved
        ),
        "reduction": reduction,
        "seed": content["seed"],
        "dtype": getattr(torch, content["dtype"]),
    }


def _orthonormal(
    content: dict[str, Any], name: str, problem: Problem, reference: Reference
) -> NDArray[np.float64] | None:
    """Columns that are orthonormal in the reference energy; None where there are none."""
    if content[name] is None:
        return None
    found = check_tensor(content[name], name, (problem.n_free, content[name].shape[1])).numpy()
    if not np.allclose(
        found.T @ (reference.matrix @ found), np.eye(found.shape[1]), atol=_ORTHONORMAL
    ):
        raise ValueError(f"{name} is not orthonormal in the reference energy")
    return found


def restore_exact(model: GalerkinMaps, content: dict[str, Any]) -> None:
    """The reduced operators in float64."""
    cast(nn.Module, model.exact.terms).load_state_dict(content["exact"])


def _pack(term: TermReduction) -> dict[str, Tensor]:
    if isinstance(term, CellSelection):
        return {"cells": torch.from_numpy(term.cells), "weights": torch.from_numpy(term.weights)}
    return {"tangent": torch.from_numpy(term[0].index), "load": torch.from_numpy(term[1].index)}


def _unpack(packed: dict[str, Tensor], term: Any) -> TermReduction:
    n_cells, n_quadrature, s, _ = term.region.shape
    if "cells" in packed:
        cells = _index(packed["cells"], n_cells)
        weights = check_tensor(packed["weights"], "weights", cells.shape).numpy()
        if (weights <= 0).any():
            raise ValueError("cubature weights that are not positive")
        return CellSelection(cells, weights)
    # The reduced operators come with the state; cardinal functions are needed to make them only.
    n_points = n_cells * n_quadrature
    tangent = _index(packed["tangent"], n_points * s * s)
    load = _index(packed["load"], n_points * s)
    return (
        Interpolation(tangent, np.zeros((n_points * s * s, len(tangent)))),
        Interpolation(load, np.zeros((n_points * s, len(load)))),
    )


def _index(value: Tensor, size: int) -> NDArray[np.int64]:
    """Different whole numbers from 0 to size - 1."""
    found = check_tensor(value, "an index", (len(value),), torch.int64)
    if len(found.unique()) < len(found) or ((found < 0) | (found >= size)).any():
        raise ValueError("cells or points that do not exist")
    return found.numpy()
