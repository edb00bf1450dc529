"""Files of amortised posteriors that are read again: `LatentVariableModel.load_amortized`.

A density belongs to the model, the sensors and the noise that it was trained with. The file has
the mark of the problem and what these predict at a few parameters, and is refused where they now
predict something else. It also has what the density says of these data: it must say it again.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from pddlvm.amortized.amortized import Amortized, Compression, Context
from pddlvm.amortized.families import FAMILIES, Diagonal
from pddlvm.basics.checks import check_path
from pddlvm.basics.errors import RunFileError
from pddlvm.basics.files import check_tensor, decoding, read_content
from pddlvm.basics.random import seeded
from pddlvm.latent.core import LatentModel
from pddlvm.latent.signature import SEED, agrees, signature
from pddlvm.parameters.identity import adopt
from pddlvm.sensors.observation import Observation

__all__ = ["load_amortized"]

_N_DRAWS = 64
_SAME = 1e-3
"""Relative, for what a density says."""


def load_amortized(model: LatentModel, path: str | Path, observation: Observation) -> Amortized:
    """See `LatentVariableModel.load_amortized`."""
    content = read_content(check_path(path))
    surrogate = model.surrogate(observation, corrections=1)
    with decoding(f"{str(path)!r} is no amortised posterior, or damaged"):
        same = adopt(model.problem, content["mark"]) is model.problem
        if not same or not agrees(content, signature(surrogate)):
            raise RunFileError(
                f"{str(path)!r} was trained for another model, other sensors or other noise; train "
                "a density for these (model.amortize, or another file on the command line)"
            )
        n, d, gaps = observation.n, surrogate.prior.size, float(content["gaps"])
        if not 0 <= gaps < 1:
            raise ValueError("an impossible share of missing values")
        size = Context.size(n, d, gaps)
        with seeded(SEED):
            family, estimate = FAMILIES[content["family"]](size, d), Diagonal(size, d)
        _restore(family, content["density"])
        _restore(estimate, content["estimate"])
        shapes = {"centre": (n,), "matrix": (n, n), "std": (n,)}
        parts = {k: check_tensor(content["compression"][k], k, s) for k, s in shapes.items()}
        context = Context(surrogate, Compression(**parts), gaps, estimate)
        seconds, n_steps = float(content["seconds"]), int(content["n_steps"])
        if not (0 <= seconds < math.inf and n_steps > 0):
            raise ValueError("an impossible training")
        seen = check_tensor(content["range"], "range", (size,), torch.float32)
        found = Amortized(family, context, seen, seconds, n_steps)
        here, saved = found.answers(content["predicted"]), content["answers"]
        if here.shape != saved.shape or ((here - saved).abs() > _SAME * saved[:, :1]).any():
            raise ValueError("the density does not say what it said when it was saved")
        _try(found, content["predicted"])
        return found


def _try(amortized: Amortized, data: Tensor) -> None:
    """Tensors of wrong shapes and values show here.

    One that was hardly trained may be far from the prior, and is as good as when it was saved.
    """
    posterior = amortized.resampled(data)
    z = torch.cat([posterior.mean, posterior.std, *posterior.propose((_N_DRAWS,), seed=SEED)])
    if not torch.isfinite(z).all():
        raise ValueError("a density whose draws or moments are not finite")


def _restore(network: nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in network.state_dict().items():
        check_tensor(state[name], name, tuple(value.shape), value.dtype)
    network.load_state_dict(state)
