"""Calibrated variances: log-variance models fitted to observed errors.

    e_sj ~ N(0, exp(base_sj + shift_j + 2 s(features_s)))

base is what is known about the error of sample s in component j (a residual, a Laplace variance),
shift a constant per component and s a small network. Given the shifts, the likelihood of s depends
on the errors only through one number per sample, so the fit costs next to nothing at any number
of components.
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["VarianceModel"]

_STEPS = 200
_CHECK_STEPS = 5
_SWEEPS = 2
_HELD_OUT = 0.25


class VarianceModel(nn.Module):
    """Log variance from features, see the module's docstring.

    Args:
        n_features: length of the feature vector.
        n_components: number of components j.
    """

    centre: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, n_features: int, n_components: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("shift", torch.zeros(n_components))
        self.network = nn.Sequential(
            nn.Linear(n_features, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1)
        )

    def forward(self, features: Tensor, base: Tensor) -> Tensor:
        """Log variance, (batch, n_components); base is (batch, n_components) or (batch, 1)."""
        return base + self.shift + 2 * self._log_scale(features)

    def fit(
        self,
        features: Tensor,
        base: Tensor,
        errors: Tensor,
        generator: torch.Generator,
        counts: Tensor | None = None,
    ) -> None:
        """Maximum likelihood on errors (n_samples, n_components); early stopping on a quarter.

        Args:
            features: (n_samples, n_features).
            base: (n_samples, n_components) or (n_samples, 1).
            errors: (n_samples, n_components).
            generator: chooses the quarter.
            counts: 1 for errors that count, 0 for others, of the shape of errors; default all.
        """
        self.centre = features.mean(0)
        self.scale = features.std(0).clamp(min=1e-6)
        n = len(features)
        order = torch.randperm(n, generator=generator).to(features.device)
        held, rest = order[: int(_HELD_OUT * n)], order[int(_HELD_OUT * n) :]
        counts = torch.ones_like(errors) if counts is None else counts
        ratio = counts * errors.square() * (-base).exp()
        # A component, or a sample, may have nothing that counts.
        per_component = counts[rest].mean(0).clamp(min=1 / n)
        per_sample = counts.mean(1, keepdim=True)
        floor = 1e-12 * float(ratio.mean()) + torch.finfo(errors.dtype).tiny
        head = self.network[-1]
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.zero_()
        for _ in range(_SWEEPS):
            with torch.no_grad():
                spread = (-2 * self._log_scale(features[rest])).exp()
                shift = (ratio[rest] * spread).mean(0) / per_component
                self.shift = shift.clamp(min=floor).log()
            statistic = (ratio * (-self.shift).exp()).mean(1, keepdim=True)
            self._fit_network(features, statistic, per_sample, rest, held)

    def _log_scale(self, features: Tensor) -> Tensor:
        scaled = ((features - self.centre) / self.scale).clamp(-6, 6)
        result: Tensor = self.network(scaled)
        return result

    def _fit_network(
        self, features: Tensor, statistic: Tensor, share: Tensor, rest: Tensor, held: Tensor
    ) -> None:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=5e-3, weight_decay=1e-2)
        best, state = math.inf, {k: v.clone() for k, v in self.network.state_dict().items()}

        def loss(index: Tensor) -> Tensor:
            s = self._log_scale(features[index])
            return (0.5 * statistic[index] * (-2 * s).exp() + share[index] * s).mean()

        for step in range(_STEPS):
            optimizer.zero_grad()
            loss(rest).backward()
            optimizer.step()
            if step % _CHECK_STEPS:
                continue
            with torch.no_grad():
                now = float(loss(held))
            if now < best:
                best, state = now, {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(state)
