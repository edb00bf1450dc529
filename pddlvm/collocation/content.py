"""What a saved `CollocationModel` consists of, and how it is put together again."""

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from pddlvm.basics.errors import RunFileError
from pddlvm.collocation.inverse_networks import PrincipalGaussian
from pddlvm.collocation.likelihood import Causal
from pddlvm.collocation.model import CollocationMaps
from pddlvm.latent.networks import rebuild_network, sizes_of
from pddlvm.strong.points import (
    AdaptivePoints,
    LatinHypercube,
    PointSampler,
    Sobol,
    UniformPoints,
)

__all__ = ["arguments", "content_of"]

_SAMPLERS: dict[str, type[PointSampler]] = {
    kind.__name__: kind for kind in (AdaptivePoints, LatinHypercube, Sobol, UniformPoints)
}


def content_of(model: CollocationMaps) -> dict[str, Any]:
    """All but the state: what the constructor needs."""
    # In the middle of a training the functions are known at the nodes as they were before it.
    model.after_loading()
    causal = model.zero_residual.causal
    return {
        "points": _describe(model.stream.sampler),
        "tolerance": model.tolerance,
        "causal": None if causal is None else asdict(causal),
        "n_functions": model.n_modes,
        "forward": sizes_of(model.forward_map.network),
        "has_own_inverse": not isinstance(model.inverse_map.network, PrincipalGaussian),
    }


def arguments(
    content: dict[str, Any], forward_network: nn.Module | None, inverse_network: nn.Module | None
) -> dict[str, Any]:
    """Those of the constructor, beside the problem; the state is still to be loaded."""
    if content["has_own_inverse"] and inverse_network is None:
        raise RunFileError("the model had an inverse network of its own: pass inverse_network")
    causal = content["causal"]
    n_saved = sum(value.numel() for value in content["state"].values())
    if not 0 < content["n_functions"] <= n_saved:
        raise ValueError("impossible number of functions")
    return {
        "points": _sampler(content["points"]),
        "tolerance": content["tolerance"],
        "causal": None if causal is None else Causal(**causal),
        "n_functions": content["n_functions"],
        "forward_network": rebuild_network("forward", content["forward"], forward_network, n_saved),
        "inverse_network": inverse_network,
        "seed": content["seed"],
        "dtype": getattr(torch, content["dtype"]),
    }


def _describe(points: PointSampler) -> dict[str, Any]:
    values: dict[str, Any] = {k: getattr(points, k) for k in points.__dataclass_fields__}
    if isinstance(points, AdaptivePoints):
        values["base"] = _describe(points.base)
    return {"kind": type(points).__name__, **values}


def _sampler(saved: dict[str, Any]) -> PointSampler:
    values = {k: v for k, v in saved.items() if k != "kind"}
    if "base" in values:
        values["base"] = _sampler(values["base"])
    return _SAMPLERS[saved["kind"]](**values)
