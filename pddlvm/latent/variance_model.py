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
_SIZES = (1.0, 0.5, 0.25, 0.1, 0.01)
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
        # Each ridge with each fold left out, ridge after ridge.
        kept = (fold != torch.arange(_FOLDS)[:, None]).to(phi).repeat(len(_RIDGES), 1)
        ridges = torch.tensor(_RIDGES, dtype=phi.dtype)
        weights, typical, shifts = _fit(phi, ratio, share, kept, ridges.repeat_interleave(_FOLDS))
        growth = 2 * weights @ phi.mT
        held_out = (1 - kept) * _log_likelihoods(ratio, share, typical, growth)
        best = int(held_out.sum(1).unflatten(0, (-1, _FOLDS)).sum(1).argmax())
        own = best * _FOLDS + fold
        unseen = shifts[own] + growth[own, torch.arange(len(x))][:, None]
        weight, _, shift = (
            one[0] for one in _fit(phi, ratio, share, torch.ones_like(kept[:1]), ridges[best, None])
        )
        self.centre.copy_(centre)
        self.scale.copy_(scale)
        self.weight.copy_(weight)
        self.shift.copy_(shift)
        return (given + unseen).to(errors)


def _with_mean(features: Tensor, base: Tensor) -> Tensor:
    return torch.cat([features, base.mean(-1, keepdim=True)], dim=-1)


def _phi(x: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    x = ((x - centre) / scale).clamp(-_FAR, _FAR)
    return torch.cat([x, _ROOT_SCALE * ((1 + x.square()).sqrt() - _MEAN_ROOT)], dim=-1)


def _fit(
    phi: Tensor, ratio: Tensor, share: Tensor, kept: Tensor, ridges: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """By turns, for ratios e^2 exp(-base): weights (n_fits, n_phi), shifts (n_fits, n_components).

    Several fits at once: they are small, and each operation costs as much for one as for all. The
    first shifts are those of the density, the second those of the mean squares.

    Args:
        phi: (n, n_phi).
        ratio: (n, n_components).
        share: (n, n_components).
        kept: 1 at the samples of a fit and 0 at others, (n_fits, n).
        ridges: (n_fits,).
    """
    floor = 1e-12 * float(ratio.mean()) + torch.finfo(torch.float32).tiny
    n_components = ratio.shape[1]
    per_component, per_sample = kept @ share, kept * share.mean(1)
    one = torch.cat([phi, torch.ones_like(phi[:, :1])], dim=1)
    penalty = (2 * ridges)[:, None] * torch.ones_like(one[0])
    penalty[:, -1] = 0.0
    weight = torch.zeros_like(penalty)

    def shifts(spread: Tensor) -> Tensor:
        return _over((kept * spread) @ ratio, per_component).clamp(min=floor).log()

    typical = shifts(torch.ones_like(kept))
    for _ in range(_SWEEPS):
        statistic = kept * ((-typical).exp() @ ratio.mT) / n_components
        # Without any error nothing determines the weights.
        found = statistic.amax(1, keepdim=True) > 0
        weight = _newton(one, statistic, found * per_sample, penalty, weight)
        pull = (-2 * weight @ one.mT).exp()
        # The expectation of 1 / t.
        spread = 2 * pull / (1 + _over(statistic, per_sample) * pull)
        typical = torch.where(found, shifts(spread), typical)
        weight[:, -1] = 0.0
    return weight[:, :-1], typical, shifts((-2 * weight @ one.mT).exp())


def _log_likelihoods(ratio: Tensor, share: Tensor, typical: Tensor, growth: Tensor) -> Tensor:
    """Of each sample in each fit, without what does not depend on the variances, (n_fits, n).

    Log variances are typical (n_fits, n_components) + growth (n_fits, n).
    """
    n_components, per_sample = ratio.shape[1], share.mean(1)
    q = _over((-growth).exp() * ((-typical).exp() @ ratio.mT) / n_components, per_sample)
    log_variance = typical @ share.mT / n_components + per_sample * growth
    return -(per_sample * q.log1p() + 0.5 * log_variance)


def _newton(x: Tensor, statistic: Tensor, share: Tensor, penalty: Tensor, weight: Tensor) -> Tensor:
    """Minimisers of  sum_s share_s (log(1 + q_s exp(-2 w . x_s)) + w . x_s) + 1/2 w penalty w.

    q = statistic / share, (n_fits, n). Convex, in some twenty unknowns w, (n_fits, n_phi): a
    shorter step is all that it may take.
    """
    # Where nothing counts or every error is zero, w is not determined by them.
    least = 1e-9 * (share.sum(1) + 1e-300)
    q = _over(statistic, share)

    def loss(w: Tensor) -> Tensor:
        s = w @ x.mT
        return (share * ((q * (-2 * s).exp()).log1p() + s)).sum(1) + 0.5 * (penalty * w**2).sum(1)

    now, open_ = loss(weight), torch.ones(len(weight), dtype=torch.bool)
    for _ in range(_STEPS):
        pull = q * (-2 * weight @ x.mT).exp()
        known = pull / (1 + pull)
        slope = (share * (1 - 2 * known)) @ x + penalty * weight
        curvature = x.mT @ ((share * 4 * known / (1 + pull))[..., None] * x)
        curvature = curvature + torch.diag_embed(penalty + least[:, None])
        step = torch.linalg.solve(curvature, slope)
        missed = open_
        for size in _SIZES:
            trial = weight - size * step
            after = loss(trial)
            taken = missed & (after <= now)
            open_ = open_ & ~(taken & (now - after <= 1e-10 * len(x)))
            weight = torch.where(taken[:, None], trial, weight)
            now = torch.where(taken, after, now)
            missed = missed & ~taken
            if not missed.any():
                break
        open_ = open_ & ~missed
        if not open_.any():
            break
    return weight


def _over(statistic: Tensor, share: Tensor) -> Tensor:
    """Means over what counts; zero where nothing does."""
    return statistic / share.clamp(min=1e-300)
