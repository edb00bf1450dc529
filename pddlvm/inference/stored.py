"""Files of amortised posteriors: `Amortized.save` and `LatentVariableModel.load_amortized`.

A density belongs to the model, the sensors and the noise that it was trained with. The file has
the mark of the problem and what these predict at a few parameters, and is refused where they now
predict something else. It also has what the density says of these data: it must say it again.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pddlvm.basics.errors import InputError, RunFileError
from pddlvm.basics.files import check_tensor, decoding, read_content, write_content
from pddlvm.basics.random import seeded
from pddlvm.basics.summary import summarise
from pddlvm.inference.amortized import Amortized, Compression, Context
from pddlvm.inference.families import Diagonal, Family, Flow, Full
from pddlvm.latent.surrogate import Surrogate
from pddlvm.parameters.identity import adopt, mark_of

if TYPE_CHECKING:
    from pddlvm.latent.core import LatentModel
    from pddlvm.sensors.observation import Observation

__all__ = ["load_amortized", "save_amortized"]

_FAMILIES: dict[str, type[Family]] = {"Diagonal": Diagonal, "Full": Full, "Flow": Flow}
_N_PROBES, _N_DRAWS, _SEED = 4, 64, 20224
_FAR = 50.0
"""Standard deviations of the prior, which no sound density reaches."""
_SAME = 1e-3
"""Relative, for what a density says."""
_CLOSE = 1e-2
"""In standard deviations of the noise: predictions in float32 differ between machines."""


def save_amortized(amortized: Amortized, path: str | Path) -> None:
    """See `Amortized.save`."""
    name = type(amortized.family).__name__
    if _FAMILIES.get(name) is not type(amortized.family):
        raise InputError(f"a density of family {', '.join(_FAMILIES)} can be saved, not {name}")
    context = amortized.context
    assert context.estimate is not None
    signature = _signature(context.surrogate)
    content = {
        "family": name,
        "density": amortized.family.state_dict(),
        "estimate": context.estimate.state_dict(),
        "compression": vars(context.compression),
        "range": amortized.range,
        "seconds": amortized.seconds,
        "n_steps": amortized.n_steps,
        "mark": mark_of(context.surrogate.observation.problem),
        **signature,
        "answers": _answers(amortized, signature["predicted"]),
    }
    write_content(content, path)


def load_amortized(model: "LatentModel", path: str | Path, observation: "Observation") -> Amortized:
    """See `LatentVariableModel.load_amortized`."""
    surrogate = model.surrogate(observation, corrections=1)
    content = read_content(Path(path))
    with decoding(f"{str(path)!r} is no amortised posterior, or damaged"):
        same = adopt(model.problem, content["mark"]) is model.problem
        if not same or not _agrees(content, _signature(surrogate)):
            raise RunFileError(
                f"{str(path)!r} was trained for another model, other sensors or other noise; train "
                "a density for these (model.amortize, or another file on the command line)"
            )
        n, d = observation.n, surrogate.prior.size
        with seeded(_SEED):
            family, estimate = _FAMILIES[content["family"]](d + 2 * n, d), Diagonal(d + 2 * n, d)
        _restore(family, content["density"])
        _restore(estimate, content["estimate"])
        shapes = {"centre": (n,), "matrix": (n, n), "std": (n,)}
        parts = {k: check_tensor(content["compression"][k], k, s) for k, s in shapes.items()}
        context = Context(surrogate, Compression(**parts), estimate)
        seconds, n_steps = float(content["seconds"]), int(content["n_steps"])
        if not (0 <= seconds < math.inf and n_steps > 0):
            raise ValueError("an impossible training")
        seen = check_tensor(content["range"], "range", (d + 2 * n,), torch.float32)
        found = Amortized(family, context, seen, seconds, n_steps)
        here, saved = _answers(found, content["predicted"]), content["answers"]
        if here.shape != saved.shape or ((here - saved).abs() > _SAME * saved[:, :1]).any():
            raise ValueError("the density does not say what it said when it was saved")
        _try(found, content["predicted"])
        return found


def _answers(amortized: Amortized, data: Tensor) -> Tensor:
    """What the density reads in data, and says of a few parameters, (n_rows, 4)."""
    generator = torch.Generator().manual_seed(_SEED)
    xi = amortized.prior.sample_standard((len(data), len(data)), generator=generator)
    with torch.no_grad():
        said = amortized(data).log_prob(amortized.prior.unstandardise(xi))
        return torch.cat([summarise(amortized.context(data)), summarise(said)])


def _try(amortized: Amortized, data: Tensor) -> None:
    """Tensors of wrong shapes and values show here: posteriors of usual data are near the prior."""
    posterior = amortized.resampled(data)
    z = torch.cat([posterior.mean, posterior.std, *posterior.propose((_N_DRAWS,), seed=_SEED)])
    xi = amortized.prior.standardise(z[2 * len(data) :])
    if not torch.isfinite(z).all() or (xi.abs() > _FAR).any():
        raise ValueError("a density that is not near the prior")


def _signature(surrogate: Surrogate) -> dict[str, Tensor]:
    """What tells models, sensors and noise from others."""
    generator = torch.Generator().manual_seed(_SEED)
    xi = surrogate.prior.sample_standard((_N_PROBES,), generator=generator)
    noise = surrogate.observation.noise
    with torch.no_grad():
        predicted = surrogate.predict(xi)
    covariance = noise.covariance()
    misfits = torch.tensor([[0.5], [3.0]]).to(covariance) * covariance.diagonal().sqrt()
    return {
        "predicted": predicted,
        "covariance": covariance,
        "log_density": noise.log_prob(misfits),
    }


def _agrees(content: dict[str, Any], signature: dict[str, Tensor]) -> bool:
    if any(content[name].shape != value.shape for name, value in signature.items()):
        return False
    std = signature["covariance"].diagonal().sqrt()
    same_noise = all(
        torch.allclose(content[name], signature[name], rtol=1e-9)
        for name in ("covariance", "log_density")
    )
    difference = (content["predicted"] - signature["predicted"]).abs()
    return same_noise and bool((difference < _CLOSE * std).all())


def _restore(network: nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in network.state_dict().items():
        check_tensor(state[name], name, tuple(value.shape), value.dtype)
    network.load_state_dict(state)
