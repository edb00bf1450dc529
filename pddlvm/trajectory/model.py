"""The latent variable model of trajectories: u = lift + V Phi a, one unknown in space and time.

See `pddlvm.latent.core` for the probabilistic program; its c is a relative to the size of a.
"""

from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from pddlvm.basics.checks import (
    check_backward,
    check_count,
    check_kind,
    check_no_gradient,
    check_real,
    is_recorded,
)
from pddlvm.basics.errors import InputError
from pddlvm.basics.grad_mode import out_of_inference
from pddlvm.basics.random import check_seed, seeded
from pddlvm.galerkin.gauss_newton import (
    N_INVERSE_CORRECTIONS,
    GaussNewton,
    Minimum,
    Solutions,
    inverse_features,
)
from pddlvm.galerkin.maps import InverseMap
from pddlvm.latent.core import LatentModel, Stage
from pddlvm.latent.elbo import both_maps
from pddlvm.latent.inverse import Inverse, known_inverse
from pddlvm.latent.networks import NeuralGaussian
from pddlvm.latent.plausibility import Plausibility, judged, smaller_of_two
from pddlvm.latent.seen import SeenValues
from pddlvm.latent.sites import Draws
from pddlvm.trajectory.answer import MARCH, forward_of
from pddlvm.trajectory.fields import norm_matrix
from pddlvm.trajectory.forward import TrajectoryForward
from pddlvm.trajectory.functionals import KeptFunctionals
from pddlvm.trajectory.inverse import TrajectoryRows
from pddlvm.trajectory.maps import TrajectoryLikelihood, TrajectoryMap
from pddlvm.trajectory.modes import Modes
from pddlvm.trajectory.reduction import (
    TrajectoryReduction,
    check_reduction,
    reduce_trajectories,
)
from pddlvm.trajectory.seen import seen_values
from pddlvm.trajectory.uncertainty import TrajectoryUncertainty
from pddlvm.transient.problem import TransientProblem

__all__ = ["TrajectoryMaps"]

_NONLINEAR_SHARE = 0.25
"""Of the training, for the calibration by marches that take Newton's method."""
_LEAST = 1e-30
"""Of sizes that are divided by, relative to those of solutions."""
_ADVICE = "train longer, or give noise_std where u is measured, interpolated or rounded"


