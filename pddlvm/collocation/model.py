"""The latent variable model on learnt functions of space and time.

    u(x; z) = lift(x; z) + U F(s) sum_j c_j phi_j(s),     x = X(s; z)
    q(c | z) = N(mean(xi), diag(var(xi)))               p(xi | u) = N(mean, diag(var)), u on a grid

phi is a network of the reference coordinates (the trunk), the mean of c one of xi (the branch). Of
several unknowns phi_j has a value for each, and they share c; lift, U and F are those of each. The
points of a step are shared by its draws of z, so that the trunk and its derivatives cost next to
nothing: residuals at 256 points of 64 draws take the time of 256 points. See `pddlvm.latent.core`
for the probabilistic program.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pddlvm.basics.checks import (
    check_backward,
    check_corrections,
    check_count,
    check_kind,
    check_no_gradient,
    check_share,
)
from pddlvm.basics.grad_mode import out_of_inference
from pddlvm.basics.owned import owned
from pddlvm.basics.progress import ProgressBar
from pddlvm.basics.random import check_seed, seeded
from pddlvm.collocation.answer import forward_of
from pddlvm.collocation.basis import LearntBasis
from pddlvm.collocation.branch import Branch
from pddlvm.collocation.error_field import ERROR_MODES, ErrorField, finer_nodes
from pddlvm.collocation.field import FieldForward
from pddlvm.collocation.inverse_networks import InverseField, PrincipalGaussian
from pddlvm.collocation.likelihood import Causal, CollocationLikelihood
from pddlvm.collocation.references import References
from pddlvm.collocation.stream import PointStream
from pddlvm.collocation.trunk import Trunk
from pddlvm.galerkin.gauss_newton import inverse_features
from pddlvm.galerkin.maps import bounded
from pddlvm.latent.core import LatentModel
from pddlvm.latent.inverse import Inverse, known_inverse
from pddlvm.latent.networks import NeuralGaussian
from pddlvm.latent.plausibility import Plausibility, judged
from pddlvm.latent.rows import Rows
from pddlvm.latent.uncertainty import Uncertainty
from pddlvm.latent.widths import Widths
from pddlvm.strong.jets import Jet
from pddlvm.strong.newton import SpaceTimeNewton
from pddlvm.strong.points import PointSampler, Sobol
from pddlvm.strong.problem import CollocationProblem

__all__ = ["CollocationMaps"]

_ADVICE = "where u is measured give noise_std; where it is a solution train longer"


class CollocationMaps(LatentModel):
    """Forward and inverse maps of a problem in strong form; see `CollocationModel`."""

    calibration_share, batch_size = 0.03, 64
    problem: CollocationProblem
    basis: LearntBasis
    forward_map: Branch
    inverse_map: InverseField
    error_modes: Tensor
    residual_unit: Tensor

    @out_of_inference
    def __init__(
        self,
        problem: CollocationProblem,
        *,
        points: PointSampler = Sobol(256),  # noqa: B008 (frozen)
        tolerance: float = 1e-2,
        causal: Causal | None = None,
        n_functions: int = 128,
        forward_network: nn.Module | None = None,
        inverse_network: nn.Module | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        progress: bool = False,
    ) -> None:
        super().__init__()
        check_kind(CollocationProblem, problem=problem)
        check_kind(PointSampler, points=points)
        check_kind(Causal | None, causal=causal)
        check_kind(nn.Module | None, forward_network=forward_network)
        check_kind(nn.Module | None, inverse_network=inverse_network)
        check_kind(torch.dtype, dtype=dtype)
        check_share(tolerance=tolerance)
        check_count(1, n_functions=n_functions)
        self.problem = problem
        self.objective = "detached"
        self.tolerance, self.seed = tolerance, check_seed(seed)
        d = problem.n_parameters
        self.newton = SpaceTimeNewton(problem.form)
        unit = self.newton.size(problem.prior.sample((2,), seed=seed))
        self.zero_residual = CollocationLikelihood(problem, causal)
        n_extra = 2 * d if self.has_known else 0
        with seeded(seed), ProgressBar(progress) as bar:
            bar.say("making the functions of space and time")
            if forward_network is None:
                forward_network = NeuralGaussian(
                    d, n_functions, width=64, depth=3, log_variance=-8.0
                )
            n_unknowns = problem.unknowns.n
            trunk = Trunk(problem.ansatz.n_features, n_functions, n_unknowns).to(dtype)
            self.basis = LearntBasis(problem, trunk, self.newton.s, unit, self.seed)
            self.forward_map = Branch(forward_network, d, n_functions).to(dtype)
            shape = problem.grid if n_unknowns == 1 else (n_unknowns, *problem.grid)
            if inverse_network is None:
                inverse_network = PrincipalGaussian(shape, n_extra, d)
            self.inverse_map = InverseField(inverse_network.to(dtype), shape, n_unknowns)
            finer = SpaceTimeNewton(problem.form, finer_nodes(problem))
            n_values, hard = finer.n_values, (~finer.free).nonzero()[:, 0].numpy()
            n_errors, each = ERROR_MODES[-1].stop, np.arange(n_unknowns)
            self.uncertainty = Uncertainty(problem.prior, n_errors, n_values, hard, dtype, each)
        self.plausibility, self.widths = Plausibility(), Widths(d)
        self.register_buffer("sigma_residual", torch.full((1,), tolerance, dtype=dtype))
        one = torch.ones_like(self.basis.unit)
        self.register_buffer("residual_unit", problem.unknowns.beside_stacks(one))
        self.register_buffer("error_modes", torch.zeros(n_values, n_errors, dtype=dtype))
        self.references: References | None = None
        self.stream = PointStream(problem, points)
        self._fit_scales()
        self.basis.freeze()

    def __repr__(self) -> str:
        parts = f"{self.n_modes} functions, {self.stream.sampler!r}"
        return f"CollocationModel({self.problem!r}, {parts}, calibrated={self.is_calibrated})"

    @property
    def n_modes(self) -> int:  # noqa: D102
        return self.basis.at_nodes.shape[1]

    # --- training ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Forget an earlier training."""
        self.stream.restart()
        self.forward_map.reset()
        self.references = None
        self.uncertainty.is_calibrated.fill_(False)

    def sample_fields(self, xi: Tensor, z: Tensor, rows: Rows) -> Tensor:
        """Draws of u on the grid from q(u | z), (batch, n_dofs), without the rest of the spread."""
        c, log_variance = self.forward_map(xi)
        size = self.log_residual(c, z) if self.is_calibrated else None
        var_c, _ = self.variances(xi, size, log_variance)
        field = self.error_field(z)
        error = (var_c.sqrt() * rows.normal_like(var_c)) @ field.modes.T
        return self.basis.on_grid(c, z) + field.with_unit(field.of_nodes(error.double()))

    def draw_points(self, generator: torch.Generator) -> Tensor:
        """New collocation points inside and on the faces, (n, k), of the reference box."""
        return torch.cat(self.stream.draw(self.sigma_residual, generator, self._residual_at))

    def place(self, points: Tensor) -> None:
        """Find the functions at the points of `draw_points`."""
        everywhere = self.basis.at(points)
        self.zero_residual.inside, *self.zero_residual.on_faces = everywhere.split(
            self.stream.sizes
        )

    def likelihood(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:  # noqa: D102
        return self.zero_residual(c, z, self.sigma)

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of the residual, (1,), or the stack of those of each, float64."""
        return self.sigma_residual.double() * self.residual_unit

    def read(  # noqa: D102
        self, c: Tensor, z: Tensor, xi_known: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return self.read_field(self.basis.on_grid(c, z), xi_known, known)

    def read_field(
        self, u: Tensor, xi_known: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of xi, (batch, d) each, from u on the grid."""
        extra = self.sigma_residual.new_zeros(len(u), 0)
        if xi_known is not None and known is not None:
            extra = torch.cat([xi_known, known], dim=-1)
        mean, log_variance = self.inverse_map(u, extra)
        return mean, bounded(log_variance)

    # --- using the maps ------------------------------------------------------------------------

    @out_of_inference
    def forward(
        self,
        z: Tensor,
        corrections: int = 0,
        *,
        points: Tensor | None = None,
        extrapolate: bool = False,
    ) -> FieldForward:
        """Predict solutions, with uncertainty.

        Args:
            z: parameters, (..., d), in the support of the prior. Where they require a gradient,
                `.mean`, `.std` and `.residual_norm` have one, backwards.
            corrections: Newton steps on the space-time nodes, a dense solve each per query; the
                error then is that of the nodes.
            points: where, (n_points, k); by default on the grid of the problem.
            extrapolate: allow z outside the support, where the maps were never trained; std grows
                with the residual.

        Returns:
            A Gaussian field: `.mean`, `.std` (..., n_points), `.sample`, `.log_prob`,
            `.residual_norm`; of several unknowns one after the other, each by `.field(name)`. Its
            dtype and device are those of z.

        Raises:
            InputError, SupportError: z is no parameter vector of the prior, or is inside of a
                torch.func transform; a point is not in the box; the solution leaves the range of
                the dtype of z.
            ConvergenceError: a prediction is not finite, far from where the map was trained.
        """
        z = check_backward(z, "z")
        prior = self.problem.prior
        z = prior.vectors(z) if extrapolate else prior.check(z)
        check_corrections(corrections)
        points = None if points is None else self.problem.box.check(owned(points))
        return forward_of(self, z, corrections, points, not extrapolate)

    def norm(self, u: Tensor) -> Tensor:
        """Root mean square of u on the grid, (..., n_dofs) -> (...,); of several each over U."""
        return self.basis.norm(self.problem.check_solution(u))

    @out_of_inference
    def inverse(
        self,
        u: Tensor,
        z_known: dict[str, Tensor] | None = None,
        *,
        noise_std: float | Tensor | None = None,
    ) -> Inverse:
        """Infer parameters from full solutions on the grid, with uncertainty.

        Args:
            u: solutions, (..., n_dofs).
            z_known: name of block -> its values, (..., size), for blocks that are known.
            noise_std: of the errors of u, a number or one per dof, where it is measured; the
                posterior under that noise is found by the forward map.

        Returns:
            A Gaussian over z: `.mean`, `.std` (..., d), `.sample`, `.log_prob`; `.misfit`,
            `.p_value` (...,) and a `.verdict` in words. Its dtype and device are those of u.

        Raises:
            InputError: wrong shape, values that are not finite, a u that requires a gradient, or an
                unknown block name.
        """
        u = self.problem.check_solution(check_no_gradient(u, "u"))
        if noise_std is not None:
            return self._inverse_of_noisy(u, noise_std, z_known)
        batch, like = u.shape[:-1], self.sigma_residual
        xi_known, known = self.check_known(z_known, batch, u)
        with torch.no_grad():
            flat = u.reshape(-1, self.problem.n_dofs).to(like.device)
            mean, std = self.invert(flat, xi_known.to(like), known.to(like))
            misfit = self.misfit(flat, mean)
            p_value = self.plausibility.p_value_of_both(misfit, self.inverse_map.outside(flat))
        shape = self.uncertainty.inverse_shape(known.to(like), 0)
        found = known_inverse(
            mean.to(u), std.to(u), shape, xi_known, known, batch, self.problem.prior
        )
        return judged(
            found, misfit.to(u), p_value, _ADVICE, self.widths.told.to(u.device, copy=True)
        )

    def misfit(self, u: Tensor, xi: Tensor) -> Tensor:
        """How badly xi explains fields on the grid, (batch,): distance of its mean, relative."""
        z = self.problem.prior.unstandardise(xi.double())
        mean = self.basis.on_grid(self.forward_map(xi)[0], z)
        size = self.basis.norm(u.double())
        return (self.basis.norm(u - mean) / torch.where(size > 0, size, 1.0)).to(xi)

    def invert(self, u: Tensor, xi_known: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of xi, (batch, d) each."""
        mean, log_variance = self.neural_inverse(u, xi_known, known)
        features, base = inverse_features(mean, log_variance, None, known)
        return mean, self.uncertainty.inverse_std(features, base, known, 0)

    def neural_inverse(self, u: Tensor, xi_known: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, in the support and with the known parameters in place, and log variance of xi."""
        arguments = (xi_known, known) if self.has_known else (None, None)
        mean, log_variance = self.read_field(u, *arguments)
        mean = self.problem.prior.clamp_standard(mean)
        return mean * (1 - known) + xi_known, log_variance

    def relative_bars(self, z: Tensor) -> Tensor:  # noqa: D102
        found = self.forward(z)
        return self.norm(found.std) / self.norm(found.mean).square().mean().sqrt()

    @property
    def inverse_verdict(self) -> str:  # noqa: D102
        return self.widths.verdict

    def after_loading(self) -> None:  # noqa: D102
        self.basis.freeze()

    def training_state(self) -> dict[str, Any]:  # noqa: D102
        found = self.references
        return {"stream": self.stream.state, "references": None if found is None else vars(found)}

    def restore_training(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.stream.state = state["stream"]
        self.references = References.of_state(state["references"], self.problem)
        self.basis.freeze()

    def finite_parts(self, xi: Tensor) -> dict[str, Tensor]:  # noqa: D102
        parts = super().finite_parts(xi)
        z = self.problem.prior.unstandardise(xi.double())
        jet, values = self.zero_residual.inside.jet(self.problem, self.forward_map(xi)[0], z)
        r = self.problem.residual_function(jet, values)
        where = self.problem.first_bad(r, values, z)
        return parts if where is None else {**parts, f"the residual at {where}": r}

    # --- shared with the calibration --------------------------------------------------------------

    def log_residual(self, c: Tensor, z: Tensor, nodal: Jet | None = None) -> Tensor:
        """log |r / scale| of `LearntBasis.watched_jet` relative to that of the lift, (batch, 1)."""
        jet, values = self.basis.watched_jet(c, z, nodal or {})
        r = self.zero_residual.scaled_at(jet, values, held=False) / self.sigma * self.tolerance
        square = r.square().mean(-1, keepdim=True)
        square = square if self.problem.unknowns.n == 1 else square.mean(0)
        return 0.5 * square.clamp(min=1e-24).log().to(c)

    def error_field(self, z: Tensor, points: Tensor | None = None, level: int = 0) -> ErrorField:
        """What is uncertain of the means for z (batch, d), at points or on the grid."""
        nodes, modes, unit = self.problem.nodes, self.basis.at_nodes, self.basis.unit
        if self.is_calibrated:
            nodes, modes = finer_nodes(self.problem), self.error_modes[:, ERROR_MODES[level]]
        if self.problem.unknowns.n > 1:
            unit = unit * self.uncertainty.spread(level)
        return ErrorField(self.problem, nodes, modes, unit, z, points, level > 0)

    def _fit_scales(self) -> None:
        """The size of the residual of the lift, over the prior."""
        z = self.problem.prior.sample((64,), seed=self.seed)
        c = self.sigma_residual.new_zeros(len(z), self.n_modes)
        with torch.no_grad():
            self.residual_unit.copy_(self.zero_residual.size(self.basis.watched, c, z))

    @torch.no_grad()
    def _residual_at(self, s: Tensor, generator: torch.Generator) -> Tensor:
        """Mean |r| over a few prior draws at points s (n_points, k)."""
        xi = self.problem.prior.sample_standard((16,), generator=generator).to(s)
        z = self.problem.prior.unstandardise(xi.double())
        r = self.zero_residual.scaled(self.basis.at(s), self.forward_map(xi)[0], z)
        return (r / self.residual_unit).abs().flatten(0, -2).mean(0)

    def variances(
        self, xi: Tensor, size: Tensor | None, log_variance: Tensor, level: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Variances of the error modes (until calibrated, of c), and of the rest at the nodes."""
        if size is None or not self.is_calibrated:
            return log_variance.exp(), xi.new_zeros(len(xi), self.newton.n_values)
        var_c, var_rest = self.uncertainty.forward_variances(xi, size, 0 * size, level)
        return var_c[:, ERROR_MODES[level]], var_rest
