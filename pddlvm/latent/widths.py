"""Are the error bars of an inverse map much wider than what the forward map tells of parameters?

    xi_i is told to  t_i = rms |J^+ (u - mean(xi))|_i,     J = d mean / d xi

over solutions u of known xi: one step of least squares with the forward map, from the right place,
errs by t; of what u does not show, by the prior. An inverse map whose standard deviation s_i is far
above t_i is not trained yet.
"""

import torch
from torch import Tensor, nn

__all__ = ["Widths", "verdict_on_width"]

_TIMES, _WIDE = 3.0, 0.1
"""Above so many t, and so much of the standard deviation of the prior."""
_UNSEEN = 1e-9
"""Of the largest singular value of J."""


class Widths(nn.Module):
    """s and t of a trained model in standard coordinates, (d,) each; zero before a calibration.

    Args:
        d: number of parameters.
    """

    std: Tensor
    told: Tensor

    def __init__(self, d: int) -> None:
        super().__init__()
        self.register_buffer("std", torch.zeros(d, dtype=torch.float64))
        self.register_buffer("told", torch.ones(d, dtype=torch.float64))

    def fit(self, std: Tensor, slopes: Tensor, errors: Tensor) -> None:
        """From solutions.

        Args:
            std: of the inverse map, (n, d).
            slopes: J, (n_solved, n_values, d).
            errors: u - mean, (n_solved, n_values).
        """
        left, sizes, right = torch.linalg.svd(slopes, full_matrices=False)
        seen = sizes > _UNSEEN * sizes[:, :1]
        inverse = torch.where(seen, 1 / torch.where(seen, sizes, 1.0), 0.0)
        steps = ((left.mT @ errors[..., None])[..., 0] * inverse)[:, None] @ right
        # Of what u does not show, the prior is left.
        hidden = 1 - (right.square() * seen[..., None]).sum(1)
        self.told.copy_((steps[:, 0].square() + hidden).mean(0).clamp(0, 1).sqrt())
        self.std.copy_(std.square().mean(0).sqrt())

    @property
    def verdict(self) -> str:
        """On the inverse map as a whole."""
        return verdict_on_width(self.std, self.told)


def verdict_on_width(std: Tensor, told: Tensor) -> str:
    """Accept, or refine with the reason and what to do, of s and t (d,)."""
    excess = std.to(told) / (_TIMES * told).clamp(min=_WIDE)
    worst = int(excess.argmax())
    if excess[worst] <= 1:
        return "accept"
    return (
        f"refine: the error bar of z[{worst}] is {100 * float(std[worst]):.3g} % of the "
        f"spread of its prior, and the forward map tells it to {100 * float(told[worst]):.3g} %: "
        "train longer, or give noise_std, with which the forward map is asked"
    )