class TrajectoryMaps(LatentModel):
    """Forward and inverse maps of a problem in time; see `TrajectoryModel`.

    Attributes:
        unit: size of a over the prior.
        unit_of_u: that of values of u, without the size of the mesh and of the interval.
    """

    uncorrected: ClassVar = {"corrections": 0}
    cheap_corrections = 1
    calibration_share, batch_size = 0.1, 256
    problem: TransientProblem
    forward_map: TrajectoryMap
    inverse_map: InverseMap
    uncertainty: TrajectoryUncertainty
    likelihood: TrajectoryLikelihood

    @out_of_inference
    def __init__(
        self,
        problem: TransientProblem,
        *,
        n_shapes: int | None = None,
        n_modes: int | None = None,
        tolerance: float = 1e-3,
        forward_network: nn.Module | None = None,
        inverse_network: nn.Module | None = None,
        reduction: TrajectoryReduction | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        progress: bool = False,
    ) -> None:
        super().__init__()
        check_kind(TransientProblem, problem=problem)
        for name, number in {"n_shapes": n_shapes, "n_modes": n_modes}.items():
            if number is not None:
                check_count(1, **{name: number})
        check_real(0, tolerance=tolerance)
        networks = {"forward_network": forward_network, "inverse_network": inverse_network}
        check_kind(nn.Module | None, **networks)
        check_kind(TrajectoryReduction | None, reduction=reduction)
        check_kind(torch.dtype, dtype=dtype)
        if reduction is not None:
            check_reduction(reduction, problem, n_shapes, n_modes)
        self.problem, self.objective = problem, "detached"
        self.seed, self.tolerance = check_seed(seed), float(tolerance)
        self.reduction = reduction or reduce_trajectories(
            problem, n_shapes, n_modes, seed=seed, progress=progress
        )
        a = self.reduction.a
        self.unit = float(a.square().sum(1).mean().sqrt())
        norm = norm_matrix(problem, self.modes.steps.sizes)
        weight = norm.diagonal().sum() * problem.scheme.weights.sum()
        self.unit_of_u = self.unit / float(np.sqrt(weight))
        d, p = problem.n_parameters, self.n_modes
        with seeded(seed):
            if forward_network is None:
                log_variance = 2 * float(np.log(tolerance))
                forward_network = NeuralGaussian(d, p, log_variance=log_variance)
            if inverse_network is None:
                inverse_network = NeuralGaussian(p + 1 + (2 * d if self.has_known else 0), d)
            whole = self.reduction.polynomial
            polynomial = replace(whole, weights=whole.weights / self.unit)
            self.forward_map = TrajectoryMap(forward_network, polynomial).to(dtype)
            self.inverse_map = InverseMap(inverse_network, p + 1).to(dtype)
            self.uncertainty = TrajectoryUncertainty(problem, p, dtype)
        if not problem.is_linear:
            self.calibration_share = _NONLINEAR_SHARE
        self.plausibility, self.of_left_out = Plausibility(), Plausibility()
        self.register_buffer("sigma_residual", torch.full((p,), self.tolerance, dtype=dtype))
        c = a / self.unit
        self.inverse_map.fit_scaling(c, c.new_zeros(len(c), 0))
        self.functionals = KeptFunctionals(self.modes)
        self.likelihood = TrajectoryLikelihood(self.modes, self.unit, self.tolerance, dtype)

    def __repr__(self) -> str:
        return (
            f"LatentVariableModel({self.problem!r}, {self.modes.steps.n} shapes, {self.n_modes} "
            f"modes, calibrated={self.is_calibrated})"
        )

    @property
    def modes(self) -> Modes:
        """Phi and the p x p equations."""
        return self.reduction.modes

    @property
    def n_modes(self) -> int:  # noqa: D102
        return self.reduction.modes.n

    @property
    def draws(self) -> Draws:  # noqa: D102
        return self.likelihood.draws

    def stages(self, calibrate: bool) -> tuple[Stage, ...]:
        """Both maps at once, by the whole ELBO."""
        return (both_maps(self, self.likelihood.draws.solve),)

    def read(  # noqa: D102
        self, c: Tensor, z: Tensor, xi_known: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.inverse_map(c, c.new_zeros(len(c), 0), xi_known, known)
        return mean, log_variance

    # --- using the maps ------------------------------------------------------------------------

    @out_of_inference
    def forward(
        self,
        z: Tensor,
        corrections: int = 0,
        *,
        times: "ArrayLike | Tensor | None" = None,
    ) -> TrajectoryForward:
        """Predict trajectories, with uncertainty.

        Args:
            z: parameters, (..., d), in the support of the prior.
            corrections: 1 solves the p x p equations, 2 marches in the spatial basis.
            times: where, (n_times,); by default at all steps. Between them it is linear.

        Returns:
            A Gaussian over u: `.mean`, `.std` (..., n_times, n_dofs), `.sample`, `.log_prob`,
            `.residual_norm`. Its dtype and device are those of z. The error of the time stepping
            (`problem.time_error()`) is not in it. Where z requires a gradient it has one, but for
            marches.

        Raises:
            InputError, SupportError: z is no parameter vector of the prior, or is inside of a
                torch.func transform; times outside of the interval; corrections that there are not,
                or a march where z requires a gradient.
            ConvergenceError: a prediction is not finite, far from where the map was trained.
        """
        z = self.problem.prior.check(check_backward(z, "z"))
        check_count(0, MARCH, corrections=corrections)
        if corrections == MARCH and is_recorded(z):
            raise InputError(
                "z requires a gradient, and marches, corrections=2, have none; take corrections=1, "
                "or that of problem.solve(z)"
            )
        return forward_of(self, z, corrections, times)

    @cached_property
    def at_steps(self) -> sp.csr_matrix:
        """From the steps to the times that are shown by default: the same."""
        return self.problem.between(self.problem.times)

    def log_sizes(self, a: Tensor, z: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """log |c|, and that of |rho| / |a| of the map as it is, (batch, 1) each, float64."""
        size = a.norm(dim=-1, keepdim=True).clamp(min=_LEAST * self.unit)
        if level:
            return (size / self.unit).log(), torch.zeros_like(size)
        rho = self.modes.residual(a, z).norm(dim=-1, keepdim=True) / size
        return (size / self.unit).log(), rho.clamp(min=torch.finfo(torch.float64).eps).log()

    def variances(self, xi: Tensor, z: Tensor, a: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Variances of a (batch, p), and scales of the rest (batch,), float64 on the CPU."""
        log_size, log_residual = (x.to(xi) for x in self.log_sizes(a, z, level))
        of_c, of_rest = self.uncertainty.forward_variances(xi, log_size, log_residual, level)
        of_c, of_rest = of_c.double().cpu(), of_rest[:, 0].double().cpu()
        return self.unit**2 * of_c, self.unit_of_u * of_rest.sqrt()

    def mean_and_std(self, z: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        raise InputError(
            "maps of trajectories cannot be written for other programs: their states are put "
            "together in float64, outside of what a graph records; model.save(path) keeps them, "
            "and model.to_pvd(path, z) writes trajectories"
        )

    def seen_values(self, z: Tensor, u: Tensor, corrections: int) -> SeenValues:  # noqa: D102
        return seen_values(self, z, u, corrections)

    def quick_answer(self, z: Tensor) -> tuple[Tensor, ...]:
        """The coefficients."""
        return (self.forward(z).coefficients,)

    def norm(self, u: Tensor) -> Tensor:
        """|u| in L2 of space and time, (..., n_times, n_dofs) -> (...,).

        Times the density; of several fields each relative to its size, without densities.
        """
        u = self.problem.check_solution(u)
        flat = u.detach().double().cpu().reshape(-1, u.shape[-1])
        norm = norm_matrix(self.problem, self.modes.steps.sizes)
        of_norm = torch.from_numpy((norm @ flat.numpy().T).T)
        squares = (flat * of_norm).sum(-1).reshape(*u.shape[:-1])
        return (squares @ self.modes.steps.weights).clamp(min=0).sqrt().to(u.device)

    @out_of_inference
    def inverse(
        self,
        u: Tensor,
        z_known: dict[str, Tensor] | None = None,
        *,
        corrections: int = N_INVERSE_CORRECTIONS,
        noise_std: float | Tensor | None = None,
    ) -> Inverse:
        """Infer parameters from full trajectories, with uncertainty.

        Args:
            u: trajectories, (..., n_times, n_dofs), Dirichlet values included.
            z_known: name of block -> its values, (..., size), for blocks that are known.
            corrections: at most this many steps of a search on the residual of u after the neural
                map.
            noise_std: not for trajectories; see Raises.

        Returns:
            A Gaussian over z: `.mean`, `.std` (..., d), `.sample`, `.log_prob`; `.misfit`,
            `.p_value` (...,) and a `.verdict` in words. Its dtype and device are those of u.

        Raises:
            InputError: wrong shape, values that are not finite, a u that requires a gradient, or an
                unknown block name; noise_std: observe points at times and use `infer`.
        """
        u = self.problem.check_solution(check_no_gradient(u, "u"))
        check_count(0, corrections=corrections)
        if noise_std is not None:
            raise InputError(
                "noise_std is not for whole trajectories; observe them at points and times, "
                "PointObservation(problem, points, noise_std=..., times=...), and use model.infer"
            )
        batch, like = u.shape[:-2], self.sigma_residual
        xi_known, known = self.check_known(z_known, batch, u)
        with torch.no_grad():
            flat = u.reshape(-1, *self.problem.solution_shape)
            of = self.rows.of(flat)
            mean, std = self.invert_rows(of, xi_known, known.to(like), corrections)
            misfit = self.misfit(of, mean).to(u)
            left_out = self.rows.left_out(flat, of[0]).to(u)
        level, prior = 1 if corrections else 0, self.problem.prior
        shape = self.uncertainty.inverse_shape(known.to(like), level)
        found = known_inverse(mean.to(u), std.to(u), shape, xi_known, known, batch, prior)
        p, q = self.plausibility.p_value(level, misfit), self.of_left_out.p_value(0, left_out)
        p_value = None if p is None or q is None else smaller_of_two(p, q)
        return judged(found, misfit, p_value, _ADVICE)

    @property
    def rows(self) -> TrajectoryRows:
        """What parameters have to explain."""
        return TrajectoryRows(self.modes, self.sigma_residual)

    def misfit(self, of: Solutions, xi: Tensor) -> Tensor:
        """How badly xi explains trajectories, (batch,): the residual, in units of true ones."""
        return GaussNewton(self.problem.prior, self.rows).misfit(of, xi.double().cpu())

    def invert(  # noqa: D102
        self, u: Tensor, xi_known: Tensor, known: Tensor, corrections: int = 0
    ) -> tuple[Tensor, Tensor]:
        return self.invert_rows(self.rows.of(u), xi_known, known, corrections)

    def invert_rows(
        self, of: Solutions, xi_known: Tensor, known: Tensor, corrections: int
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of xi, (batch, d) each."""
        like, misfit, level = self.sigma_residual, None, 0
        mean, log_variance = self.neural_inverse(of, xi_known, known)
        if corrections:
            found = self.correct_inverse(of, mean, known, corrections)
            mean, log_variance, misfit, level = found.xi, 2 * found.std.log(), found.misfit, 1
        features, base = (x.to(like) for x in inverse_features(mean, log_variance, misfit, known))
        return mean, self.uncertainty.inverse_std(features, base, known, level)

    def neural_inverse(
        self, of: Solutions, xi_known: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the inverse map alone, (batch, d) each."""
        c = (of[0] / self.unit).to(known)
        arguments = (xi_known.to(known), known) if self.has_known else (None, None)
        mean, log_variance = self.read(c, c, *arguments)
        mean = self.problem.prior.clamp_standard(mean)
        # Known parameters keep their own precision.
        return torch.where(known > 0, xi_known.to(known.device), mean), log_variance

    def correct_inverse(self, of: Solutions, xi: Tensor, known: Tensor, n_steps: int) -> Minimum:
        """A search from xi; the Laplace approximation at its end, float64."""
        search = GaussNewton(self.problem.prior, self.rows)
        found = search(of, xi.double().cpu(), 1 - known.double().cpu(), n_steps)
        return Minimum(*(x.to(known.device) for x in (found.xi, found.std, found.misfit)))

    def refine(self, z: Tensor) -> Tensor:
        """The finite element solutions, stepped: (..., n_times, n_dofs), float64.

        Iterations on whole trajectories diverge, and a march needs no start.
        """
        return self.problem.solve(z)
