"""Calibration of a collocation model on fresh prior draws: one linearised solve per draw.

The error e of a mean solves  sum_a dr/du_a D_a e = -r(mean)  up to second order. Its principal
components relative to the residual of each draw become the error modes E,

    u | z  ~  N(mean, rho(z)^2 (E diag E^T + diag)),      rho the root mean square of the residual,

whose variances, relative to the size of u, are fitted to a part of the draws, and one factor to the
rest. A corrected mean has
a smaller rho, and is trusted accordingly. The inverse map is then given fields with such errors,
which are what a user will give it.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pddlvm.collocation import chebyshev
from pddlvm.collocation.interpolation import interpolate
from pddlvm.collocation.problem import CollocationProblem
from pddlvm.errors import InputError
from pddlvm.inversion import inverse_features
from pddlvm.random import seeded

if TYPE_CHECKING:
    from pddlvm.collocation.model import CollocationModel

__all__ = [
    "N_CALIBRATION",
    "References",
    "calibrate_forward",
    "calibrate_inverse",
    "calibrate_misfit",
]

N_CALIBRATION = 96
_SEED = 1

_MIN_SAMPLES = 32
_HELD_OUT = 0.25
_N_INVERSE = 1024
_CHUNK = 128


@dataclass(frozen=True)
class References:
    """Solutions that the calibration of the forward map found, for that of the inverse map.

    Attributes:
        drawn_with: number of draws and seed.
        xi: (n_samples, d).
        u: on the grid, (n_samples, n_dofs).
    """

    drawn_with: tuple[int, int]
    xi: Tensor
    u: Tensor

    def to(self, like: Tensor) -> "References":
        """Where a model is: it may have moved since, and checkpoints hold them on the CPU."""
        return replace(self, xi=self.xi.to(like), u=self.u.to(like))

    @classmethod
    def of_state(
        cls, state: dict[str, Any] | None, problem: CollocationProblem
    ) -> "References | None":
        """What a checkpoint holds of them; a ValueError where they are of another problem."""
        if state is None:
            return None
        found = cls(**state)
        n = len(found.xi)
        if (found.xi.shape, found.u.shape) != ((n, problem.n_parameters), (n, problem.n_dofs)):
            raise ValueError("references of another problem")
        return found


def calibrate_forward(
    model: "CollocationModel", n_samples: int = N_CALIBRATION, seed: int = _SEED
) -> None:
    """Fit the error modes and their variances; see the module's docstring."""
    if n_samples < _MIN_SAMPLES:
        raise InputError(f"calibration needs at least {_MIN_SAMPLES} samples, got {n_samples}")
    generator = torch.Generator().manual_seed(seed)
    like, uncertainty = model.sigma_residual, model.uncertainty
    z64 = model.problem.prior.sample((n_samples,), generator=generator)
    z = z64.to(like.device)
    xi = model.problem.prior.standardise(z).to(like)
    unit = float(model.basis.unit)
    with torch.no_grad():
        c, _ = model.forward_map(xi)
        jet = model.newton.jet(model.basis.nodal(c).cpu(), z64)
        e = model.newton.error(jet, z64) / unit
        size = model.log_residual(c, z)
    n = n_samples - int(_HELD_OUT * n_samples)
    rho = size.exp().double().cpu()
    modes = torch.linalg.svd(e[:n] / rho[:n], full_matrices=False).Vh[: model.error_modes.shape[1]]
    model.error_modes.copy_(modes.T)
    part = (e @ modes.T).to(like)
    rest = (e - part.double().cpu() @ modes).to(like)
    none = torch.zeros_like(size)
    features, base = uncertainty.forward_features(xi, size, none)
    uncertainty.c[0].fit(features[:n], base[:n], part[:n], generator)
    uncertainty.rest.fit(xi[:n], 2 * size[:n], rest[:n], generator)
    uncertainty.is_calibrated.fill_(True)
    uncertainty.factor_u.fill_(1)
    with torch.no_grad():
        var_c, var_rest = uncertainty.forward_variances(xi[n:], size[n:], none[n:], 0)
        std = (var_c @ model.error_modes.square().T + var_rest).sqrt()
        std = interpolate(model.problem, std, z[n:], None, chebyshev.hats)
    tiny = torch.finfo(std.dtype).tiny
    scores = interpolate(model.problem, e[n:], z64[n:]).to(like) / std.clamp(min=tiny)
    free = torch.from_numpy(model.problem.free_dofs)
    uncertainty.fit_forward_shape(0, scores[:, free])
    with torch.no_grad():
        u = model.basis.on_grid(c, z) + unit * interpolate(model.problem, e, z64).to(z)
    model.references = References((n_samples, seed), xi, u)


def calibrate_inverse(model: "CollocationModel", seed: int) -> None:
    """Fit the variances of the inverse map on fields that differ from the mean by its errors."""
    generator = torch.Generator().manual_seed(seed)
    like, prior = model.sigma_residual, model.problem.prior
    xi = prior.sample_standard((_N_INVERSE,), generator=generator).to(like)
    z = prior.unstandardise(xi.double())
    known = model.draw_known(len(xi), generator)
    found: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), seeded(seed, like.device):
        for start in range(0, len(xi), _CHUNK):
            rows = slice(start, start + _CHUNK)
            u = model.sample_fields(xi[rows], z[rows])
            found.append(model.neural_inverse(u, xi[rows] * known[rows], known[rows]))
    mean, log_variance = (torch.cat(parts) for parts in zip(*found, strict=True))
    features, base = inverse_features(mean, log_variance, None, known)
    unknown = known == 0
    variance = model.uncertainty.xi[0]
    variance.fit(features, base, mean - xi, generator, counts=unknown.to(xi))
    # The factors come from the corrected solutions, each with every set of known blocks.
    assert model.references is not None
    references = model.references.to(like)
    xi, u = references.xi, references.u
    for pattern, known in enumerate(_patterns(model, len(xi))):
        with torch.no_grad():
            mean, log_variance = model.neural_inverse(u, xi * known, known)
            features, base = inverse_features(mean, log_variance, None, known)
            std = (0.5 * variance(features, base)).exp()
        unknown = known == 0
        if unknown.any():
            scores = (mean - xi) / std
            model.uncertainty.fit_inverse_shape(0, pattern, scores, unknown)


def calibrate_misfit(model: "CollocationModel") -> None:
    """The misfits of the references, by which those of a query are judged."""
    assert model.references is not None
    references = model.references.to(model.sigma_residual)
    u, none = references.u, torch.zeros_like(references.xi)
    with torch.no_grad():
        model.plausibility.fit(0, model.misfit(u, model.invert(u, none, none)[0]))


def _patterns(model: "CollocationModel", n: int) -> list[Tensor]:
    """Masks (n, d) of all sets of known blocks, in the order of `Uncertainty.known_pattern`."""
    sizes = [block.size for block in model.problem.prior.blocks.values()]
    n_patterns = model.uncertainty.factor_xi.shape[1]
    bits = [[(k >> i) & 1 for i in range(len(sizes))] for k in range(n_patterns)]
    found = torch.tensor(bits).repeat_interleave(torch.tensor(sizes), dim=1)
    return list(found.to(model.sigma_residual)[:, None, :].expand(-1, n, -1))
