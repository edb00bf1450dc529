"""What tells models, sensors and noise from others: predictions at a few parameters, checksums."""

from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from pddlvm.latent.surrogate import Surrogate

__all__ = ["SEED", "agrees", "checksum", "signature"]

SEED = 20224
_N_PROBES = 4
_CLOSE = 1e-2
"""In standard deviations of the noise: predictions in float32 differ between machines."""


def signature(surrogate: Surrogate) -> dict[str, Tensor]:
    """What tells models, sensors and noise from others."""
    generator = torch.Generator().manual_seed(SEED)
    xi = surrogate.prior.sample_standard((_N_PROBES,), generator=generator)
    noise = surrogate.observation.noise
    with torch.no_grad():
        predicted = surrogate.predict(xi)
    covariance = noise.covariance()
    misfits = torch.tensor([[0.5], [3.0]]).to(covariance) * noise.variance().sqrt()
    return {
        "predicted": predicted,
        "covariance": covariance,
        "log_density": noise.log_prob(misfits),
    }


def agrees(content: dict[str, Any], found: dict[str, Tensor]) -> bool:
    """Does a content have this signature, to rounding?"""
    if any(content[name].shape != value.shape for name, value in found.items()):
        return False
    std = found["covariance"].diagonal().sqrt()
    same_noise = all(
        torch.allclose(content[name], found[name], rtol=1e-9)
        for name in ("covariance", "log_density")
    )
    difference = (content["predicted"] - found["predicted"]).abs()
    return same_noise and bool((difference < _CLOSE * std).all())


def checksum(module: nn.Module) -> str:
    """Of all parameters and buffers."""
    found = sha256()
    for value in module.state_dict().values():
        # A copy: one that was expanded has no stride of its own.
        flat = value.detach().cpu().clone(memory_format=torch.contiguous_format).flatten()
        found.update(flat.view(torch.uint8).numpy())
    return found.hexdigest()
