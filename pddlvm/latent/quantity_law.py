"""How wrong the value of a quantity is: a law that is fitted to that quantity alone.

    e_j = q_j(u) - value_j = std_j(z) T_j(g_j),     g ~ N(0, C)
    log std_j = log size_j(z) + shift_j + s_j(xi, log rho, log size_j)

size is what an answer knows of its own error to first order, rho its certificate, T_j an
`ErrorShape` and s_j that of a `VarianceModel`: the law of the values of u, for one number. An error
bar of u cannot stand in for it: errors of u at different points depend on each other, and an
adjoint solution takes away nearly all that they have in common. The e_j are those of the model on
draws of the prior whose reference solutions are known. C makes draws of several numbers joint.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.latent.error_shape import ErrorShape
from pddlvm.latent.variance_model import VarianceModel

__all__ = ["QuantityLaw"]


@dataclass(frozen=True)
class QuantityLaw:
    """Of n numbers; float64 on the CPU.

    Attributes:
        models: log variance of each, relative to its unit.
        units: sizes of the errors, (n,).
        shape: T_j.
        root: a square root of C, (n, n).
        n_draws: draws of the prior whose reference solutions were compared.
    """

    models: list[VarianceModel]
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
        models, units, values, normal = [], [], [], []
        for j in range(errors.shape[1]):
            model = VarianceModel(features.shape[1], 1).to(errors)
            error = errors[:, j : j + 1] / unit[j]
            # Scores of draws that their own fit has not seen.
            scores = error * (-0.5 * model.fit(features, 2 * log_size[:, j : j + 1], error)).exp()
            shape, factor = ErrorShape.of_scores(scores)
            models.append(model)
            units.append(unit[j] * factor)
            values.append(shape.values)
            normal.append(shape.inverse(scores[:, 0] / max(factor, tiny))[0])
        shape = ErrorShape(torch.stack(values))
        return cls(models, torch.stack(units), shape, _root(torch.stack(normal)), len(errors))

    def std(self, features: Tensor, log_size: Tensor) -> Tensor:
        """Root mean square errors, (batch, n)."""
        found = [model(features, 2 * log_size[:, j : j + 1]) for j, model in enumerate(self.models)]
        return self.units * (0.5 * torch.cat(found, dim=-1)).exp()

    def half_width(self, level: float) -> Tensor:
        """Of the central interval, in standard deviations, (n,)."""
        return self.shape.half_width(level)[:, 0]

    def scores(self, white: Tensor) -> Tensor:
        """Draws of e_j / std_j from standard normal numbers, (..., n)."""
        g = white @ self.root.mT
        return self.shape(g.reshape(-1, g.shape[-1]).T).T.reshape(g.shape)


def _root(g: Tensor) -> Tensor:
    """Of the correlation of numbers g (n, n_draws), symmetric; fewer draws than numbers will do."""
    size = g.square().sum(1).sqrt()
    # Numbers without an error go with nothing.
    unit = g / torch.where(size > 0, size, 1.0)[:, None]
    correlation = unit @ unit.T
    correlation.fill_diagonal_(1.0)
    values, vectors = torch.linalg.eigh(correlation)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
