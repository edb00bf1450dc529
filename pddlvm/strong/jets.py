"""Values and partial derivatives together: u, u_x, u_t, u_xx ... of elementwise functions.

A derivative is named by the positions of its coordinates: () is the value, (0,) the first
derivative along the first coordinate, (0, 0) the second. A jet maps these names to tensors. Orders
up to two.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from pddlvm.basics.errors import ProblemError

__all__ = [
    "Index",
    "Jet",
    "chain",
    "closure",
    "parse_derivative",
    "partials",
    "product",
    "pull_back",
    "rows_of",
]

Index = tuple[int, ...]
Jet = dict[Index, Tensor]


def parse_derivative(name: str, coordinates: Sequence[str], unknown: str = "u") -> Index | None:
    """The index that `u`, `u_x`, `u_xt` ... stands for; None where a name is no derivative of u.

    Raises:
        ProblemError: a derivative of an order above two.
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
    if len(index) > 2:
        raise ProblemError(
            f"{name!r} is a derivative of order {len(index)}; orders up to 2 are supported. Write "
            "the equation as a system of lower order, with several unknowns"
        )
    return tuple(sorted(index))


def closure(indices: Iterable[Index]) -> tuple[Index, ...]:
    """The indices with all that they need: the value and the first derivatives of the second."""
    wanted = set(indices)
    found = {()} | {(i,) for index in wanted for i in index} | wanted
    return tuple(sorted(found, key=lambda index: (len(index), index)))


def partials(f: Callable[..., Tensor], x: Sequence[Tensor], indices: Iterable[Index]) -> Jet:
    """Derivatives of an elementwise function of the coordinates x, each of the shape of f(x)."""
    with torch.enable_grad():
        shape = torch.broadcast_shapes(f(*x).shape, *(c.shape for c in x))
        at = [c.detach().expand(shape).clone().requires_grad_() for c in x]
        found: Jet = {(): f(*at).expand(shape)}
        for index in sorted(closure(indices), key=len)[1:]:
            found[index] = _slope(found[index[:-1]], at[index[-1]])
    return {index: found[index].detach() for index in indices}


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
    found: Jet = {(): f[()] * g[()]}
    for index in g:
        if len(index) == 1:
            found[index] = f[index] * g[()] + f[()] * g[index]
        elif len(index) == 2:
            i, j = index[:1], index[1:]
            found[index] = f[index] * g[()] + f[i] * g[j] + f[j] * g[i] + f[()] * g[index]
    return found


def chain(n: Mapping[Index, Tensor], first: Sequence[Tensor], second: Sequence[Tensor]) -> Jet:
    """From derivatives along s to derivatives along x = X(s), coordinate by coordinate.

        n_x = n_s / X',   n_xx = (n_ss - n_x X'') / X'^2,   n_xy = n_st / (X' Y')

    Args:
        n: jet along s.
        first: X' of each coordinate.
        second: X'' of each coordinate.
    """
    found: Jet = {(): n[()]}
    for index in n:
        if len(index) == 1:
            found[index] = n[index] / first[index[0]]
    for index in n:
        if len(index) == 2:
            i, j = index
            top = n[index] - found[(i,)] * second[i] if i == j else n[index]
            found[index] = top / (first[i] * first[j])
    return found


def rows_of(jet: Jet, rows: Tensor | slice) -> Jet:
    """That of some samples."""
    return {index: u[..., rows, :] for index, u in jet.items()}


def pull_back(
    slopes: Mapping[Index, Tensor], first: Sequence[Tensor], second: Sequence[Tensor]
) -> Jet:
    """Coefficients a_s with sum a_x D_x = sum a_s D_s, the transpose of `chain`."""
    found: Jet = {}

    def add(index: Index, value: Tensor) -> None:
        found[index] = found[index] + value if index in found else value

    for index, slope in slopes.items():
        if len(index) < 2:
            add(index, slope / first[index[0]] if index else slope)
            continue
        i, j = index
        add(index, slope / (first[i] * first[j]))
        if i == j:
            add((i,), -slope * second[i] / first[i] ** 3)
    return found
