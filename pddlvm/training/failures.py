"""What is wrong with a training that met a value which is not finite."""

import torch
from torch import nn

from pddlvm.latent.core import LatentModel

__all__ = ["diagnose", "finite_gradients"]


def finite_gradients(parameters: list[nn.Parameter]) -> bool:
    """Are all of them, as far as there are any?"""
    return all(torch.isfinite(p.grad).all() for p in parameters if p.grad is not None)


def diagnose(model: LatentModel, loss: float, step: int) -> str:
    """Which term is not finite, evaluated where the training stopped."""
    with torch.no_grad():
        xi = model.problem.prior.sample_standard((64,)).to(model.sigma_residual)
        parts = model.finite_parts(xi)
        names = [name for name, value in parts.items() if not torch.isfinite(value).all()]
    where = " and ".join(names) or "a gradient or the inverse map"
    advice = (
        "look at what the residual does with values of u that the solution does not take"
        if step == 0
        else "try a lower learning rate or a larger tolerance of the covariance"
    )
    return (
        f"training stopped at step {step}: loss {loss}, {where} not finite. The model keeps its "
        f"last good state; {advice}"
    )
