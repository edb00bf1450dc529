"""Calibrated variances: log-linear models of the variance, fitted to observed errors.

    e_sj ~ N(0, exp(base_sj + shift_j + 2 w . phi_s)),
    phi = (x, sqrt(1 + x^2)),    x the standardised features and the mean of base

base is what is known about the error of sample s in component j (a residual, a Laplace variance),
shift a constant per component. phi grows no faster than x, so that the fit holds out to the far
draws that decide a mean square; how strongly w is held to zero is chosen by cross-validation, since
there may be a hundred features and a hundred errors. Given the shifts, the likelihood of w is
convex and depends on the errors only through one number per sample.
"""

import torch
from torch import Tensor, nn

__all__ = ["VarianceModel"]

_RIDGES = (3.0, 30.0, 300.0, 3000.0)
_FOLDS = 4
_SWEEPS = 2
_STEPS = 30
_FAR = 6.0
"""Standard deviations beyond which features say no more."""
_MEAN_ROOT, _ROOT_SCALE = 1.3545, 2.0
"""E sqrt(1 + x^2) of a standard normal x, and what brings its spread near
that of x, so that one penalty serves both."""


class VarianceModel(nn.Module):
    """Log variance from features, see the module's docstring.

    Args:
        n_features: length of the feature vector.
        n_components: number of components j.
    """

    centre: Tensor
    scale: Tensor
    weight: Tensor
    shift: Tensor

    def __init__(self, n_features: int, n_components: int) -> None:
        super().__init__()
        n = n_features + 1
        self.register_buffer("centre", torch.zeros(n))
        self.register_buffer("scale", torch.ones(n))
        self.register_buffer("weight", torch.zeros(2 * n))
        self.register_buffer("shift", torch.zeros(n_components))

    def forward(self, features: Tensor, base: Tensor) -> Tensor:
        """Log variance, (batch, n_components); base is (batch, n_components) or (batch, 1)."""
        phi = _phi(_with_mean(features, base), self.centre, self.scale)
        return base + self.shift + 2 * (phi @ self.weight)[:, None]

    @torch.no_grad()
    def fit(
        self, features: Tensor, base: Tensor, errors: Tensor, counts: Tensor | None = None
    ) -> Tensor:
        """Penalised maximum likelihood on errors (n_samples, n_components), in float64 on the CPU.

        Args:
            features: (n_samples, n_features).
            base: (n_samples, n_components) or (n_samples, 1).
            errors: (n_samples, n_components).
            counts: 1 for errors that count, 0 for others, of the shape of errors; default all.

        Returns:
            Log variances of each sample by a fit that did not see it, of the shape of errors.
        """
        x, given, e = (part.double().cpu() for part in (_with_mean(features, base), base, errors))
        share = torch.ones_like(e) if counts is None else counts.double().cpu()
        centre, scale = x.mean(0), x.std(0).clamp(min=1e-6)
        phi, ratio = _phi(x, centre, scale), share * e.square() * (-given).exp()
        fold = torch.arange(len(x)) % _FOLDS
        candidates = {ridge: torch.empty_like(e) for ridge in _RIDGES}
        for k in range(_FOLDS):
            own, rest = fold == k, fold != k
            known = phi[rest], ratio[rest], share[rest]
            for ridge, unseen in candidates.items():
                weight, shift = _fit(*known, ridge)
                unseen[own] = shift + 2 * (phi[own] @ weight)[:, None]

        def loss(ridge: float) -> float:
            unseen = candidates[ridge]
            return float((ratio * (-unseen).exp() + share * unseen).mean())

        ridge = min(_RIDGES, key=loss)
        weight, shift = _fit(phi, ratio, share, ridge)
        self.centre.copy_(centre)
        self.scale.copy_(scale)
        self.weight.copy_(weight)
        self.shift.copy_(shift)
        return (given + candidates[ridge]).to(errors)


def _with_mean(features: Tensor, base: Tensor) -> Tensor:
    return torch.cat([features, base.mean(-1, keepdim=True)], dim=-1)


def _phi(x: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    x = ((x - centre) / scale).clamp(-_FAR, _FAR)
    return torch.cat([x, _ROOT_SCALE * ((1 + x.square()).sqrt() - _MEAN_ROOT)], dim=-1)


def _fit(phi: Tensor, ratio: Tensor, share: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weights (n_phi,) and shifts (n_components,) for ratios e^2 exp(-base), by turns."""
    n = len(phi)
    floor = 1e-12 * float(ratio.mean()) + torch.finfo(torch.float32).tiny
    per_component = share.mean(0).clamp(min=1 / n)
    one = torch.cat([phi, torch.ones(n, 1, dtype=phi.dtype)], dim=1)
    penalty = torch.full((one.shape[1],), 2 * ridge, dtype=phi.dtype)
    penalty[-1] = 0.0
    weight = torch.zeros_like(penalty)

    def shifts() -> Tensor:
        spread = (-2 * (phi @ weight[:-1])).exp()[:, None]
        return ((ratio * spread).mean(0) / per_component).clamp(min=floor).log()

    for _ in range(_SWEEPS):
        statistic = (ratio * (-shifts()).exp()).mean(1)
        if float(statistic.max()) == 0:
            break
        weight = _newton(one, statistic, share.mean(1), penalty, weight)
    return weight[:-1], shifts()


def _newton(x: Tensor, statistic: Tensor, share: Tensor, penalty: Tensor, weight: Tensor) -> Tensor:
    """Minimiser of  sum_s 1/2 statistic_s exp(-2 w . x_s) + share_s w . x_s + 1/2 w penalty w."""
    # Where nothing counts or every error is zero, w is not determined by them.
    least = 1e-9 * (float(share.sum()) + 1e-300)

    def loss(w: Tensor) -> float:
        s = x @ w
        return float((0.5 * statistic * (-2 * s).exp() + share * s).sum() + 0.5 * penalty @ w**2)

    now = loss(weight)
    for _ in range(_STEPS):
        pull = statistic * (-2 * (x @ weight)).exp()
        slope = x.mT @ (share - pull) + penalty * weight
        curvature = (x.mT * (2 * pull)) @ x + torch.diag(penalty + least)
        step = torch.linalg.solve(curvature, slope)
        for size in (1.0, 0.5, 0.25, 0.1, 0.01):
            trial = weight - size * step
            after = loss(trial)
            if after <= now:
                break
        else:
            break
        done, weight, now = now - after <= 1e-10 * len(x), trial, after
        if done:
            break
    return weight
