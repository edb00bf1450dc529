"""A function of a batch as one flat graph of tensor operations, for any number of samples.

No tracer that keeps the batch as a symbol gets through the derivatives inside of our maps (of
pointwise physics, of lifts). So a function is recorded twice, on n_1 and on n_2 samples, with all
derivatives written out. A size that differs between the two recordings is linear in the batch,

    k(n) = k_1 + (k_2 - k_1) / (n_2 - n_1) (n - n_1),

and what depends on neither the input nor the batch is computed once and stored.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.func import functionalize

from pddlvm.basics.errors import InputError

__all__ = ["RECORDED", "Map", "record"]

Map = Callable[[Tensor], tuple[Tensor, ...]]

RECORDED = (3, 5)
"""n_1 and n_2."""


def record(function: Map, x: Tensor) -> fx.GraphModule:
    """The graph of a function (batch, k) -> (batch, ...), ...

    Args:
        function: treats its samples alike, whatever their number; not checked.
        x: n_2 samples or more; their values do not matter.

    Raises:
        InputError: what the function computes depends on the number of samples.
    """
    # Imported where it is used: it takes a second.
    from torch.fx.experimental.proxy_tensor import make_fx

    def recorded(part: Tensor) -> fx.GraphModule:
        # Changes in place last: `functionalize` does not go with derivatives by autograd.
        return make_fx(functionalize(make_fx(function)(part)), _REPLACED)(part)

    with torch.no_grad():
        # Fills what is cached, so that both recordings are alike.
        function(x)
        return _Merge()(*(recorded(x[:n]) for n in RECORDED))


class _Merge:
    """Writes two recordings as one graph."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.constants = nn.Module()
        # By identity, which is unique so long as the tensors are kept.
        self.names: dict[int, tuple[str, Tensor]] = {}
        # What became of the nodes of the first recording: nodes, or constants.
        self.values: dict[fx.Node, Any] = {}

    def __call__(self, first: fx.GraphModule, second: fx.GraphModule) -> fx.GraphModule:
        if [_kind(a) for a in first.graph.nodes] != [_kind(b) for b in second.graph.nodes]:
            raise InputError("a map computes something else for another number of samples")
        for a, b in zip(first.graph.nodes, second.graph.nodes, strict=True):
            if a.op == "placeholder":
                self.values[a] = self.graph.placeholder("x")
                size = torch.ops.aten.sym_size.int
                self.batch = self.graph.call_function(size, (self.values[a], 0))
            elif a.op == "get_attr":
                self.values[a] = getattr(first, a.target).detach()
            elif a.op == "output":
                self.graph.output(self._stored(self._merged(a.args[0], b.args[0])))
            else:
                args, kwargs = self._merged((a.args, a.kwargs), (b.args, b.kwargs))
                self.values[a] = self._call(*_exact(a, args), kwargs)
        self.graph.eliminate_dead_code()
        return fx.GraphModule(self.constants, self.graph)

    def _call(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The result of constants, else a node."""
        nodes: list[fx.Node] = []
        fx.node.map_arg((args, kwargs), nodes.append)
        if not nodes:
            return target(*args, **kwargs)
        return self.graph.call_function(target, self._stored(args), self._stored(kwargs))

    def _merged(self, a: Any, b: Any) -> Any:
        """Arguments of both recordings as one, with a size of the batch where they differ."""
        if isinstance(a, fx.Node):
            return self.values[a]
        if isinstance(a, tuple | list):
            parts = [self._merged(i, j) for i, j in zip(a, b, strict=True)]
            return tuple(parts) if isinstance(a, tuple) else parts
        if isinstance(a, dict):
            return {key: self._merged(a[key], b[key]) for key in a}
        if a == b:
            return a
        n_1, n_2 = RECORDED
        if type(a) is not int or type(b) is not int or (b - a) % (n_2 - n_1):
            raise InputError(f"a map reads {a} for {n_1} samples and {b} for {n_2}")
        slope = (b - a) // (n_2 - n_1)
        scaled = self.graph.call_function(operator.mul, (self.batch, slope))
        return self.graph.call_function(operator.add, (scaled, a - slope * n_1))

    def _stored(self, argument: Any) -> Any:
        """An argument with nodes in place of its tensors, which become buffers."""
        if isinstance(argument, tuple | list):
            return type(argument)(self._stored(part) for part in argument)
        if isinstance(argument, dict):
            return {key: self._stored(part) for key, part in argument.items()}
        if not isinstance(argument, Tensor):
            return argument
        if id(argument) not in self.names:
            name = f"constant_{len(self.names)}"
            self.names[id(argument)] = name, argument
            # A copy: a view would take all of its storage along.
            copy = argument.clone(memory_format=torch.contiguous_format)
            self.constants.register_buffer(name, copy)
        return self.graph.get_attr(self.names[id(argument)][0])


def _kind(node: fx.Node) -> Any:
    """What two recordings share: the names of constants may differ."""
    return node.target if node.op == "call_function" else node.op


def _exact(node: fx.Node, args: Any) -> tuple[Any, Any]:
    """Target and arguments of a node, where a factor in double precision becomes a tensor."""
    meta = node.meta.get("tensor_meta")
    is_double = meta is not None and meta.dtype == torch.float64
    if not is_double or node.target not in _PRODUCTS or not isinstance(args[1], float):
        return node.target, args
    return _PRODUCTS[node.target], (args[0], torch.tensor(args[1], dtype=torch.float64))


def _diagonal_scatter(
    x: Tensor, source: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    """x with another diagonal, as `torch.diagonal_scatter`."""
    moved = x.movedim((dim1, dim2), (-2, -1))
    i, j = torch.arange(moved.shape[-2])[:, None], torch.arange(moved.shape[-1])
    along = torch.minimum(i, j).clamp(max=source.shape[-1] - 1)
    return torch.where(j - i == offset, source[..., along], moved).movedim((-2, -1), (dim1, dim2))


def _erf(x: Tensor) -> Tensor:
    """erf x = 2 x / sqrt(pi) int_0^1 exp(-(x t)^2) dt by Gauss-Legendre points, to 1e-14."""
    t, w = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(32))
    # Beyond 6 it is one.
    at = x.double().clamp(-6, 6)
    mean = (-(at[..., None] * 0.5 * (1 + t)).square()).exp() @ (0.5 * w)
    return (2 / math.sqrt(math.pi) * at * mean).to(x.dtype)


def _softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta."""
    scaled = beta * x
    return (scaled.clamp(min=0) + (1 + (-scaled.abs()).exp()).log()) / beta


def _asinh(x: Tensor) -> Tensor:
    """log(x + sqrt(x^2 + 1)), to 1e-15."""
    size = x.abs()
    return x.sign() * (size + (size.square() + 1).sqrt()).log()


# ONNX does not have the first, and onnxruntime has the others in single precision only.
_REPLACED: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.diagonal_scatter.default: _diagonal_scatter,
    torch.ops.aten.erf.default: _erf,
    torch.ops.aten.softplus.default: _softplus,
    torch.ops.aten.asinh.default: _asinh,
}

# To ONNX a number is one of single precision.
_PRODUCTS: dict[Any, Any] = {
    torch.ops.aten.mul.Scalar: torch.ops.aten.mul.Tensor,
    torch.ops.aten.mul.Tensor: torch.ops.aten.mul.Tensor,
    torch.ops.aten.div.Tensor: torch.ops.aten.div.Tensor,
}
