"""Posteriors in the form that ArviZ reads."""

import io
from pathlib import Path
from typing import Any

import arviz_base
from torch import Tensor

from pddlvm.basics.files import replacing
from pddlvm.sensors.observation import Observation, PointObservation

__all__ = ["data_tree", "write_netcdf"]


def data_tree(
    observation: Observation,
    y: Tensor,
    method: str,
    *,
    posterior: tuple[Tensor, Tensor],
    prior: tuple[Tensor, Tensor],
) -> Any:
    """An xarray DataTree of one inference; see `Posterior.to_arviz`.

    Args:
        observation: sensors and noise.
        y: data, (n,).
        method: of the inference.
        posterior: draws of z, (n_chains, n_draws, d), and new data there.
        prior: the same of the prior.
    """
    space = observation.problem.prior
    # One axis for each block that has more than one parameter, one for the sensors.
    blocks = {name: block.size for name, block in space.blocks.items()}
    dims = {name: [f"{name}_index"] for name, size in blocks.items() if size > 1}
    coords = {f"{name}_index": list(range(size)) for name, size in blocks.items() if size > 1}
    tree = arviz_base.from_dict(
        {
            "posterior": _parts(space.split(posterior[0])),
            "prior": _parts(space.split(prior[0])),
            "prior_predictive": {"y": prior[1].cpu().numpy()},
            "posterior_predictive": {"y": posterior[1].cpu().numpy()},
            "observed_data": {"y": y.cpu().numpy()},
        },
        coords=coords | {"sensor": list(range(observation.n))},
        dims=dims | {"y": ["sensor"]},
        attrs={"posterior": {"method": method, "problem": observation.problem.name}},
    )
    for group in ("prior_predictive", "posterior_predictive", "observed_data"):
        tree[group] = tree[group].to_dataset().assign_coords(_places(observation))
    return tree


def write_netcdf(tree: Any, path: Path) -> None:
    """Write a tree of draws; an existing file is replaced in one step."""
    # In memory: HDF5 ends the process where a write to a full disk fails when it closes its file.
    content = io.BytesIO()
    tree.to_netcdf(content, engine="h5netcdf")
    with replacing(path) as file:
        file.write(content.getbuffer())


def _places(observation: Observation) -> dict[str, Any]:
    """Coordinates of the sensors, where each is a value at a point."""
    if not isinstance(observation, PointObservation) or len(observation.points) != observation.n:
        return {}
    columns = zip(observation.problem.coordinates, observation.points.T, strict=True)
    return {f"sensor_{name}": ("sensor", column) for name, column in columns}


def _parts(parts: dict[str, Tensor]) -> dict[str, Any]:
    return {
        name: (part[..., 0] if part.shape[-1] == 1 else part).double().cpu().numpy()
        for name, part in parts.items()
    }
