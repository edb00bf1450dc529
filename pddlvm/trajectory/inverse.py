"""Rows by which parameters explain whole trajectories: the residual of the modes.

    rows  =  rho(a, z(xi)) / (sigma |a|),   (b(z(xi), t) - b(t)) / (sigma_b |b|)

a are the coefficients of u, sigma what rho / |a| of a true solution amounts to, because u has a
part outside of the modes; b are Dirichlet values. The search is that of
`pddlvm.galerkin.gauss_newton`. Whether that part is one of a solution is told by its size alone.
"""

import torch
from torch import Tensor

from pddlvm.galerkin.gauss_newton import SIGMA_BOUNDARY, Rows, Solutions
from pddlvm.trajectory.modes import Modes
from pddlvm.trajectory.slopes import linearised_modes

__all__ = ["TrajectoryRows"]

_LEAST, _LEAST_BOUNDARY = 1e-30, 1e-6


class TrajectoryRows(Rows):
    """Those of trajectories, float64 on the CPU.

    Args:
        modes: the p x p equations.
        sigma: of rho / |a|, (p,).
    """

    def __init__(self, modes: Modes, sigma: Tensor) -> None:
        self._modes, self._sigma = modes, sigma.double().cpu()
        n_boundary = len(modes.steps.lifts)
        self.n = len(sigma) + n_boundary * (len(modes.steps.ta) if n_boundary else 0)

    def of(self, u: Tensor) -> Solutions:
        """Of trajectories (batch, n_times, n_dofs): a, |a|, and b at the steps."""
        steps = self._modes.steps
        u = u.detach().to("cpu", torch.float64)
        free = torch.from_numpy(steps.problem.steady.free_dofs)
        a = self._modes.project(u[..., free] @ steps.norm_v)
        return self.of_parts(a, u[..., torch.from_numpy(steps.coefficients.boundary)])

    def left_out(self, u: Tensor, a: Tensor) -> Tensor:
        """Relative size of what the modes leave out of trajectories, (batch,)."""
        steps = self._modes.steps
        free = torch.from_numpy(steps.problem.steady.free_dofs)
        inside = u.detach().to("cpu", torch.float64)[..., free]
        left = inside - self._modes.expand(a) @ steps.v.T
        return steps.size_on_mesh(left) / a.norm(dim=-1).clamp(min=_LEAST)

    def of_parts(self, a: Tensor, b: Tensor) -> Solutions:
        """Of coefficients (batch, p) and Dirichlet values at the steps, (batch, N, R)."""
        return a, a.norm(dim=-1, keepdim=True).clamp(min=_LEAST), b.flatten(1)

    def __call__(self, of: Solutions, xi: Tensor) -> Tensor:  # noqa: D102
        a, size, _ = of
        steps = self._modes.steps
        drive = steps.drive(steps.problem.prior.unstandardise(xi))
        rho = self._modes.equations(drive).residual(a)
        return self._joined(of, rho / (self._sigma * size), steps.boundary(drive))

    def linearise(self, of: Solutions, xi: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        a, size, b = of
        z, by_xi = self._modes.steps.problem.prior.with_slope(xi)
        at, unit = linearised_modes(self._modes, z), self._sigma * size
        rows = self._joined(of, at.residual(a) / unit, at.boundary)
        slope = at.slope(a) / unit[..., None]
        if b.shape[1]:
            scale = self._scale(b)[..., None]
            slope = torch.cat([slope, at.boundary_slope.flatten(1, 2) / scale], dim=1)
        return rows, by_xi(slope)

    def _joined(self, of: Solutions, rho: Tensor, boundary: Tensor) -> Tensor:
        b = of[2]
        if b.shape[1] == 0:
            return rho
        return torch.cat([rho, (boundary.flatten(1) - b) / self._scale(b)], dim=-1)

    def _scale(self, b: Tensor) -> Tensor:
        return SIGMA_BOUNDARY * b.norm(dim=-1, keepdim=True).clamp(min=_LEAST_BOUNDARY)
