"""How wrong the value of a quantity is: a law that is fitted to that quantity alone.

    e_j = q_j(u) - value_j = std_j(z) T_j(g_j),     g ~ N(0, C)
    log std_j = log size_j(z) + shift_j + s_j(xi, log rho, log size_j)

size is what an answer knows of its own error to first order, but not below a floor, rho its
certificate, T_j an `ErrorShape` and s_j that of a `VarianceModel`: the law of the values of u, for
one number. An error bar of u cannot stand in for it: errors of u at different points depend on each
other, and an adjoint solution takes away nearly all that they have in common. The e_j are those of
the model on draws of the prior whose reference solutions are known. C makes draws of several
numbers joint.

First order may know nothing: where the largest value of a mean is a prescribed one its size is
rounding, and that of the solution may be elsewhere. So the floor is a part of the root mean square
of the sizes, the one under which the errors are likeliest; errors below that part of theirs are
all alike to the fit.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.latent.error_shape import ErrorShape
from pddlvm.latent.variance_model import VarianceModel

__all__ = ["QuantityLaw"]

_FLOORS = (1e-6, 1e-3, 1e-2, 1e-1)
"""Parts of the root mean square of the sizes; the first is next to nothing."""
_LEAST = 1e-9
"""Of an error, relative to all: there is none."""


@dataclass(frozen=True)
class QuantityLaw:
    """Of n numbers; float64 on the CPU.

    Attributes:
        models: log variance of each, relative to its unit.
        floors: logs below which sizes say nothing, (n,).
        units: sizes of the errors, (n,).
        shape: T_j.
        root: a square root of C, (n, n).
        n_draws: draws of the prior whose reference solutions were compared.
    """

    models: list[VarianceModel]
    floors: Tensor
    units: Tensor
    shape: ErrorShape
    root: Tensor
    n_draws: int

    @classmethod
    @torch.no_grad()
    def of_errors(cls, features: Tensor, log_size: Tensor, errors: Tensor) -> "QuantityLaw":
        """The law of errors.

        Args:
            features: xi and log rho of draws, (n_draws, d + 1).
            log_size: (n_draws, n).
            errors: q(u) - value, (n_draws, n).
        """
        tiny = torch.finfo(errors.dtype).tiny
        unit = errors.square().mean(0).sqrt().clamp(min=tiny)
        models, floors, units, values, normal = [], [], [], [], []
        for j in range(errors.shape[1]):
            error, own = errors[:, j : j + 1] / unit[j], log_size[:, j : j + 1]
            model, floor, scores = _likeliest(features, own, error)
            shape, factor = ErrorShape.of_scores(scores)
            models.append(model)
            floors.append(floor)
            units.append(unit[j] * factor)
            values.append(shape.values)
            normal.append(shape.inverse(scores[:, 0] / max(factor, tiny))[0])
        shape = ErrorShape(torch.stack(values))
        sizes = torch.stack(floors), torch.stack(units)
        return cls(models, *sizes, shape, _root(torch.stack(normal)), len(errors))

    def std(self, features: Tensor, log_size: Tensor) -> Tensor:
        """Root mean square errors, (batch, n)."""
        base = 2 * log_size.maximum(self.floors)
        found = [model(features, base[:, j : j + 1]) for j, model in enumerate(self.models)]
        return self.units * (0.5 * torch.cat(found, dim=-1)).exp()

    def half_width(self, level: float) -> Tensor:
        """Of the central interval, in standard deviations, (n,)."""
        return self.shape.half_width(level)[:, 0]

    def scores(self, white: Tensor) -> Tensor:
        """Draws of e_j / std_j from standard normal numbers, (..., n)."""
        g = white @ self.root.mT
        return self.shape(g.reshape(-1, g.shape[-1]).T).T.reshape(g.shape)


def _likeliest(
    features: Tensor, log_size: Tensor, error: Tensor
) -> tuple[VarianceModel, Tensor, Tensor]:
    """The fit to errors (n_draws, 1) with its floor, (), and error / std of draws it has not seen.

    log p  =  -1/2 sum_i (log var_i + log mean score^2) + ...,    a Gaussian of the best factor
    """
    typical = 0.5 * ((2 * log_size).logsumexp(0)[0] - math.log(len(log_size)))
    found: list[tuple[float, VarianceModel, Tensor, Tensor]] = []
    for part in _FLOORS:
        floor = typical + math.log(part)
        if found and not (log_size < floor).any() and not (error.abs() < _LEAST).any():
            continue
        model = VarianceModel(features.shape[1], 1).to(error)
        log_variance = model.fit(
            features, 2 * log_size.maximum(floor), torch.hypot(error, torch.full_like(error, part))
        )
        scores = error * (-0.5 * log_variance).exp()
        size = scores.square().mean().clamp(min=torch.finfo(error.dtype).tiny)
        found.append((float(log_variance.mean() + size.log()), model, floor, scores))
    return min(found, key=lambda fit: fit[0])[1:]


def _root(g: Tensor) -> Tensor:
    """Of the correlation of numbers g (n, n_draws), symmetric; fewer draws than numbers will do."""
    size = g.square().sum(1).sqrt()
    # Numbers without an error go with nothing.
    unit = g / torch.where(size > 0, size, 1.0)[:, None]
    correlation = unit @ unit.T
    correlation.fill_diagonal_(1.0)
    values, vectors = torch.linalg.eigh(correlation)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
