"""Linear functionals of solutions, corrected by adjoint solutions, with bounds of their error.

    K(z) e = -r(m),     e = u - m,     K(z)^T psi = l + s,     psi in a basis (`reduced.adjoint`)
    l(u) = l(m) - psi . r(m) - s . e

The value l(m) - psi . r(m) is wrong by a product of two small errors. For any approximation d of e,
that of the bounds of u itself (`pddlvm.galerkin.bounds`),

    |l(u) - l(m) + psi . r(m)|  <=  |s . d| + |s|_X' |e - d|_X
    |e - d|_X  <=  |r(m + d)|_X' / lower

(Pierce and Giles, SIAM Rev. 42, 2000, for the correction; Hesthaven, Rozza and Stamm, Certified
Reduced Basis Methods for Parametrized Partial Differential Equations, 2016, for the bound.) m has
the boundary values of u. Rounding widens the bounds, that of the value that is returned included.
"""

import torch
from torch import Tensor

from pddlvm.basics.by_object import ByObject
from pddlvm.basics.grad_mode import out_of_inference
from pddlvm.galerkin.bounds import Certifier, Improved
from pddlvm.linalg.derivatives import root
from pddlvm.reduced.adjoint import adjoint_of
from pddlvm.reduced.reference import Reference
from pddlvm.sensors.quantity import Quantity, check_quantity
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.problem import Problem

__all__ = ["PrimalDual", "PrimalDuals"]

_ROUNDINGS = 8.0
"""How many times the rounding of a sum may be as large as that of its terms."""
_SOLVED = 1e-6
"""Relative error of |s|, far above that of linear systems."""
_EXACT = 1e-11
"""Of |l|_X', the part of |s| that may be rounding."""


