"""Calibration of a collocation model on fresh prior draws: one linearised solve per draw.

The error e of a mean solves  sum_a dr/du_a D_a e = -r(mean)  up to second order. Its principal
components relative to the residual of each draw become the error modes E,

    u | z  ~  N(mean, rho(z)^2 (E diag E^T + diag)),      rho the root mean square of the residual,

whose variances, relative to the size of u, are fitted to them. A corrected mean has a smaller rho;
what it misses, because the nodes do, is found on finer nodes, and gets a factor and a shape of its
own. The inverse map is then given fields with such errors, which are what a user will give it.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pddlvm.collocation import chebyshev
from pddlvm.collocation.interpolation import interpolate
from pddlvm.collocation.newton import SpaceTimeNewton
from pddlvm.collocation.problem import CollocationProblem
from pddlvm.errors import InputError
from pddlvm.inversion import inverse_features
from pddlvm.random import seeded

if TYPE_CHECKING:
    from pddlvm.collocation.model import CollocationModel

__all__ = [
    "References",
    "calibrate_forward",
    "calibrate_inverse",
    "calibrate_misfit",
    "default_n_samples",
]

_SEED = 1

_MIN_SAMPLES = 32
_N_FINE, _FINER = 24, 1.25
"""Draws solved on finer nodes, which cost twice to three times as much, and how many more they are
along each coordinate."""
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


def default_n_samples() -> int:
    """Draws of a calibration, a dense solve each."""
    return 96


def calibrate_forward(
    model: "CollocationModel", n_samples: int | None = None, seed: int = _SEED
) -> None:
    """Fit the error modes and their variances; see the module's docstring."""
    n_samples = default_n_samples() if n_samples is None else n_samples
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
    rho = size.exp().double().cpu()
    modes = torch.linalg.svd(e / rho, full_matrices=False).Vh[: model.error_modes.shape[1]]
    model.error_modes.copy_(modes.T)
    part = (e @ modes.T).to(like)
    rest = (e - part.double().cpu() @ modes).to(like)
    features, base = uncertainty.forward_features(xi, size, torch.zeros_like(size))
    uncertainty.c[0].fit(features, base, part, generator)
    uncertainty.rest.fit(xi, base, rest, generator)
    uncertainty.c[1].load_state_dict(uncertainty.c[0].state_dict())
    uncertainty.is_calibrated.fill_(True)
    uncertainty.factor_u.fill_(1)
    _fit_shape(model, 0, interpolate(model.problem, e, z64), z, xi, size)
    few = slice(0, _N_FINE)
    error, size = _corrected(model, c[few], z64[few])
    _fit_shape(model, 1, error, z[few], xi[few], size)
    with torch.no_grad():
        u = model.basis.on_grid(c, z) + unit * interpolate(model.problem, e, z64).to(z)
    model.references = References((n_samples, seed), xi, u)


def _corrected(model: "CollocationModel", c: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Errors on the grid of corrected means, relative to the size of u, and their log residuals."""
    problem, like = model.problem, model.sigma_residual
    nodes = tuple(round(_FINER * n) for n in problem.nodes)
    fine = SpaceTimeNewton(problem, nodes)
    with torch.no_grad():
        start = model.basis.nodal(c)
        change = model.newton.change(start, z, 1)
        size = model.log_residual(c, z.to(like.device), change)
        boxed = (start + change[()]).cpu().reshape(len(c), *problem.nodes)
        sizes = zip(nodes, problem.nodes, strict=True)
        matrices = [chebyshev.barycentric(chebyshev.nodes(n), m) for n, m in sizes]
        found = chebyshev.tensor_product(boxed, matrices).flatten(1)
        e = fine.error(fine.jet(found, z), z) / float(model.basis.unit)
    return interpolate(problem, e, z, nodes=nodes), size


def _fit_shape(
    model: "CollocationModel", level: int, error: Tensor, z: Tensor, xi: Tensor, size: Tensor
) -> None:
    """Factor and shape of a level from errors on the grid, (n_samples, n_dofs)."""
    with torch.no_grad():
        var_c, var_rest = model.uncertainty.forward_variances(
            xi, size, torch.zeros_like(size), level
        )
        std = (var_c @ model.error_modes.square().T + var_rest).sqrt()
        std = interpolate(model.problem, std, z, None, chebyshev.hats)
    tiny = torch.finfo(std.dtype).tiny
    # The quotient in float64: errors of corrected means leave the range of squares in float32.
    scores = (error.to(std.device) / std.double().clamp(min=tiny)).to(std)
    free = torch.from_numpy(model.problem.free_dofs)
    model.uncertainty.fit_forward_shape(level, scores[:, free])


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
