"""Calibration of a collocation model on fresh prior draws: linearised solves from its means.

The error e of a mean solves  sum_a dr/du_a D_a e = -r(mean)  up to second order. Its principal
components relative to the residual of each draw become the error modes E,

    u | z  ~  N(mean, rho(z)^2 (E diag E^T + diag)),      rho the root mean square of the residual,

whose variances, relative to the size of u, are fitted to them; of several unknowns each has a
factor of its own. What a corrected mean misses, because the nodes do, is found on finer nodes, and
gets modes and variances of its own: rho is then the tail of its Chebyshev coefficients, which
follows the error over many orders. The inverse map is then given fields with such errors, and its
factors are those of the solutions that were found, with what the nodes miss: these are what a user
will give it.
"""

from copy import deepcopy

import torch
from torch import Tensor

from pddlvm.basics.checks import check_count
from pddlvm.basics.random import seeded
from pddlvm.collocation.error_field import ERROR_MODES, finer_nodes
from pddlvm.collocation.model import CollocationMaps
from pddlvm.collocation.references import References
from pddlvm.galerkin.gauss_newton import inverse_features
from pddlvm.latent.rows import Rows
from pddlvm.linalg.derivatives import linearise
from pddlvm.strong import chebyshev
from pddlvm.strong.interpolation import interpolate
from pddlvm.strong.nearby import nearby_error
from pddlvm.strong.newton import SpaceTimeNewton
from pddlvm.strong.problem import CollocationProblem

__all__ = [
    "calibrate",
    "calibrate_forward",
    "default_n_samples",
]


_MIN_SAMPLES = 32
_N_FINE = 96
"""Draws solved on finer nodes, which cost several times as much."""
_N_CENTRES, _N_CENTRES_FINE = 8, 4
"""Factorisations; those on finer nodes fill the memory."""
_TO_ROUNDING = 1e-6
_N_INVERSE = 1024
_N_WIDTHS = 32
_CHUNK = 128


def default_n_samples() -> int:
    """Draws of a calibration."""
    return 512


def calibrate(model: CollocationMaps, n_samples: int | None, seed: int) -> None:
    """See `LatentVariableModel.calibrate`."""
    n_samples = default_n_samples() if n_samples is None else n_samples
    if model.references is None or model.references.drawn_with != (n_samples, seed):
        calibrate_forward(model, n_samples, seed)
    _calibrate_inverse(model, seed)
    _judge_inverse(model)


def calibrate_forward(model: CollocationMaps, n_samples: int, seed: int) -> None:
    """Fit the error modes and their variances; see the module's docstring."""
    check_count(_MIN_SAMPLES, n_samples=n_samples)
    generator = torch.Generator().manual_seed(seed)
    like, uncertainty = model.sigma_residual, model.uncertainty
    z64 = model.problem.prior.sample((n_samples,), generator=generator)
    z = z64.to(like.device)
    xi = model.problem.prior.standardise(z).to(like)
    unknowns, unit = model.problem.unknowns, model.basis.unit.cpu()
    with torch.no_grad():
        c, _ = model.forward_map(xi)
        jet = model.newton.jet(model.basis.nodal(c).cpu(), z64)
        own = model.basis.unit_at_nodes.cpu()
        e = nearby_error(model.newton, jet, z64, xi, n_centres=_N_CENTRES, unit=own) / own
        size = model.log_residual(c, z)
    uncertainty.is_calibrated.fill_(True)
    on_grid = interpolate(model.problem.form, e, z64)
    at_nodes = _between(e, model.problem, finer_nodes(model.problem))
    _fit_level(model, 0, at_nodes, on_grid, size, z, xi)
    few = slice(0, _N_FINE)
    at_finer, missed, tail = _corrected(model, c[few], z64[few])
    _fit_level(model, 1, at_finer, missed, tail, z[few], xi[few])
    with torch.no_grad():
        # What the nodes miss is seen by the inverse map: that of the nearest draw that has it.
        on_grid = on_grid + missed[torch.cdist(xi, xi[few]).argmin(dim=1).cpu()]
        # No finer than what the inverse map reads: checkpoints hold them.
        on_grid = unknowns.beside_vectors(unit, len(model.problem.grid_points)) * on_grid
        u = (model.basis.on_grid(c, z) + on_grid.to(z)).to(like)
    model.references = References((n_samples, seed), xi, u)


