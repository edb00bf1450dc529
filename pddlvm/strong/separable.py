"""The linearised problem with its coefficients averaged, so that it falls apart along coordinates.

    P  =  sum_c  I x ... A_c ... x I  +  a I,      A_c = sum_k diag(mean a_(c..c)) D_c^k
    A_c = V_c L_c V_c^-1 of all coordinates but one,    P^-1 by a small inverse along that one for
    each sum of eigenvalues

(Lynch, Rice and Thomas, Numer. Math. 6, 1964). Means are taken over all other coordinates: where
coefficients depend on their own alone, as those of a stretch do, P is the problem itself. The one
that is left is the time, whose operator of first order has eigenvectors that are nearly parallel.
Mixed derivatives and couplings of unknowns are left out. In a box of n^k nodes P^-1 costs n^(k+1),
where factors of the whole matrix cost n^(3 k).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pddlvm.strong.chebyshev import tensor_product
from pddlvm.strong.jets import Jet

__all__ = ["Separable"]


class Separable:
    """P^-1 of a batch, for one unknown.

    Args:
        slopes: coefficients a_I of the derivatives along s, (batch or 1, n_nodes) each or fewer.
        derivatives: D^0, D^1, ... along each coordinate, (n_c, n_c).
        free: nodes along each coordinate at which the unknown is free.
    """

    def __init__(
        self, slopes: Jet, derivatives: Sequence[Sequence[Tensor]], free: Sequence[slice]
    ) -> None:
        nodes = [len(own[0]) for own in derivatives]
        boxed = {
            index: a.expand(len(torch.atleast_2d(a)), math.prod(nodes)).reshape(-1, *nodes)
            for index, a in slopes.items()
        }
        k = len(nodes)
        shift = boxed[()].flatten(1).mean(1) if () in boxed else torch.zeros(1).double()
        matrices, orders = [], []
        for c in range(k):
            pure = {i: a for i, a in boxed.items() if i and set(i) == {c}}
            others = [1 + other for other in range(k) if other != c]
            total = torch.zeros(1, nodes[c], nodes[c], dtype=torch.float64)
            for index, a in pure.items():
                own = a.mean(others) if others else a
                total = total + own[..., None] * derivatives[c][len(index)]
            matrices.append(total[:, free[c], free[c]])
            orders.append(max(map(len, pure), default=0))
        # The last one of those of the lowest order, which are no eigenvalue problems.
        self._kept = max(range(k), key=lambda c: (-orders[c], c))
        self._order = [c for c in range(k) if c != self._kept]
        values, self._vectors, self._back = [], [], []
        for c in self._order:
            of_c, vectors = torch.linalg.eig(matrices[c])
            values.append(of_c)
            self._vectors.append(vectors)
            self._back.append(torch.linalg.inv(vectors))
        kept = matrices[self._kept].to(torch.complex128)
        total_values = shift.to(torch.complex128).reshape(-1, *[1] * (k - 1))
        for place, of_c in enumerate(values):
            total_values = total_values + of_c.reshape(
                -1, *[1] * place, of_c.shape[-1], *[1] * (k - 2 - place)
            )
        identity = torch.eye(kept.shape[-1], dtype=kept.dtype)
        along = kept.reshape(-1, *[1] * (k - 1), *kept.shape[-2:])
        # Where it is singular, equations that miss their unknown, no inverse is finite.
        whole = along + total_values[..., None, None] * identity
        self._inverse, _ = torch.linalg.inv_ex(whole)
        self._sizes = [matrix.shape[-1] for matrix in matrices]

    def solve(self, rows: Tensor) -> Tensor:
        """P^-1 rows, (batch, n_free) of the one unknown."""
        boxed = rows.reshape(len(rows), *self._sizes).movedim(1 + self._kept, -1)
        identity = torch.eye(boxed.shape[-1], dtype=torch.complex128)
        boxed = tensor_product(boxed.to(torch.complex128), [*self._back, identity])
        boxed = (self._inverse @ boxed[..., None])[..., 0]
        boxed = tensor_product(boxed, [*self._vectors, identity]).real
        return boxed.movedim(-1, 1 + self._kept).flatten(1)
