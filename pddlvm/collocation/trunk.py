"""Learnt basis functions phi_j(s) with their derivatives, in Taylor mode.

    layer:       v = W h + b,    v_i = W h_i,                       v_ij = W h_ij
    activation:  h = tanh(v),    h_i = (1 - h^2) v_i,   h_ij = (1 - h^2) (v_ij - 2 h v_i v_j)

All derivatives travel through the layers side by side, as one matrix product each: one pass instead
of a nest of them, and a single backward pass for training. Measured against reverse over reverse
and against nested `torch.func.jvp` in `benchmarks/pinn.py`.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from pddlvm.strong.jets import Index, Jet

__all__ = ["Trunk"]


class Trunk(nn.Module):
    """A multilayer perceptron of tanh layers that maps jets to jets.

    Of several unknowns each phi_j has a value for each of them.

    Args:
        n_in: number of features of a point.
        n_out: number of functions phi_j.
        n_unknowns: values of each.
        width: of the hidden layers.
        depth: number of hidden layers.
    """

    def __init__(
        self, n_in: int, n_out: int, n_unknowns: int = 1, *, width: int = 128, depth: int = 4
    ) -> None:
        super().__init__()
        self.n_unknowns = n_unknowns
        sizes = [n_in, *[width] * depth, n_unknowns * n_out]
        layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.layers = cast(list[nn.Linear], layers)

    def forward(self, features: Mapping[Index, Tensor]) -> Jet:
        """phi_j and its derivatives, from those of the features.

        (n_points, n_out) each, of several unknowns (n_unknowns, n_points, n_out).
        """
        indices = tuple(features)
        h = torch.stack([features[index] for index in indices])
        value = indices.index(())
        *hidden, last = self.layers
        for layer in hidden:
            v = h @ layer.weight.T
            v[value] += layer.bias
            h = cast(Tensor, _TanhJet.apply(v, indices))
        v = h @ last.weight.T
        v[value] += last.bias
        if self.n_unknowns > 1:
            v = v.unflatten(-1, (self.n_unknowns, -1)).movedim(-2, 1)
        return dict(zip(indices, v.unbind(0), strict=True))


class _TanhJet(torch.autograd.Function):
    """tanh of a jet that is stacked along the first axis, and its adjoint, without copies.

    With s = 1 - h^2 and cotangents g of h, h_i, h_ij:

        g_i  ->  v_i: s g_i,     v: -2 h s v_i g_i
        g_ij ->  v_ij: s g_ij,   v_i: -2 h s v_j g_ij,   v: -2 s (h v_ij + (s - 2 h^2) v_i v_j) g_ij
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, indices: tuple[Index, ...]) -> Tensor:
        at = {index: k for k, index in enumerate(indices)}
        out = torch.empty_like(v)
        h = torch.tanh(v[at[()]], out=out[at[()]])
        slope = 1 - h * h
        for index, k in at.items():
            if len(index) == 1:
                torch.mul(slope, v[k], out=out[k])
            elif len(index) == 2:
                i, j = at[index[:1]], at[index[1:]]
                torch.mul(v[i], v[j], out=out[k])
                out[k].mul_(h).mul_(-2).add_(v[k]).mul_(slope)
        ctx.save_for_backward(v, out, slope)
        ctx.at = at
        return out

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        (g,) = cotangents
        v, jet, slope = ctx.saved_tensors
        at: dict[Index, int] = ctx.at
        h = jet[at[()]]
        out = slope * g
        bend = -2 * h * slope
        total = out[at[()]]
        for index, k in at.items():
            if len(index) == 1:
                total.addcmul_(bend, v[k] * g[k])
            elif len(index) == 2:
                i, j = at[index[:1]], at[index[1:]]
                out[i].addcmul_(bend * v[j], g[k])
                out[j].addcmul_(bend * v[i], g[k])
                # d/dv of s (v_ij - 2 h v_i v_j).
                total.addcmul_(bend * v[k] - 2 * slope * (slope - 2 * h * h) * v[i] * v[j], g[k])
        return out, None
