"""Calibrated variances: log-linear models of the variance, fitted to observed errors.

    e_sj ~ N(0, t_s exp(base_sj + shift_j + 2 w . phi_s)),    1 / t_s ~ chi^2 of one degree
    phi = (x, sqrt(1 + x^2)),    x the standardised features and the mean of base

base is what is known about the error of sample s in component j (a residual, a Laplace variance),
shift a constant per component. t_s is what no feature tells: a few samples have errors ten times
those of their neighbours, and without it w would follow these few. phi grows no faster than x, so
that the fit holds out to the far draws that decide a mean square; how strongly w is held to zero is
chosen by cross-validation, since there may be a hundred features and a hundred errors. Given the
shifts, the likelihood of w is convex and depends on the errors only through one number per sample,

    q_s = sum_j a_j e_sj^2 exp(-base_sj - shift_j)
    log p_s = -log(1 + q_s exp(-2 w . phi_s)) - w . phi_s

Numbers that stand for themselves have equal a_j. Where the components are parts of one field, a_j
is the share of j in its mean square: w says how the size of the field varies, and not how its many
small parts do, which may grow faster. In the end the shifts make the variances the mean squares of
the errors.
"""

import torch
from torch import Tensor, nn

__all__ = ["VarianceModel"]

_RIDGES = (3.0, 30.0, 300.0, 3000.0)
_FOLDS = 4
_SWEEPS = 3
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
        self,
        features: Tensor,
        base: Tensor,
        errors: Tensor,
        counts: Tensor | None = None,
        norms: Tensor | None = None,
        n_draws: int | None = None,
    ) -> Tensor:
        """Penalised maximum likelihood on errors (n_samples, n_components), in float64 on the CPU.

        Args:
            features: (n_samples, n_features).
            base: (n_samples, n_components) or (n_samples, 1).
            errors: (n_samples, n_components).
            counts: 1 for errors that count, 0 for others, of the shape of errors; default all.
            norms: squared norms of the parts of a field that the components multiply,
                (n_components,); by default each is a number for itself.
            n_draws: after so many the same draws come again, which no fit must have seen.

        Returns:
            Log variances of each sample by a fit that did not see it, of the shape of errors.
        """
        x, given, e = (part.double().cpu() for part in (_with_mean(features, base), base, errors))
        share = torch.ones_like(e) if counts is None else counts.double().cpu()
        if norms is not None:
            parts = norms.double().cpu() * (share * e.square() * (-given).exp()).mean(0)
            share = share * parts / parts.mean().clamp(min=torch.finfo(parts.dtype).tiny)
        centre, scale = x.mean(0), x.std(0).clamp(min=1e-6)
        phi, ratio = _phi(x, centre, scale), share * e.square() * (-given).exp()
        fold = torch.arange(len(x)) % (n_draws or len(x)) % _FOLDS
        likelihood = dict.fromkeys(_RIDGES, 0.0)
        unseen = {ridge: torch.empty_like(e) for ridge in _RIDGES}
        for k in range(_FOLDS):
            own, rest = fold == k, fold != k
            known = phi[rest], ratio[rest], share[rest]
            for ridge in _RIDGES:
                weight, typical, shift = _fit(*known, ridge)
                growth = 2 * (phi[own] @ weight)[:, None]
                unseen[ridge][own] = shift + growth
                likelihood[ridge] += _log_likelihood(ratio[own], share[own], typical + growth)
        ridge = max(_RIDGES, key=lambda ridge: likelihood[ridge])
        weight, _, shift = _fit(phi, ratio, share, ridge)
        self.centre.copy_(centre)
        self.scale.copy_(scale)
        self.weight.copy_(weight)
        self.shift.copy_(shift)
        return (given + unseen[ridge]).to(errors)


def _with_mean(features: Tensor, base: Tensor) -> Tensor:
    return torch.cat([features, base.mean(-1, keepdim=True)], dim=-1)


def _phi(x: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    x = ((x - centre) / scale).clamp(-_FAR, _FAR)
    return torch.cat([x, _ROOT_SCALE * ((1 + x.square()).sqrt() - _MEAN_ROOT)], dim=-1)


def _fit(phi: Tensor, ratio: Tensor, share: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """By turns, for ratios e^2 exp(-base): weights (n_phi,), and shifts (n_components,) twice.

    The first are those of the density, the second those of the mean squares.
    """
    n = len(phi)
    floor = 1e-12 * float(ratio.mean()) + torch.finfo(torch.float32).tiny
    per_component, per_sample = share.mean(0), share.mean(1)
    one = torch.cat([phi, torch.ones(n, 1, dtype=phi.dtype)], dim=1)
    penalty = torch.full((one.shape[1],), 2 * ridge, dtype=phi.dtype)
    penalty[-1] = 0.0
    weight = torch.zeros_like(penalty)

    def shifts(spread: Tensor) -> Tensor:
        return _over((ratio * spread[:, None]).mean(0), per_component).clamp(min=floor).log()

    typical = shifts(torch.ones(n, dtype=phi.dtype))
    for _ in range(_SWEEPS):
        statistic = (ratio * (-typical).exp()).mean(1)
        if float(statistic.max()) == 0:
            break
        weight = _newton(one, statistic, per_sample, penalty, weight)
        pull = (-2 * (one @ weight)).exp()
        # The expectation of 1 / t.
        typical = shifts(2 * pull / (1 + _over(statistic, per_sample) * pull))
        weight[-1] = 0.0
    return weight[:-1], typical, shifts((-2 * (one @ weight)).exp())


def _log_likelihood(ratio: Tensor, share: Tensor, log_variance: Tensor) -> float:
    """Of samples, without what does not depend on the variances (n_samples, n_components)."""
    q = _over((ratio * (-log_variance).exp()).mean(1), share.mean(1))
    return -float((share.mean(1) * q.log1p() + 0.5 * (share * log_variance).mean(1)).sum())


def _newton(x: Tensor, statistic: Tensor, share: Tensor, penalty: Tensor, weight: Tensor) -> Tensor:
    """Minimiser of  sum_s share_s (log(1 + q_s exp(-2 w . x_s)) + w . x_s) + 1/2 w penalty w.

    q = statistic / share. Convex, in some twenty unknowns: a shorter step is all that it may take.
    """
    # Where nothing counts or every error is zero, w is not determined by them.
    least = 1e-9 * (float(share.sum()) + 1e-300)
    q = _over(statistic, share)

    def loss(w: Tensor) -> float:
        s = x @ w
        return float((share * ((q * (-2 * s).exp()).log1p() + s)).sum() + 0.5 * penalty @ w**2)

    now = loss(weight)
    for _ in range(_STEPS):
        pull = q * (-2 * (x @ weight)).exp()
        known = pull / (1 + pull)
        slope = x.mT @ (share * (1 - 2 * known)) + penalty * weight
        curvature = (x.mT * (share * 4 * known / (1 + pull))) @ x + torch.diag(penalty + least)
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


def _over(statistic: Tensor, share: Tensor) -> Tensor:
    """Means over what counts; zero where nothing does."""
    return statistic / share.clamp(min=1e-300)
