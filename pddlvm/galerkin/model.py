"""The latent variable model on a reduced finite element basis: u = V c + lift(z).

See `pddlvm.latent.core` for the probabilistic program.
"""

from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pddlvm.basics.checks import (
    check_backward,
    check_corrections,
    check_flag,
    check_kind,
    check_no_gradient,
    check_real,
)
from pddlvm.basics.errors import InputError
from pddlvm.basics.grad_mode import out_of_inference
from pddlvm.basics.random import check_seed, seeded
from pddlvm.galerkin.answer import forward_of
from pddlvm.galerkin.bounds import Certifier
from pddlvm.galerkin.covariances import Covariance, Likelihood, Scales, default_covariance
from pddlvm.galerkin.forward import Forward
from pddlvm.galerkin.gauss_newton import (
    N_INVERSE_CORRECTIONS,
    GaussNewton,
    Minimum,
    ResidualRows,
    inverse_features,
)
from pddlvm.galerkin.maps import ForwardMap, InverseMap
from pddlvm.galerkin.quantities import PrimalDuals
from pddlvm.galerkin.refinement import Refined, check_converged, refine
from pddlvm.latent.core import LatentModel, Stage
from pddlvm.latent.elbo import both_maps
from pddlvm.latent.inverse import Inverse, known_inverse
from pddlvm.latent.networks import NeuralGaussian
from pddlvm.latent.plausibility import Plausibility, judged
from pddlvm.latent.sites import Draws
from pddlvm.latent.size import LogQuadratic
from pddlvm.latent.uncertainty import Uncertainty
from pddlvm.reduced.bases import Basis
from pddlvm.reduced.interpolated import Interpolated
from pddlvm.reduced.online import Online, online_of
from pddlvm.reduced.reduction import Reduction, reduce
from pddlvm.reduced.residual import ReducedModel
from pddlvm.weak.problem import Problem

__all__ = ["GalerkinMaps"]

Objective = Literal["detached", "coupled"]

_ADVICE = (
    "where u is measured, interpolated or rounded give noise_std; where it is a solution of this "
    "mesh train longer, or raise corrections"
)


