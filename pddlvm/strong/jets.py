"""Values and partial derivatives together: u, u_x, u_t, u_xx ... of elementwise functions.

A derivative is named by the positions of its coordinates: () is the value, (0,) the first
derivative along the first coordinate, (0, 0) the second. A jet maps these names to tensors. Orders
up to four.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from pddlvm.basics.errors import ProblemError
from pddlvm.strong.partitions import Index, splittings

__all__ = [
    "HIGHEST",
    "Index",
    "Jet",
    "closure",
    "parse_derivative",
    "partials",
    "product",
    "rows_of",
]

HIGHEST = 4
"""Order of a derivative."""
Jet = dict[Index, Tensor]


def parse_derivative(name: str, coordinates: Sequence[str], unknown: str = "u") -> Index | None:
    """The index that `u`, `u_x`, `u_xt` ... stands for; None where a name is no derivative of u.

    Raises:
        ProblemError: a derivative of an order above four.
    """
    if name == unknown:
        return ()
    if not name.startswith(f"{unknown}_"):
        return None
    index: list[int] = []
    rest = name[len(unknown) + 1 :]
    while rest:
        at = next((i for i, c in enumerate(coordinates) if rest.startswith(c)), None)
        if at is None:
            return None
        index.append(at)
        rest = rest[len(coordinates[at]) :]
    if len(index) > HIGHEST:
        raise ProblemError(
            f"{name!r} is a derivative of order {len(index)}; orders up to {HIGHEST} are "
            "supported. Write the equation as a system of lower order, with several unknowns"
        )
    return tuple(sorted(index))


def closure(indices: Iterable[Index]) -> tuple[Index, ...]:
    """The indices with all that the rules of products and compositions need: their parts."""
    found = {()} | {part for index in indices for _, part, _ in splittings(tuple(sorted(index)))}
    return tuple(sorted(found, key=lambda index: (len(index), index)))


def partials(f: Callable[..., Tensor], x: Sequence[Tensor], indices: Iterable[Index]) -> Jet:
    """Derivatives of an elementwise function of the coordinates x, each of the shape of f(x).

    They have a graph where f(x) has one, of parameters for instance.
    """
    value = f(*x)
    is_recorded = value.requires_grad
    with torch.enable_grad():
        shape = torch.broadcast_shapes(value.shape, *(c.shape for c in x))
        at = [(c if is_recorded else c.detach()).expand(shape).clone() for c in x]
        at = [c if c.requires_grad else c.requires_grad_() for c in at]
        found: Jet = {(): f(*at).expand(shape)}
        for index in sorted(closure(indices), key=len)[1:]:
            found[index] = _slope(found[index[:-1]], at[index[-1]])
    return {i: found[i] if is_recorded else found[i].detach() for i in indices}


def _slope(u: Tensor, x: Tensor) -> Tensor:
    """du/dx of elementwise u(x), zero where u does not depend on x."""
    if not u.requires_grad:
        return torch.zeros_like(u)
    # Elementwise: the gradient of the sum holds all derivatives.
    (slope,) = torch.autograd.grad(
        u.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return slope


def product(f: Mapping[Index, Tensor], g: Mapping[Index, Tensor]) -> Jet:
    """(f g)_ij = f_ij g + f_i g_j + f_j g_i + f g_ij, for the indices of g."""
    return {
        index: reduce(torch.add, [count * f[a] * g[b] for count, a, b in splittings(index)])
        for index in g
    }


def rows_of(jet: Jet, rows: Tensor | slice) -> Jet:
    """That of some samples."""
    return {index: u[..., rows, :] for index, u in jet.items()}
