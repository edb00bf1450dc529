"""Terms that are quadratic in u and combine few fixed functions of x: reduced operators.

If the pointwise tangent is D(x; z) = sum_q theta_q(z) D_q(x) with few q, then

    V^T K(z) V = sum_q theta_q(z) K_q,      K_q = V^T B^T (w D_q) B V

and a training step never touches an element. With test functions W of their own it is W^T K(z) V.
The D_q are found by empirical interpolation of D on
prior draws, and theta_q(z) is simply the value of D at one "magic" point. The part of the flux at
u = 0 (loads) is treated alike. theta has the units of the physics, K_q here is scaled to size one.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pddlvm.linalg.empirical_interpolation import Interpolation
from pddlvm.linalg.operators import scale_rows
from pddlvm.weak.projection import Projection
from pddlvm.weak.terms import TermEvaluator

__all__ = ["AffineTerm"]


class AffineTerm(nn.Module):
    """A quadratic term in a reduced basis: K(z) a + g(z), and its energy 1/2 a^T K(z) a + g(z) . a.

    Args:
        term: the physics at the points.
        tangent: interpolation of the tangents, entries (n_points, s, s).
        load: interpolation of the fluxes at u = 0, entries (n_points, s).
        bases: (V, L) and W; an energy there is where both are the same.
        dtype: of the matrices.
        energy: the unit of the result.
    """

    k: Tensor
    g: Tensor
    k_unit: Tensor
    g_unit: Tensor
    magic: TermEvaluator
    tangent_entry: Tensor
    load_entry: Tensor

    def __init__(
        self,
        term: TermEvaluator,
        tangent: Interpolation,
        load: Interpolation,
        bases: Projection,
        dtype: torch.dtype,
        energy: float = 1.0,
    ) -> None:
        super().__init__()
        s, (n_rows, n) = term.s, bases.shape
        weights = term.weights.numpy() / energy
        k, g = np.empty((len(tangent.index), n_rows, n)), np.empty((len(load.index), n_rows))
        for q in range(len(k)):
            k[q] = bases.matrix(tangent.function(q).reshape(-1, s, s) * weights[:, None, None])
        for q in range(len(g)):
            g[q] = bases.vector(load.function(q).reshape(-1, s) * weights[:, None])
        magic = np.concatenate([tangent.index // s**2, load.index // s])
        self.register_buffer("tangent_entry", torch.from_numpy(tangent.index % s**2))
        self.register_buffer("load_entry", torch.from_numpy(load.index % s))
        # At the magic points only the flux at u = 0 and its derivative are asked for.
        self.magic = TermEvaluator.at_points(term.term, term.points.take(magic), term.used, n)
        matrices, loads = torch.from_numpy(k), torch.from_numpy(g)
        self.is_constant = not len(self.magic.fields)
        if self.is_constant:
            # The coefficients read no parameter: sum the operators up once.
            zero = torch.zeros(1, n, dtype=torch.float64)
            matrices = torch.einsum("q,qij->ij", self.theta(zero, {})[0], matrices)[None]
            loads = self.phi(zero, {}) @ loads
        else:
            (k_unit, matrices), (g_unit, loads) = map(scale_rows, (matrices.flatten(1), loads))
            self.register_buffer("k_unit", k_unit)
            self.register_buffer("g_unit", g_unit)
            matrices = matrices.unflatten(1, (n_rows, n))
        self.register_buffer("k", matrices.to(dtype))
        self.register_buffer("g", loads.to(dtype))

    def energy(self, a: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """1/2 a^T K a + g . a, (batch,)."""
        return (a * (0.5 * self._times(a, z) + self.load(a, z))).sum(-1)

    def residual(self, a: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """K a + g, (batch, n_rows)."""
        return self._times(a, z) + self.load(a, z)

    def stiffness(self, a: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """K(z), (batch, n_rows, n_columns)."""
        if self.is_constant:
            return self.k.expand(len(a), -1, -1)
        weights = (self.theta(a, z) * self.k_unit).to(self.k)
        return torch.einsum("bq,qij->bij", weights, self.k)

    def slope(self, a: Tensor, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """d residual / d z of each field that is read, (batch, n_rows, size).

        sum_q dtheta_q K_q a + sum_p dphi_p g_p, where each coefficient reads the fields at its
        point alone: dtheta_q / dz_j is its derivative by the latent field there, times psi_j.
        """
        if self.is_constant:
            return {}
        rank, n_rows, n = len(self.tangent_entry), *self.k.shape[1:]
        parts = (a @ self.k.reshape(rank * n_rows, n).T).unflatten(-1, (rank, n_rows))
        parts = torch.cat([parts, self.g.expand(len(a), -1, -1)], dim=1) if len(self.g) else parts
        unit = torch.cat([self.k_unit, self.g_unit])
        # The few fields, and not the many rows, are multiplied by the slopes.
        return {
            name: (
                ((slope * unit)[..., None] * self.magic.latent_slopes(name, z)).to(parts).mT @ parts
            ).mT
            for name, slope in self._by_latents(len(a), z)[1].items()
        }

    def coefficients(self, batch: int, z: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """theta and phi, (batch, rank), and d/dz of each field read, (batch, rank, size)."""
        value, slopes = self._by_latents(batch, z)
        return value, {
            k: slope[..., None] * self.magic.latent_slopes(k, z) for k, slope in slopes.items()
        }

    def _by_latents(self, batch: int, z: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        def both(latents: dict[str, Tensor]) -> Tensor:
            return torch.cat([self._theta(latents, batch), self._phi(latents, batch)], dim=-1)

        return self.magic.by_latents(both, z)

    def theta(self, a: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """Coefficients of the matrices, (batch, rank), float64."""
        return self._theta(self.magic.latents(z), len(a))

    def phi(self, a: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """Coefficients of the load vectors, (batch, rank), float64."""
        return self._phi(self.magic.latents(z), len(a))

    def _theta(self, latents: Mapping[str, Tensor], batch: int) -> Tensor:
        rank, s = len(self.tangent_entry), self.magic.s
        if rank == 0:
            return self.magic.weights.new_zeros(batch, 0)
        entry = torch.cat([self.tangent_entry, s * self.load_entry])
        # `one_hot` looks at its numbers, which no recording can.
        is_row = (entry // s)[:, None] == torch.arange(s, device=entry.device)
        rows = is_row.to(self.magic.weights).expand(batch, -1, -1)
        found = self.magic.tangent_rows(rows, latents)[:, :rank]
        return found.gather(-1, (self.tangent_entry % s).expand(batch, -1)[..., None])[..., 0]

    def _phi(self, latents: Mapping[str, Tensor], batch: int) -> Tensor:
        rank, s = len(self.load_entry), self.magic.s
        if rank == 0:
            return self.magic.weights.new_zeros(batch, 0)
        zero = self.magic.weights.new_zeros(batch, len(self.magic.weights), s)
        found = self.magic.fluxes_at(zero, latents)[:, -rank:]
        return found.gather(-1, self.load_entry.expand(batch, -1)[..., None])[..., 0]

    def _times(self, a: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        if len(self.tangent_entry) == 0:
            return a.new_zeros(len(a), self.k.shape[1])
        if self.is_constant:
            return a @ self.k[0].T
        return torch.einsum("bij,bj->bi", self.stiffness(a, z), a)

    def load(self, a: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """g(z), (batch, n_rows)."""
        if self.is_constant:
            return self.g
        return (self.phi(a, z) * self.g_unit).to(self.g) @ self.g
