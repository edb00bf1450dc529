"""Galerkin solutions in the span of the learnt functions, which the branch learns in the end.

    int F phi_i r(u_c; z) dx = 0,   i = 1 ... m,      u_c = lift + F sum_j c_j phi_j

of several unknowns with a sum over all, the residual of each relative to the size of its unknown. A
residual that is small in the mean square does not make the error small where the equation nearly
degenerates or has layers. Once the functions are there, the equation tested with them gives
coefficients c*(z) that are close to the best ones: Newton's method for m unknowns per draw, a
millisecond each. A matrix costs a hundred residuals here and serves a draw to its end, in half the
digits; `pddlvm.linalg.newton` forms it anew, for draws that start anywhere.
"""

import torch
from torch import Tensor

from pddlvm.collocation.likelihood import Collocation
from pddlvm.collocation.model import CollocationMaps

__all__ = ["GalerkinProjection", "fit_branch"]

_N_DRAWS = 4096
_N_CHECKED = 16
_N_STEPS = 2
_CHUNK = 64
_RANK = 1e-12
_CONTRACTION = 0.1
_ROUND_OFF = 1e-10


def fit_branch(model: CollocationMaps, seed: int) -> None:
    """Fit the branch to Galerkin coefficients of fresh draws, if they lower the error of its mean.

    Whether they do, the linearised PDE on the nodes tells for a few draws. Conditions that are not
    hard would need test functions of their own: there the branch stays as it is.
    """
    if model.problem.conditions:
        return
    prior = model.problem.prior
    z = prior.sample((_N_DRAWS,), seed=seed)
    xi = prior.standardise(z)
    with torch.no_grad():
        trained = model.forward_map(xi.to(model.sigma_residual))[0].double().cpu()
    projection = GalerkinProjection(model)
    found = projection.solve(trained, z)
    good = torch.isfinite(found).all(-1)
    checked = good.nonzero()[:_N_CHECKED, 0]
    if 2 * int(good.sum()) > _N_DRAWS and (
        _square_error(model, found[checked], z[checked])
        < _square_error(model, trained[checked], z[checked])
    ):
        model.forward_map.fit(xi[good], found[good], projection.gram)


def _square_error(model: CollocationMaps, c: Tensor, z: Tensor) -> float:
    jet = model.newton.jet(model.basis.nodal(c.to(model.sigma_residual)).cpu(), z)
    return float(model.newton.error(jet, z).square().mean())


class GalerkinProjection:
    """Newton's method for c, float64 on the CPU, with quadrature on the Chebyshev nodes.

    Args:
        model: its problem, nodes and learnt functions.
    """

    def __init__(self, model: CollocationMaps) -> None:
        self.problem = model.problem
        nodes = model.newton.s
        with torch.no_grad():
            at = model.basis.at(torch.stack(nodes, dim=-1).to(model.sigma_residual))
        unit = model.basis.unit.cpu()
        self.at = Collocation(nodes, {i: b.double().cpu() for i, b in at.basis.items()}, unit)
        weights = self.problem.form.quadrature_weights(self.problem.nodes)[:, None]
        phi = self.at.basis[()].flatten(0, -2)
        self.gram = phi.T @ (weights * phi)
        values, vectors = torch.linalg.eigh(self.gram)
        kept = values > _RANK * values[-1]
        self.independent = vectors[:, kept] / values[kept].sqrt()
        self.tested = weights * (phi @ self.independent)
        """Test functions at the nodes, one unknown after the other, with the weights there."""
        self.orthonormal = {i: (b @ self.independent).float() for i, b in self.at.basis.items()}
        self.unit = unit

    @torch.no_grad()
    def solve(self, c: Tensor, z: Tensor) -> Tensor:
        """c*(z) from a nearby c, (n, m) float64; rows whose steps do not shrink are NaN.

        All steps of a draw share its first matrix, kept in float32: the residuals are exact.
        """
        found = []
        for part, at in zip(c.split(_CHUNK), z.split(_CHUNK), strict=True):
            matrix, unit = self._matrix(part, at)
            factors = torch.linalg.lu_factor_ex(matrix)[:2]
            sizes = []
            for _ in range(_N_STEPS):
                r = self._tested_residual(part, at) / unit
                change = torch.linalg.lu_solve(*factors, r[..., None])
                part = part - change[..., 0] @ self.independent.T
                sizes.append(change.norm(dim=(1, 2)))
            contracts = sizes[-1] < _CONTRACTION * sizes[0] + _ROUND_OFF
            found.append(torch.where(contracts[:, None], part, torch.nan))
        return torch.cat(found)

    def _matrix(self, c: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """A in the orthonormal functions, (n, k, k), relative to a size, and that size."""
        jet, values = self.at.jet(self.problem, c, z)
        _, found = self.problem.residual_function.linearise(jet, values)
        placed = self.problem.ansatz.place(self.at.s, z)
        volume, shape = placed.volume, (len(z), len(self.at.s[0]))
        sizes = self.unit.reshape(-1)
        slopes = [
            {
                (a, i): ((sizes[a] / size) * slope * volume).expand(shape)
                for a, own in enumerate(of_row)
                for i, slope in placed.pull_back(own).items()
            }
            for of_row, size in zip(found, sizes, strict=True)
        ]
        unit = torch.stack([s.abs().max() for row in slopes for s in row.values()]).max()
        matrix = torch.zeros(len(z), *[self.tested.shape[1]] * 2)
        for tested, of_row in zip(self.tested.float().chunk(len(sizes)), slopes, strict=True):
            total = torch.zeros(*shape, self.tested.shape[1])
            for (a, index), slope in of_row.items():
                functions = self.problem.unknowns.parts(self.orthonormal[index])[a]
                total.addcmul_((slope / unit).float()[..., None], functions)
            matrix += tested.T @ total
        return matrix.double(), unit

    def _tested_residual(self, c: Tensor, z: Tensor) -> Tensor:
        jet, values = self.at.jet(self.problem, c, z)
        r = self.problem.residual_function(jet, values).expand_as(jet[()])
        unknowns = self.problem.unknowns
        volume = self.problem.ansatz.place(self.at.s, z).volume
        return unknowns.join(r * volume / unknowns.beside_stacks(self.unit)) @ self.tested
