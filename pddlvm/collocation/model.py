"""The latent variable model on learnt functions of space and time.

    u(x; z) = lift(x; z) + F(s) sum_j c_j phi_j(s),     x = X(s; z)
    q(c | z) = N(mean(xi), diag(var(xi)))               p(xi | u) = N(mean, diag(var)), u on a grid

phi is a network of the reference coordinates (the trunk), the mean of c one of xi (the branch). The
points of a step are shared by its draws of z, so that the trunk and its derivatives cost next to
nothing: residuals at 256 points of 64 draws take the time of 256 points. See `pddlvm.latent` for
the probabilistic program.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from pddlvm.collocation import chebyshev
from pddlvm.collocation.calibrate import (
    N_CALIBRATION,
    References,
    calibrate_forward,
    calibrate_inverse,
)
from pddlvm.collocation.jets import Jet
from pddlvm.collocation.likelihood import Causal, Collocation, CollocationLikelihood
from pddlvm.collocation.newton import SpaceTimeNewton
from pddlvm.collocation.predictions import FieldForward, Spread
from pddlvm.collocation.problem import CollocationProblem
from pddlvm.collocation.reader import InverseField, PrincipalGaussian
from pddlvm.collocation.sampling import AdaptivePoints, PointSampler, Sobol
from pddlvm.collocation.trunk import Trunk
from pddlvm.elbo import AntitheticELBO
from pddlvm.errors import InputError
from pddlvm.inversion import inverse_features
from pddlvm.latent import LatentVariableModel, Stage, known_inverse, unflatten
from pddlvm.maps import bounded
from pddlvm.networks import NeuralGaussian
from pddlvm.predictions import Inverse
from pddlvm.uncertainty import Uncertainty

__all__ = ["CollocationModel"]

_FORWARD_SHARE = 0.75
_N_ERROR_MODES = 24
_N_RESIDUAL_POINTS = 256
_N_SCALING = 256


class CollocationModel(LatentVariableModel):
    """Forward and inverse maps of a problem in strong form, with their uncertainty.

    Args:
        problem: the parametric PDE.
        points: where the residual is taken.
        tolerance: eps, the standard deviation of the residual relative to that of the lift.
        causal: weights that follow the time; none by default.
        n_functions: length of c.
        forward_network: module xi (batch, d) -> mean, log variance (batch, n_functions).
        inverse_network: module u (batch, *grid), extra -> mean, log variance (batch, d), by
            default a `PrincipalGaussian`; a `GridGaussian` is convolutional.
        seed: of the initial weights.
        dtype: of the maps; float32 by default.
    """

    problem: CollocationProblem
    trunk: Trunk
    forward_map: "Branch"
    inverse_map: InverseField
    node_basis: Tensor
    residual_points: Tensor
    error_modes: Tensor

    def __init__(
        self,
        problem: CollocationProblem,
        *,
        points: PointSampler = Sobol(256),  # noqa: B008 (frozen)
        tolerance: float = 1e-2,
        causal: Causal | None = None,
        n_functions: int = 64,
        forward_network: nn.Module | None = None,
        inverse_network: nn.Module | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not 0 < tolerance < 1:
            raise InputError(f"tolerance must lie between 0 and 1, got {tolerance}")
        self.problem = problem
        self.objective = "detached"
        self.points = points
        self.tolerance = tolerance
        self.seed = seed
        d, k = problem.n_parameters, len(problem.box.names)
        self.newton = SpaceTimeNewton(problem)
        self.zero_residual = CollocationLikelihood(problem, causal)
        n_extra = 2 * d if self.has_known else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            forward_network = forward_network or NeuralGaussian(
                d, n_functions, width=64, depth=3, log_variance=-8.0
            )
            self.trunk = Trunk(k, n_functions).to(dtype)
            self.forward_map = Branch(forward_network).to(dtype)
            inverse_network = inverse_network or PrincipalGaussian(problem.grid, n_extra, d)
            self.inverse_map = InverseField(inverse_network, problem.grid).to(dtype)
            n_nodes, hard = self.newton.n_nodes, (~self.newton.free).nonzero()[:, 0].numpy()
            self.uncertainty = Uncertainty(problem.prior, _N_ERROR_MODES, n_nodes, hard, dtype)
        self.register_buffer("sigma_residual", torch.ones(1, dtype=dtype))
        self.register_buffer("node_basis", torch.zeros(n_nodes, n_functions, dtype=dtype))
        self.register_buffer("error_modes", torch.zeros(n_nodes, _N_ERROR_MODES, dtype=dtype))
        sobol = Sobol().draw(_N_RESIDUAL_POINTS, k, torch.Generator().manual_seed(seed))
        self.register_buffer("residual_points", sobol.to(dtype))
        self.references: References | None = None
        self.steps_since_look = 0
        self.candidates: tuple[Tensor, Tensor] | None = None
        self._fit_scales()
        self.freeze()

    def __repr__(self) -> str:
        return (
            f"CollocationModel({self.problem!r}, {self.n_modes} functions, {self.points!r}, "
            f"calibrated={self.is_calibrated})"
        )

    @property
    def n_modes(self) -> int:  # noqa: D102
        return self.node_basis.shape[1]

    @property
    def n_error_modes(self) -> int:
        """Number of principal components of the errors that are told apart from the rest."""
        return self.error_modes.shape[1]

    @property
    def calibration_share(self) -> float:  # noqa: D102
        return 0.03

    @property
    def batch_size(self) -> int:  # noqa: D102
        return 64

    # --- training ------------------------------------------------------------------------------

    def stages(self, calibrate: bool) -> tuple[Stage, ...]:
        """The forward map by its part of the ELBO, then the inverse map by the other.

        With u detached the two parts share no parameter; the inverse map learns from the final
        forward map, with the errors that it was found to have.
        """
        elbo = AntitheticELBO(scored=("c",))

        def forward_loss(batch: int, generator: torch.Generator) -> Tensor:
            self.draw_points(generator)
            return elbo.differentiable_loss(self.model, self.guide, batch, generator) / batch

        def inverse_loss(batch: int, generator: torch.Generator) -> Tensor:
            n = max(1, batch // 2)
            with torch.no_grad():
                xi = self.problem.prior.sample_standard((n,), generator=generator)
                xi = xi.to(self.sigma_residual)
                z = self.problem.prior.unstandardise(xi)
                u = self.sample_fields(xi, z)
            known = self.draw_known(n, generator) if self.has_known else None
            xi_known = None if known is None else xi * known
            mean, log_variance = self.read_field(u, xi_known, known)
            score = 0.5 * ((xi - mean).square() * (-log_variance).exp() + log_variance)
            return (score if known is None else score * (1 - known)).sum(-1).mean()

        def hand_over() -> None:
            self.freeze()
            if calibrate:
                calibrate_forward(self)
            xi = self.problem.prior.sample_standard(
                (_N_SCALING,), generator=torch.Generator().manual_seed(self.seed)
            ).to(self.sigma_residual)
            with torch.no_grad():
                z = self.problem.prior.unstandardise(xi)
                self.inverse_map.fit_scaling(self.on_grid(self.forward_map(xi)[0], z))

        return (
            Stage(_FORWARD_SHARE, (self.forward_map, self.trunk), forward_loss, self._begin),
            Stage(1 - _FORWARD_SHARE, (self.inverse_map,), inverse_loss, hand_over),
        )

    def sample_fields(self, xi: Tensor, z: Tensor) -> Tensor:
        """Draws of u on the grid from q(u | z), (batch, n_dofs), without the rest of the spread."""
        c, log_variance = self.forward_map(xi)
        size = self.log_residual(c, z) if self.is_calibrated else None
        var_c, _ = self._variances(xi, size, log_variance)
        modes = self.error_modes if self.is_calibrated else self.node_basis
        n = c @ self.node_basis.T + (var_c.sqrt() * torch.randn_like(var_c)) @ modes.T
        return self._grid_of(n, z) + self._lift(z)

    def draw_points(self, generator: torch.Generator) -> None:
        """New collocation points, and the functions there."""
        k, n = len(self.problem.box.names), self.points.n_points
        s = self.points.draw(n, k, generator).to(self.sigma_residual)
        if isinstance(self.points, AdaptivePoints):
            s = self._adapt(self.points, s, generator)
        faces = []
        for condition in self.problem.conditions:
            at = self.points.draw(max(1, n // 4), k, generator).to(s)
            i = self.problem.box.names.index(condition.face.coordinate)
            at[:, i] = 1.0 if condition.face.is_end else -1.0
            faces.append(at)
        everywhere = Collocation.at(self.problem, self.trunk, torch.cat([s, *faces]))
        self.zero_residual.inside, *self.zero_residual.on_faces = everywhere.split(
            [len(s), *map(len, faces)]
        )

    def likelihood(self, c: Tensor, z: Tensor, xi: Tensor) -> Tensor:  # noqa: D102
        return self.zero_residual(c, z, self.sigma_residual)

    def read(  # noqa: D102
        self, c: Tensor, z: Tensor, xi_known: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return self.read_field(self.on_grid(c, z), xi_known, known)

    def read_field(
        self, u: Tensor, xi_known: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of xi, (batch, d) each, from u on the grid."""
        extra = u.new_zeros(len(u), 0)
        if xi_known is not None and known is not None:
            extra = torch.cat([xi_known, known], dim=-1)
        mean, log_variance = self.inverse_map(u, extra)
        return mean, bounded(log_variance)

    # --- using the maps ------------------------------------------------------------------------

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
            z: parameters, (..., d), in the support of the prior.
            corrections: Newton steps on the space-time nodes, a dense solve each per query; the
                error then is that of the nodes.
            points: where, (n_points, k); by default on the grid of the problem.
            extrapolate: allow z outside the support, where the maps were never trained; std grows
                with the residual.

        Returns:
            A Gaussian field: `.mean`, `.std` (..., n_points), `.sample`, `.log_prob`,
            `.residual_norm`. Its dtype and device are those of z.

        Raises:
            InputError, SupportError: z is not a parameter vector of the prior, or a point is not in
                the box.
        """
        z = z if extrapolate else self.problem.prior.check(z)
        if corrections < 0:
            raise InputError(f"corrections must be 0 or more, got {corrections}")
        x = self.problem.grid_points if points is None else self.problem.box.check(points)
        batch, like = z.shape[:-1], self.sigma_residual
        flat = z.detach().reshape(-1, z.shape[-1])
        work = flat.to(like)
        with torch.no_grad():
            xi = self.problem.prior.standardise(work)
            c, log_variance = self.forward_map(xi)
            e = self._newton_steps(c, flat, corrections) if corrections else {}
            if points is None:
                n = c @ self.node_basis.T + e.get((), torch.zeros(())).to(c)
                mean = self._grid_of(n, work) + self._lift(work)
            else:
                mean = self._at_points(c, work, x)
                if e:
                    mean = mean + self.interpolate(e[()].to(c), work, x, chebyshev.barycentric)
            size = self.log_residual(c, work, e)

        @torch.no_grad()
        def variances() -> tuple[Tensor, Tensor]:
            return self._variances(xi, size, log_variance)

        def at(values: Tensor, matrix: Callable[[Tensor, int], Tensor]) -> Tensor:
            return self.interpolate(values, work, None if points is None else x, matrix)

        @torch.no_grad()
        def std() -> Tensor:
            var_c, var_rest = variances()
            modes = self.error_modes if self.is_calibrated else self.node_basis
            found = at((var_c @ modes.square().T + var_rest).sqrt(), chebyshev.hats)
            # Exactly zero where u is prescribed, whatever round-off says.
            return torch.where(self.problem.is_hard(x).to(found.device), 0.0, found)

        @torch.no_grad()
        def spread() -> Spread:
            var_c, var_rest = variances()
            modes = self.error_modes if self.is_calibrated else self.node_basis
            shapes = torch.stack(
                [at(m.expand(len(work), -1), chebyshev.barycentric) for m in modes.T], dim=-1
            )
            return Spread(shapes, var_c, at(var_rest.sqrt(), chebyshev.hats))

        norm = unflatten(size.exp(), batch)[..., 0].to(z)
        return FieldForward(unflatten(mean.to(z), batch), x.to(z), norm, std, spread)

    def inverse(self, u: Tensor, z_known: dict[str, Tensor] | None = None) -> Inverse:
        """Infer parameters from full, noise-free solutions on the grid, with uncertainty.

        Args:
            u: solutions, (..., n_dofs).
            z_known: name of block -> its values, (..., size), for blocks that are known.

        Returns:
            A Gaussian over z: `.mean`, `.std` (..., d), `.sample`, `.log_prob`.

        Raises:
            InputError: wrong shape, values that are not finite, or an unknown block name.
        """
        u = self.problem.check_solution(u)
        batch, like = u.shape[:-1], self.sigma_residual
        xi_known, known = self.check_known(z_known, batch, u)
        flat = u.detach().reshape(-1, self.problem.n_dofs).to(like)
        with torch.no_grad():
            mean, std = self.invert(flat, xi_known.to(like), known.to(like))
        return known_inverse(mean.to(u), std.to(u), xi_known, known, batch, self.problem.prior)

    def invert(self, u: Tensor, xi_known: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of xi, (batch, d) each."""
        mean, log_variance = self.infer(u, xi_known, known)
        features, base = inverse_features(mean, log_variance, None, known)
        return mean, self.uncertainty.inverse_std(features, base, known, 0)

    def infer(self, u: Tensor, xi_known: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, in the support and with the known parameters in place, and log variance of xi."""
        arguments = (xi_known, known) if self.has_known else (None, None)
        mean, log_variance = self.read_field(u, *arguments)
        mean = self.problem.prior.clamp_standard(mean)
        return mean * (1 - known) + xi_known, log_variance

    def calibrate(self, n_samples: int | None = None, *, seed: int = 1) -> None:
        """Fit the reported standard deviations to the errors of both maps on fresh prior draws.

        The error of a mean solves the linearised PDE driven by its residual: one dense solve on the
        space-time nodes per draw. `train` ends with it.

        Args:
            n_samples: prior draws, at least 32; 96 by default.
            seed: of the draws.
        """
        n_samples = N_CALIBRATION if n_samples is None else n_samples
        if self.references is None or self.references.drawn_with != (n_samples, seed):
            calibrate_forward(self, n_samples, seed)
        calibrate_inverse(self, seed)

    def after_loading(self) -> None:  # noqa: D102
        self.freeze()

    # --- pieces --------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Evaluate the functions where they are needed again and again."""
        with torch.no_grad():
            nodes = torch.stack(self.newton.s, dim=-1).to(self.sigma_residual)
            self.node_basis.copy_(Collocation.at(self.problem, self.trunk, nodes).basis[()])
            self.__dict__.pop("_watched", None)

    def on_grid(self, c: Tensor, z: Tensor) -> Tensor:
        """u on the grid, (batch, n_dofs)."""
        return self._grid_of(c @ self.node_basis.T, z) + self._lift(z)

    def mean_jet(self, c: Tensor, z: Tensor) -> Jet:
        """u and its derivatives at the nodes, float64 on the CPU."""
        nodes = torch.stack(self.newton.s, dim=-1).to(self.sigma_residual)
        basis = Collocation.at(self.problem, self.trunk, nodes).basis
        n = {i: c.double().cpu() @ b.double().cpu().T for i, b in basis.items()}
        jet, _ = self.problem.assemble(n, self.newton.s, z.double().cpu())
        return {i: u.expand(len(z), -1) for i, u in jet.items()}

    def log_residual(self, c: Tensor, z: Tensor, change: Jet | None = None) -> Tensor:
        """log of the root mean square of r / scale, relative to that of the lift, (batch, 1).

        Args:
            c: (batch, n_modes).
            z: (batch, d).
            change: jet along x that is added to u, given at the nodes, (batch, n_nodes) each.
        """
        jet, values = self._watched.jet(self.problem, c, z)
        for index, e in (change or {}).items():
            matrices = [
                chebyshev.barycentric(s, n)
                for s, n in zip(self._watched.s, self.problem.nodes, strict=True)
            ]
            boxed = e.to(c).reshape(len(e), *self.problem.nodes)
            jet[index] = jet[index] + chebyshev.at_points(boxed, matrices)
        r = self.zero_residual.scaled_at(jet, values) / self.sigma_residual * self.tolerance
        return 0.5 * r.square().mean(-1, keepdim=True).clamp(min=1e-24).log()

    @cached_property
    def _watched(self) -> Collocation:
        return Collocation.at(self.problem, self.trunk, self.residual_points)

    def _begin(self) -> None:
        self.candidates = None
        self.references = None
        self.uncertainty.is_calibrated.fill_(False)

    def _fit_scales(self) -> None:
        """The size of the residual of the lift, over the prior."""
        z = self.problem.prior.sample((64,), seed=self.seed).to(self.sigma_residual)
        with torch.no_grad():
            c = z.new_zeros(len(z), self.n_modes)
            size = self.zero_residual.scaled(self._watched, c, z).square().mean().sqrt()
        self.sigma_residual.copy_(self.tolerance * size.clamp(min=1e-12))

    def _adapt(self, points: AdaptivePoints, s: Tensor, generator: torch.Generator) -> Tensor:
        """Replace a share of the points by candidates with a large residual."""
        if self.candidates is None or self.steps_since_look >= points.every:
            at = points.draw(points.n_candidates, s.shape[1], generator).to(s)
            xi = self.problem.prior.sample_standard((16,), generator=generator).to(s)
            z = self.problem.prior.unstandardise(xi)
            with torch.no_grad():
                functions = Collocation.at(self.problem, self.trunk, at)
                r = self.zero_residual.scaled(functions, self.forward_map(xi)[0], z)
            self.candidates, self.steps_since_look = (at, r.abs().mean(0)), 0
        self.steps_since_look += 1
        n = round(points.share * len(s))
        return torch.cat([points.draw_from(*self.candidates, n, generator), s[n:]])

    def _lift(self, z: Tensor) -> Tensor:
        return self.problem.lift(z, self.problem.grid_points.to(z).unbind(-1))

    def _grid_of(self, values: Tensor, z: Tensor) -> Tensor:
        return self.interpolate(values, z, None, chebyshev.barycentric)

    def interpolate(
        self,
        values: Tensor,
        z: Tensor,
        points: Tensor | None,
        matrix: Callable[[Tensor, int], Tensor],
    ) -> Tensor:
        """From the nodes to the grid or to points, (batch, n_nodes) -> (batch, n_points)."""
        axes = self.problem.axes if points is None else points.unbind(-1)
        s = self.problem.locate([a.to(values) for a in axes], z)
        matrices = [matrix(at, n) for at, n in zip(s, self.problem.nodes, strict=True)]
        boxed = values.reshape(len(values), *self.problem.nodes)
        if points is None:
            return chebyshev.tensor_product(boxed, matrices).flatten(1)
        return chebyshev.at_points(boxed, matrices)

    def _at_points(self, c: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """u at points (n_points, k), from the functions themselves."""
        columns = x.to(c).unbind(-1)
        s = torch.stack(torch.broadcast_tensors(*self.problem.locate(columns, z)), dim=-1)
        flat = s.reshape(-1, s.shape[-1]).unbind(-1)
        phi = self.trunk({(): self.problem.features(flat)[()]})[()]
        basis = (self.problem.factor(flat)[()][:, None] * phi).reshape(*s.shape[:-1], -1)
        return (basis @ c[..., None])[..., 0] + self.problem.lift(z, columns)

    def _newton_steps(self, c: Tensor, z: Tensor, n_steps: int) -> Jet:
        """Sum of n_steps Newton steps from the mean: a jet at the nodes, (batch, n_nodes) each."""
        z = z.double().cpu()
        start = jet = self.mean_jet(c, z)
        for _ in range(n_steps):
            jet = self.newton.correct(jet, self.newton.error(jet, z), z)
        return {index: (jet[index] - start[index]).to(c.device) for index in jet}

    def _variances(
        self, xi: Tensor, size: Tensor | None, log_variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Variances of the error modes (until calibrated, of c), and of the rest at the nodes."""
        if size is None or not self.is_calibrated:
            return log_variance.exp(), xi.new_zeros(len(xi), self.newton.n_nodes)
        return self.uncertainty.forward_variances(xi, size, torch.zeros_like(size), 0)


class Branch(nn.Module):
    """q(c | z): a network with its log variance kept within bounds."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of c, (batch, m) each."""
        mean, log_variance = self.network(xi)
        return mean, bounded(log_variance)
