"""Posteriors in the form that ArviZ reads."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arviz_base
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.basics.files import replacing
from pddlvm.sensors.observation import Observation, PointObservation

if TYPE_CHECKING:
    from pddlvm.inference.posterior import Posterior

__all__ = ["to_arviz", "write_netcdf"]


def to_arviz(posterior: "Posterior", n_samples: int, seed: int) -> Any:
    """See `Posterior.to_arviz`."""
    if posterior.batch:
        raise InputError(
            f"to_arviz takes one data set, and this posterior has a batch {tuple(posterior.batch)};"
            " infer from y[i]"
        )
    observation = posterior.observation
    space = observation.problem.prior
    z = posterior.chains(n_samples, seed)
    prior = space.sample((1, n_samples), seed=seed + 2)
    # One axis for each block that has more than one parameter, one for the sensors.
    blocks = {name: block.size for name, block in space.blocks.items()}
    dims = {name: [f"{name}_index"] for name, size in blocks.items() if size > 1}
    coords = {f"{name}_index": list(range(size)) for name, size in blocks.items() if size > 1}
    tree = arviz_base.from_dict(
        {
            "posterior": _parts(space.split(z)),
            "prior": _parts(space.split(prior)),
            "prior_predictive": {"y": posterior.predictive(prior, seed=seed + 3).cpu().numpy()},
            "posterior_predictive": {"y": posterior.predictive(z, seed=seed).cpu().numpy()},
            "observed_data": {"y": posterior.y.cpu().numpy()},
        },
        coords=coords | {"sensor": list(range(observation.n))},
        dims=dims | {"y": ["sensor"]},
        attrs={"posterior": {"method": posterior.method, "problem": observation.problem.name}},
    )
    for group in ("prior_predictive", "posterior_predictive", "observed_data"):
        tree[group] = tree[group].to_dataset().assign_coords(_places(observation))
    return tree


def write_netcdf(posterior: "Posterior", path: Path, n_samples: int, seed: int) -> None:
    """See `Posterior.to_netcdf`."""
    # In memory: HDF5 ends the process where a write to a full disk fails when it closes its file.
    content = io.BytesIO()
    to_arviz(posterior, n_samples, seed).to_netcdf(content, engine="h5netcdf")
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