class GalerkinMaps(LatentModel):
    """Forward and inverse maps of a finite element problem; see `GalerkinModel`."""

    uncorrected: ClassVar = {"corrections": 0}
    cheap_corrections = 1
    calibration_share = 0.1
    likelihood: Likelihood
    reduced: ReducedModel
    forward_map: ForwardMap
    inverse_map: InverseMap

    @out_of_inference
    def __init__(
        self,
        problem: Problem,
        *,
        basis: Basis | None = None,
        covariance: Covariance | None = None,
        objective: Objective = "detached",
        forward_network: nn.Module | None = None,
        inverse_network: nn.Module | None = None,
        reduction: Reduction | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        progress: bool = False,
    ) -> None:
        super().__init__()
        check_kind(Problem, problem=problem)
        check_kind(Covariance | None, covariance=covariance)
        networks = {"forward_network": forward_network, "inverse_network": inverse_network}
        check_kind(nn.Module | None, **networks)
        check_kind(Reduction | None, reduction=reduction)
        check_kind(torch.dtype, dtype=dtype)
        if not isinstance(objective, str) or objective not in ("detached", "coupled"):
            raise InputError(f"objective must be 'detached' or 'coupled', got {objective!r}")
        self.problem, self.objective, self.seed = problem, objective, check_seed(seed)
        self.reduction = reduction or reduce(problem, basis, seed=seed, progress=progress)
        reference = self.reduction.reference
        self.covariance = covariance or default_covariance(problem, reference.is_dual)
        self.reduced = self.reduction.model(problem, dtype)
        # No submodule: it stays in float64 on the CPU.
        self._few = Interpolated(self.reduction.model(problem, torch.float64))
        d, m = problem.n_parameters, self.reduced.n_modes
        n_features = m + self.reduced.representation.n_lifts
        with seeded(seed):
            log_variance = 2 * torch.tensor(self.covariance.tolerance).log().item()
            if forward_network is None:
                forward_network = NeuralGaussian(d, m, log_variance=log_variance)
            if inverse_network is None:
                inverse_network = NeuralGaussian(n_features + (2 * d if self.has_known else 0), d)
            self.forward_map = ForwardMap(forward_network, LogQuadratic(d)).to(dtype)
            self.inverse_map = InverseMap(inverse_network, n_features).to(dtype)
            self.energy_scale = LogQuadratic(d).to(dtype)
            field_of = None
            if len(problem.fields_of_u) > 1:
                sizes = [dofs.stop - dofs.start for dofs in problem.fields_of_u.values()]
                field_of = np.repeat(np.arange(len(sizes)), sizes)
            self.uncertainty = Uncertainty(
                problem.prior, m, problem.n_dofs, problem.fixed_dofs, dtype, field_of
            )
        self.plausibility = Plausibility()
        sigma = torch.full((self.reduced.n_tests,), self.covariance.tolerance, dtype=dtype)
        self.register_buffer("sigma_residual", sigma)
        self._fit_scales()

    def __repr__(self) -> str:
        return (
            f"LatentVariableModel({self.problem!r}, {self.reduced.n_modes} modes, "
            f"{self.covariance!r}, objective={self.objective!r}, calibrated={self.is_calibrated})"
        )

    @property
    def draws(self) -> Draws:  # noqa: D102
        return self.likelihood.draws

    @property
    def n_modes(self) -> int:  # noqa: D102
        return self.reduced.n_modes

    @property
    def batch_size(self) -> int:  # noqa: D102
        return self.likelihood.batch_size

    def stages(self, calibrate: bool) -> tuple[Stage, ...]:
        """Both maps at once, by the whole ELBO."""
        return (both_maps(self, self.likelihood.prepare),)

    def read(  # noqa: D102
        self, c: Tensor, z: Tensor, xi_known: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        b = self.reduced.representation.boundary_coordinates(z)
        mean, log_variance = self.inverse_map(c, b, xi_known, known)
        return mean, log_variance

    # --- using the maps ------------------------------------------------------------------------

    @out_of_inference
    def forward(self, z: Tensor, corrections: int = 0) -> Forward:
        """Predict solutions, with uncertainty.

        Args:
            z: parameters, (..., d), in the support of the prior. Where they require a gradient,
                `.mean`, `.std` and `.residual_norm` have one: backwards, and once.
            corrections: Newton steps in the reduced basis with the full residual, per query; the
                error then is that of the basis.

        Returns:
            A Gaussian over u: `.mean`, `.std` (..., n_dofs), `.sample`, `.log_prob`,
            `.residual_norm`. Its dtype and device are those of z.

        Raises:
            InputError, SupportError: z is no parameter vector of the prior, or is inside of a
                torch.func transform; the solution leaves the range of its dtype.
            ConvergenceError: a prediction is not finite, far from where the map was trained.
        """
        check_corrections(corrections)
        return forward_of(self, self.problem.prior.check(check_backward(z, "z")), corrections)

    def mean_and_std(self, z: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        work, representation = z.double(), self.reduced.representation
        xi = self.problem.prior.standardise(work).to(self.sigma_residual)
        c, log_variance = self.forward_map(xi)
        a = representation.augment(c, representation.boundary_coordinates(work))
        var_c, var_rest = self.variances(xi, work, c, log_variance)
        variance = var_c @ representation.vectors.square().T + var_rest
        units, offset = representation.units, representation.offset
        mean = (units.u * (a @ representation.rows).double() + offset).to(z)
        return mean, units.u * (self.uncertainty.spread(0) * variance.sqrt()).to(z)

    def norm(self, u: Tensor) -> Tensor:
        """|u|_X, the norm in which the problem is solved, (..., n_dofs) -> (...,), float64."""
        u = self.problem.check_solution(u)
        flat = u.detach().double().cpu().reshape(-1, u.shape[-1])
        return self.reduction.reference.energy_norm(flat).reshape(u.shape[:-1]).to(u.device)

    @out_of_inference
    def inverse(
        self,
        u: Tensor,
        z_known: dict[str, Tensor] | None = None,
        *,
        corrections: int = N_INVERSE_CORRECTIONS,
        noise_std: float | Tensor | None = None,
    ) -> Inverse:
        """Infer parameters from full solutions, with uncertainty.

        Args:
            u: solutions, (..., n_dofs), Dirichlet values included.
            z_known: name of block -> its values, (..., size), for blocks that are known.
            corrections: at most this many steps of a search on the residual of u after the neural
                map.
            noise_std: of the errors of u, a number or one per dof, where it is no exact solution of
                this mesh: measured, interpolated or rounded. The posterior under that noise is
                found by the corrected forward map.

        Returns:
            A Gaussian over z: `.mean`, `.std` (..., d), `.sample`, `.log_prob`; `.misfit`,
            `.p_value` (...,) and a `.verdict` in words. Its dtype and device are those of u.

        Raises:
            InputError: wrong shape, values that are not finite or not those of the problem on its
                Dirichlet boundary, a u that requires a gradient, or an unknown block name.
        """
        u = self.problem.check_solution(check_no_gradient(u, "u"))
        check_corrections(corrections)
        if noise_std is not None:
            return self._inverse_of_noisy(u, noise_std, z_known)
        batch = u.shape[:-1]
        xi_known, known = self.check_known(z_known, batch, u)
        flat = u.detach().reshape(-1, self.problem.n_dofs)
        self.exact.representation.check_boundary(flat)
        like = self.sigma_residual
        with torch.no_grad():
            flat = flat.to(like.device)
            mean, std = self.invert(flat, xi_known.to(like), known.to(like), corrections)
            misfit = self.misfit(flat, mean)
        shape = self.uncertainty.inverse_shape(known.to(like), 1 if corrections else 0)
        found = known_inverse(
            mean.to(u), std.to(u), shape, xi_known, known, batch, self.problem.prior
        )
        p_value = self.plausibility.p_value(1 if corrections else 0, misfit.to(u))
        return judged(found, misfit.to(u), p_value, _ADVICE)

    def shapes(self, std: Tensor) -> Tensor:  # noqa: D102
        basis = self.exact.representation.basis
        return torch.linalg.qr(basis / std.expand(len(basis))[:, None]).Q

    @out_of_inference
    def refine(
        self,
        z: Tensor,
        *,
        u: Tensor | None = None,
        tolerance: float = 1e-10,
        throw: bool = True,
    ) -> Refined:
        """Refine predictions to the finite element solution, without a new factorisation.

        Args:
            z: parameters, (..., d).
            u: where to start, (..., n_dofs); by default the forward map after one correction.
            tolerance: on |r| / |u| in the norms of K0^{-1} and K0.
            throw: raise an error if a sample does not reach the tolerance; else look at
                `.converged`.

        Returns:
            `.u` (..., n_dofs) float64, `.iterations`, `.residual_norm`, `.converged` (...,); on the
            device of z.

        Raises:
            InputError, SupportError: z or u is not of the problem, or requires a gradient.
            ConvergenceError: samples that did not reach the tolerance, named.
        """
        check_real(0, tolerance=tolerance)
        check_flag(throw=throw)
        z = self.problem.prior.check(check_no_gradient(z, "z"))
        flat_z = z.detach().double().cpu().reshape(-1, self.problem.n_parameters)
        operators = self.problem.discretisation(torch.float64, torch.device("cpu"))
        if u is None:
            start = self.forward(flat_z, corrections=1).mean
        else:
            u = self.problem.check_solution(check_no_gradient(u, "u")).double().cpu()
            start = u.expand(*z.shape[:-1], -1).reshape(len(flat_z), self.problem.n_dofs)
        # Exact boundary values: the maps have them to the precision of their dtype.
        free = operators.free
        start = operators.lift(flat_z).index_copy(1, free, start[:, free])
        found = refine(self.exact, self.reduction.reference, start, flat_z, tolerance=tolerance)
        if throw:
            check_converged(found, tolerance)
        return found.like(z)

    # --- pieces shared with calibration --------------------------------------------------------

    @property
    def exact(self) -> ReducedModel:
        """The reduced model in float64 on the CPU."""
        return self._few.exact

    @property
    def interpolated(self) -> ReducedModel:
        """The same, linear terms as sums of few operators: for many z."""
        return self._few.model

    @cached_property
    def online(self) -> Online | None:
        """Reduced operators that solve and certify without the mesh, of a sum of few parts."""
        return online_of(self.problem, self.exact.representation, self.reduction.reference)

    @cached_property
    def certifier(self) -> Certifier:
        """Error bounds of means."""
        return Certifier(self.problem, self.reduction, self.exact)

    @cached_property
    def primal_dual(self) -> PrimalDuals:
        """What answers quantities."""
        return PrimalDuals(self.problem, self.reduction.reference)

    def _fit_scales(self) -> None:
        xi, c, units = self.reduction.xi, self.reduction.c, self.reduction.units
        self.forward_map.amplitude.fit(xi, c.norm(dim=1) / units.energy**0.5)
        self.energy_scale.fit(xi, self.reduction.energy / units.energy)
        z = self.problem.prior.unstandardise(xi)
        b = self.exact.representation.boundary_coordinates(z)
        self.inverse_map.fit_scaling(c / units.energy**0.5, b)
        operators = self.problem.discretisation(torch.float64, torch.device("cpu"))
        force = operators.residual(operators.lift(z[:8]), z[:8]).square().mean().sqrt()
        scales = Scales(self.forward_map.amplitude, self.energy_scale, float(force))
        self.likelihood = self.covariance.likelihood(self.reduced, self._few, scales)

    def log_sizes(
        self, c: Tensor, z: Tensor, residual_norm: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """log |c|, and that of |W^T r| / |c|, or of the certificate (batch, 1); (batch, 1) each."""
        size = c.norm(dim=-1, keepdim=True).clamp(min=1e-30).log()
        if residual_norm is None:
            r = self.reduced.residual(c, z).norm(dim=-1, keepdim=True)
            # No map is right to more digits than it has, though its residual may round to zero.
            residual_norm = (r * (-size).exp()).clamp(min=torch.finfo(c.dtype).eps)
        return size, residual_norm.clamp(min=torch.finfo(torch.float64).eps).log()

    def variances(
        self,
        xi: Tensor,
        z: Tensor,
        c: Tensor,
        log_variance: Tensor,
        residual_norm: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Variances of the coefficients and of the part outside of the basis, per dof.

        Those of corrected means follow the certificate, residual_norm (batch, 1).
        """
        if not self.is_calibrated:
            return log_variance.exp(), xi.new_zeros(len(xi), self.problem.n_dofs)
        sizes = self.log_sizes(c.to(xi), z, residual_norm)
        return self.uncertainty.forward_variances(xi, *sizes, 0 if residual_norm is None else 1)

    def neural_inverse(
        self, c: Tensor, b: Tensor, xi_known: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the inverse map alone."""
        arguments = (xi_known, known) if self.has_known else (None, None)
        mean, log_variance = self.inverse_map(c, b, *arguments)
        mean = self.problem.prior.clamp_standard(mean)
        return mean * (1 - known) + xi_known, log_variance

    def correct_inverse(
        self, c: Tensor, b: Tensor, xi: Tensor, known: Tensor, n_steps: int
    ) -> Minimum:
        """A search from xi; the Laplace approximation at its end."""
        rows = ResidualRows(self.reduced, self.sigma_residual, b.shape[-1])
        return GaussNewton(self.problem.prior, rows)(rows.of(c, b), xi, 1 - known, n_steps)

    def misfit(self, u: Tensor, xi: Tensor) -> Tensor:
        """How badly xi explains solutions, (batch,): the residual of u, in units of true ones."""
        representation = self.reduced.representation
        c, b = representation.project(u), representation.boundary_coordinates_of(u)
        rows = ResidualRows(self.reduced, self.sigma_residual, b.shape[-1])
        return GaussNewton(self.problem.prior, rows).misfit(rows.of(c, b), xi)

    def invert(
        self, u: Tensor, xi_known: Tensor, known: Tensor, corrections: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of xi, (batch, d) each."""
        representation = self.reduced.representation
        c, b = representation.project(u), representation.boundary_coordinates_of(u)
        mean, log_variance = self.neural_inverse(c, b, xi_known, known)
        misfit, level = None, 0
        if corrections:
            found = self.correct_inverse(c, b, mean, known, corrections)
            mean, log_variance, misfit, level = found.xi, 2 * found.std.log(), found.misfit, 1
        features, base = inverse_features(mean, log_variance, misfit, known)
        return mean, self.uncertainty.inverse_std(features, base, known, level)
