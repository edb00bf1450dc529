"""Parameters behind a whole field with noise: the inverse map of what is not an exact solution.

    u + e,   e ~ N(0, diag(std^2));     y = Q^T (u + e) / std,     y | z ~ N(Q^T u(z) / std, I)

Q is an orthonormal basis of what the model can say, divided by std: y is all that the field says of
z, and few numbers. The rest of the field says whether std is right. The Laplace approximation of
z | y is that of any other data.
"""

from collections.abc import Mapping

import scipy.sparse as sp
import torch
from scipy.stats import chi2
from torch import Tensor

from pddlvm.basics.checks import check_kind, numbers_of
from pddlvm.basics.errors import InputError
from pddlvm.inference.laplace import Laplace, laplace
from pddlvm.latent.core import LatentModel
from pddlvm.latent.inverse import Inverse
from pddlvm.latent.plausibility import smaller_of_two
from pddlvm.latent.prediction import unflatten
from pddlvm.latent.surrogate import ModelSurrogate
from pddlvm.sensors.observation import LinearObservation

__all__ = ["inverse_of_noisy"]

_ADVICE = "check units, boundary values and noise_std: is it that of every value?"
_CHUNK = 32
_N_MOMENTS = 512


def inverse_of_noisy(
    model: LatentModel,
    u: Tensor,
    noise_std: float | Tensor,
    z_known: dict[str, Tensor] | None = None,
) -> Inverse:
    """The posterior of z given fields u (..., n_dofs) with noise; see the module's docstring.

    Raises:
        InputError: noise_std is not positive or of a wrong shape, or blocks are known.
        ConvergenceError: predictions are not finite.
    """
    check_kind(Mapping | None, z_known=z_known)
    if z_known:
        raise InputError("z_known cannot be given together with noise_std; leave one of them out")
    problem = model.problem
    std = torch.from_numpy(numbers_of(noise_std, "noise_std"))
    if std.shape not in ((), (problem.n_dofs,)):
        raise InputError(
            f"noise_std must be a number or have {problem.n_dofs} values, one per degree of "
            f"freedom, got shape {tuple(std.shape)}"
        )
    if not (torch.isfinite(std) & (std > 0)).all():
        raise InputError(f"noise_std must be positive and finite, got {float(std.min())}")
    scaled = (u.detach().double().cpu() / std).reshape(-1, problem.n_dofs)
    q = model.shapes(std)
    sensors = LinearObservation(problem, sp.csr_matrix((q.T / std).numpy()), 1.0)
    surrogate = model.surrogate(sensors, corrections=1)
    pieces = [scaled[i : i + _CHUNK] for i in range(0, len(scaled), _CHUNK)]
    parts = [_answer(surrogate, std, piece, piece @ q) for piece in pieces]
    batch = u.shape[:-1]
    if not parts:
        none = u.new_zeros(*batch, problem.n_parameters)
        least = none[..., 0]
        return Inverse(none, none, problem.prior, misfit=least, p_value=least, advice=_ADVICE)
    mean, spread, misfit, p_value = (torch.cat(part).to(u) for part in zip(*parts, strict=True))
    return Inverse(
        unflatten(mean, batch),
        unflatten(spread, batch),
        problem.prior,
        misfit=misfit.reshape(batch),
        p_value=p_value.reshape(batch),
        advice=_ADVICE,
    )


def _answer(surrogate: ModelSurrogate, std: Tensor, field: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Mean, spread, misfit and p-value of fields in units of the noise, (batch, n_dofs)."""
    found = laplace(surrogate, y)
    mean, spread = _moments(found)
    mode = found.coordinates.xi_of(torch.zeros_like(mean))
    error = surrogate.error(mode).dense()
    r = y - surrogate.mean(mode)
    k, rest = y.shape[1], field.shape[1] - y.shape[1]
    covariance = error + torch.eye(k, dtype=y.dtype)
    is_gaussian = torch.isinf(surrogate.prior.standard_bounds(mode)[1])
    misfit = (r * torch.linalg.solve(covariance, r)).sum(-1)
    misfit = misfit + torch.where(is_gaussian, mode.square(), 0.0).sum(-1)
    p = torch.from_numpy(chi2.sf(misfit.numpy(), k))
    if rest:
        outside = field.square().sum(-1) - y.square().sum(-1)
        forward = surrogate.forward(surrogate.prior.unstandardise(mode))
        whole = (forward.std / std).square().sum(-1)
        own = whole - error.diagonal(dim1=-2, dim2=-1).sum(-1)
        expected = 1 + own.clamp(min=0) / rest
        p_rest = torch.from_numpy(chi2.sf((outside / expected).numpy(), rest))
        p = smaller_of_two(p, p_rest)
        misfit = misfit + outside
    return mean, spread, misfit, torch.where(found.converged, p, 0.0)


def _moments(found: Laplace) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of xi, (batch, d): where xi has bounds, from draws."""
    centre, factor = found.coordinates.centre, found.coordinates.factor
    low, _ = found.coordinates.prior.standard_bounds(centre)
    generator = torch.Generator().manual_seed(0)
    w = torch.randn((_N_MOMENTS, *centre.shape), generator=generator, dtype=centre.dtype)
    xi = found.coordinates.xi_of(w)
    bounded = torch.isfinite(low)
    mean = torch.where(bounded, xi.mean(0), centre)
    return mean, torch.where(bounded, xi.std(0), factor.norm(dim=-1))