def _corrected(model: CollocationMaps, c: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Errors of corrected means at finer nodes and on the grid, and log of what is unresolved.

    The errors are relative to the size of u.
    """
    problem, nodes = model.problem, finer_nodes(model.problem)
    fine = SpaceTimeNewton(problem.form, nodes)
    xi = problem.prior.standardise(z)
    with torch.no_grad():
        start = model.basis.nodal(c).double().cpu()
        # As in a query, but for rounding.
        mean = start + nearby_error(
            model.newton,
            model.newton.jet(start, z),
            z,
            xi,
            n_centres=_N_CENTRES,
            tolerance=_TO_ROUNDING,
            unit=model.basis.unit_at_nodes.cpu(),
        )
        found = _between(mean, problem, nodes)
        unit = problem.unknowns.beside_vectors(model.basis.unit.cpu(), fine.n_nodes)
        jet = fine.jet(found, z)
        e = nearby_error(fine, jet, z, xi, n_centres=_N_CENTRES_FINE, unit=unit) / unit
        size = model.newton.log_tail(mean, model.basis.unit).to(model.sigma_residual)
    return e, interpolate(problem.form, e, z, nodes=nodes), size


def _between(values: Tensor, problem: CollocationProblem, nodes: tuple[int, ...]) -> Tensor:
    """From the nodes of a problem to other nodes, (batch, n_values) of both."""
    start, q = problem.nodes, problem.unknowns.n
    matrices = problem.form.matrices(problem.form.node_axes(nodes), start)
    found = chebyshev.tensor_product(values.reshape(q * len(values), *start), matrices)
    return found.reshape(len(values), -1)


@torch.no_grad()
def _fit_level(
    model: CollocationMaps,
    level: int,
    e: Tensor,
    on_grid: Tensor,
    size: Tensor,
    z: Tensor,
    xi: Tensor,
) -> None:
    """Modes, variances, factor and shape of a level from errors, (n_samples, n_nodes)."""
    uncertainty, modes, own = model.uncertainty, model.error_modes, ERROR_MODES[level]
    # Those of an earlier calibration.
    uncertainty.relative_u[level] = 1.0
    rho = size.exp().to(e)
    found = torch.linalg.svd(e / rho, full_matrices=False).Vh[: own.stop - own.start].T
    modes[:, own] = found.to(modes)
    e, is_own = e.to(modes.device), torch.zeros_like(modes[:1])
    is_own[:, own] = 1
    of_level = is_own * modes.double()
    part = e @ of_level
    rest = e - part @ of_level.mT
    features, base = uncertainty.forward_features(xi, size, torch.zeros_like(size))
    # Nodes crowd at the ends: each stands for its part of the box.
    volumes = model.problem.form.quadrature_weights(finer_nodes(model.problem)).to(e.device)
    norms = volumes @ of_level.square()
    log_c = uncertainty.c[level].fit(features, base, part, is_own.expand(part.shape), norms)
    log_rest = uncertainty.rest[level].fit(xi, base, rest, norms=volumes)
    field = model.error_field(z, level=level)
    std = field.std(log_c[:, own].exp().to(modes), log_rest.exp().to(modes))
    scores = field.with_unit(on_grid.to(std)) / std.clamp(min=torch.finfo(std.dtype).tiny)
    free = torch.from_numpy(model.problem.free_dofs)
    of_each = [
        scores[:, free[(at.start <= free) & (free < at.stop)]].to(size)
        for at in model.problem.fields_of_u.values()
    ]
    uncertainty.fit_forward_shape(level, of_each)


def _calibrate_inverse(model: CollocationMaps, seed: int) -> None:
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
            u = model.sample_fields(xi[rows], z[rows], Rows.given(len(xi[rows])))
            found.append(model.neural_inverse(u, xi[rows] * known[rows], known[rows]))
    mean, log_variance = (torch.cat(parts) for parts in zip(*found, strict=True))
    features, base = inverse_features(mean, log_variance, None, known)
    unknown = known == 0
    variance = model.uncertainty.xi[0]
    variance.fit(features, base, mean - xi, counts=unknown.to(xi))
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


def _judge_inverse(model: CollocationMaps) -> None:
    """Misfits and widths of the references, by which those of a query are judged."""
    assert model.references is not None
    references = model.references.to(model.sigma_residual)
    u, none = references.u, torch.zeros_like(references.xi)
    with torch.no_grad():
        mean, std = model.invert(u, none, none)
        model.plausibility.fit(0, model.misfit(u, mean))
        model.plausibility.fit(1, model.inverse_map.outside(u))
    # Derivatives in float64: the last layer has large weights that cancel.
    forward_map, basis = deepcopy(model.forward_map).double().cpu(), model.basis
    xi, u = references.xi[:_N_WIDTHS].double().cpu(), references.u[:_N_WIDTHS].double().cpu()
    unit = basis.unit_at_nodes.reshape(-1, 1).cpu()
    shapes = (unit * basis.at_nodes.double().cpu()).T
    scale = model.problem.unknowns.beside_vectors(basis.unit.cpu(), len(model.problem.grid_points))

    def on_grid(xi: Tensor) -> Tensor:
        z = model.problem.prior.unstandardise(xi)
        return basis.field_of(forward_map(xi)[0] @ shapes, z) / scale

    found, slopes = linearise(on_grid, xi)
    model.widths.fit(std, slopes, u / scale - found)


def _patterns(model: CollocationMaps, n: int) -> list[Tensor]:
    """Masks (n, d) of all sets of known blocks, in the order of `Uncertainty.known_pattern`."""
    sizes = [block.size for block in model.problem.prior.blocks.values()]
    n_patterns = model.uncertainty.factor_xi.shape[1]
    bits = [[(k >> i) & 1 for i in range(len(sizes))] for k in range(n_patterns)]
    found = torch.tensor(bits).repeat_interleave(torch.tensor(sizes), dim=1)
    return list(found.to(model.sigma_residual)[:, None, :].expand(-1, n, -1))