class PrimalDual:
    """Values of a quantity and their bounds, of means on the mesh; float64 on the CPU.

    Args:
        problem: whose solutions are asked.
        reference: X, and K at the centres.
        quantity: linear functionals.
    """

    def __init__(self, problem: Problem, reference: Reference, quantity: Quantity) -> None:
        self._problem, self._reference = problem, reference
        self._operators = problem.discretisation(torch.float64, torch.device("cpu"))
        self._l = torch.from_numpy(quantity.matrix.toarray())
        self._free = self._l[:, self._operators.free]
        self._adjoint = adjoint_of(self._problem, self._reference, self._free.numpy())
        rows = self._operators.balanced(self._free)
        self._least = _EXACT**2 * (rows * reference.solve(rows)).sum(-1)

    @property
    def has_adjoint(self) -> bool:
        """Are there adjoint solutions? Of a linear problem, but for what reads boundary values."""
        return self._adjoint is not None

    def value(self, mean: Tensor, z: Tensor) -> Tensor:
        """l(m) - psi . r(m) of means (batch, n_dofs) at z (batch, d), (batch, n).

        l(mean) alone where there are no adjoint solutions.
        """
        if self._adjoint is None:
            return mean @ self._l.T
        parts = [self._value(*part) for part in self._parts(mean, z)]
        return torch.cat(parts)

    def rest(self, mean: Tensor, z: Tensor) -> Tensor:
        """|s|_X', what adjoint solutions leave of the quantity, (batch, n); where there are any."""
        return torch.cat([self._rest(*part) for part in self._parts(mean, z)])

    def bound(self, mean: Tensor, z: Tensor, given: Tensor, certifier: Certifier) -> Tensor | None:
        """Of |l(u) - given|, (batch, n); None where there is none.

        Args:
            mean: m, (batch, n_dofs).
            z: (batch, d).
            given: the value, rounded, (batch, n).
            certifier: what bounds the error of the mean.
        """
        if self._adjoint is None:
            return None
        improved = certifier.improve(mean, z)
        if improved is None:
            return None
        pieces = [mean, z, given, *vars(improved).values()]
        found = [
            self._bound((m, w, y), Improved(*rest), certifier)
            for m, w, y, *rest in self._parts(*pieces)
        ]
        return torch.cat(found)

    def _value(self, mean: Tensor, z: Tensor) -> Tensor:
        held, adjoint = self._operators.held(mean, z), self._adjoint
        assert adjoint is not None
        r = self._residual(held, z) @ adjoint.v
        return held @ self._l.T - (adjoint.solve(z) @ r[..., None])[..., 0]

    def _rest(self, mean: Tensor, z: Tensor) -> Tensor:
        adjoint = self._adjoint
        assert adjoint is not None
        held = self._operators.held(mean, z).detach()
        psi = adjoint.solve(z) @ adjoint.v.T
        s = self._operators.balanced(self._transposed(psi, z, held) - self._free)
        riesz = self._reference.solve(s.detach().flatten(0, 1)).view_as(s)
        square = (riesz * s).sum(-1)
        # X^{-1} has no graph: half of the derivative is in the product. Rounding has none.
        return root((2 * square - square.detach()).maximum(self._least))

    def _bound(
        self, of: tuple[Tensor, Tensor, Tensor], near: Improved, certifier: Certifier
    ) -> Tensor:
        (mean, z, given), adjoint, norm = of, self._adjoint, certifier.norm
        assert adjoint is not None
        held, epsilon = self._operators.held(mean, z), torch.finfo(mean.dtype).eps
        r, c = self._residual(held, z), adjoint.solve(z)
        psi = c @ adjoint.v.T
        value = held @ self._l.T - (psi @ r[..., None])[..., 0]
        d = near.u - held
        s = self._operators.balanced(self._transposed(psi, z, held) - self._free)
        left = (s.flatten(0, 1) * norm.solve(s.flatten(0, 1))).sum(-1).clamp(min=0).sqrt()
        known = (s @ d[:, self._operators.free, None])[..., 0].abs()
        # K times psi is a difference of two residuals.
        of_s = 2 * certifier.rounding(psi.norm(dim=-1), near.continuity[:, None])
        left = (1 + _SOLVED) * left.view_as(known) + of_s
        rest = left * ((near.left + near.rounding) / near.coercivity)[:, None]
        of_r = certifier.rounding(held.norm(dim=1), near.continuity)[:, None]
        sums = held.abs() @ self._l.abs().T + (psi.abs() @ r.abs()[..., None])[..., 0]
        # Twice: what it is compared with has its own.
        rounding = of_s * norm.energy_norm(d)[:, None] + 2 * of_r * c.norm(dim=-1)
        rounding = rounding + _ROUNDINGS * epsilon * sums + (value - given).abs()
        return torch.where(near.coercivity[:, None] > 0, known + rest + rounding, torch.inf)

    def _residual(self, held: Tensor, z: Tensor) -> Tensor:
        return self._operators.balanced(self._operators.residual(held, z))

    def _transposed(self, psi: Tensor, z: Tensor, held: Tensor) -> Tensor:
        """K(z)^T psi, (batch, n, n_free) -> the same."""
        n, flat = psi.shape[1], psi.flatten(0, 1)
        if self._problem.has_potential:
            z, size = z.repeat_interleave(n, 0), held.norm(dim=1).repeat_interleave(n)
            return _times_stiffness(self._operators, flat, z, size[:, None]).view_as(psi)
        tangents = [t.mT.repeat_interleave(n, 0) for t in self._operators.tangents(held, z)]
        return self._operators.apply_tangents(tangents, flat).view_as(psi)

    def _parts(self, *pieces: Tensor) -> list[tuple[Tensor, ...]]:
        """As many samples as there is memory for."""
        chunk = max(1, self._problem.solver.chunk // len(self._l))
        return list(zip(*(piece.split(chunk) for piece in pieces), strict=True))


class PrimalDuals:
    """What answers quantities, made once for each and kept as long as it is.

    Args:
        problem: whose solutions are asked.
        reference: X, and K at the centres.
    """

    def __init__(self, problem: Problem, reference: Reference) -> None:
        self._problem, self._reference = problem, reference
        self._made: ByObject[Quantity, PrimalDual] = ByObject()

    @out_of_inference
    def __call__(self, quantity: Quantity) -> PrimalDual:
        """That of a quantity.

        Raises:
            InputError: it belongs to another problem.
        """
        check_quantity(self._problem, quantity)
        if quantity not in self._made:
            self._made[quantity] = PrimalDual(self._problem, self._reference, quantity)
        return self._made[quantity]


def _times_stiffness(operators: Discretisation, p: Tensor, z: Tensor, size: Tensor) -> Tensor:
    """K(z) p of a linear problem, (batch, n_free), for p the same.

    A difference of residuals, of a p of the size of u (batch, 1): far cheaper than tangents are.
    """
    scale = size / p.norm(dim=1, keepdim=True).clamp(min=1e-300)
    zero = p.new_zeros(len(p), operators.n_dofs)
    u = zero.index_copy(1, operators.free, scale * p)
    change = operators.residual(u, z) - operators.residual(zero, z)
    return change / scale.clamp(min=1e-300)
