"""The mass matrix: of a density, M_ij = int rho(x) phi_i . phi_j, or as another code made it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.func import vmap

from pddlvm.basics.checks import argument_names
from pddlvm.basics.errors import ProblemError
from pddlvm.basics.explained import explained
from pddlvm.fem import MixedSpace, Region, Space
from pddlvm.fem.mixed import field_names, field_of

__all__ = ["GivenDensity", "mass_matrix"]

Density = float | Callable[..., Any]
"""A number, or a torch function of one point x that returns one."""

GivenDensity = Density | Mapping[str, Density] | sp.sparray | sp.spmatrix
"""One; of several fields, by their names; or the whole matrix."""

_DEGREE = 2
"""Of polynomials next to which a density is taken, beyond those of the product of two elements."""


def mass_matrix(name: str, space: Any, density: GivenDensity) -> sp.csr_matrix:
    """M on all degrees of freedom, of the density of the problem `name`.

    Args:
        name: for messages.
        space: of Lagrange elements.
        density: of several fields, by their names; zero for those that are left out. Or M itself.

    Raises:
        ProblemError: no such field, a density that is not positive or cannot be evaluated, or a
            space that has no mass.
    """
    if isinstance(density, sp.sparray | sp.spmatrix):
        return _given(name, space.n_dofs, density)
    fields = field_names(space)
    if not isinstance(space, Space | MixedSpace):
        raise ProblemError(
            f"the space of problem {name!r} is a {type(space).__name__}, and steps in time need a "
            "fem.Space or a fem.MixedSpace"
        )
    if isinstance(space, MixedSpace) and not isinstance(density, Mapping):
        raise ProblemError(
            f"problem {name!r} has the fields {list(fields)}: say which of them have a derivative "
            f'in time, density={{"{fields[0]}": 1.0}}; the others follow at once, as a pressure'
        )
    given = density if isinstance(density, Mapping) else {fields[0]: density}
    unknown = sorted(set(given) - set(fields), key=str)
    if unknown or not given:
        raise ProblemError(
            f"the density of problem {name!r} is given for {unknown or 'no field'}, and the "
            f"fields are {list(fields)}"
        )
    blocks = []
    for field in fields:
        dofs, own = field_of(space, field)
        n = dofs.stop - dofs.start
        blocks.append(
            _block(own, given[field], f"the density of {field!r} of problem {name!r}")
            if field in given
            else sp.csr_matrix((n, n))
        )
    return sp.csr_matrix(sp.block_diag(blocks, format="csr"))


def _given(name: str, n: int, matrix: Any) -> sp.csr_matrix:
    found = sp.csr_matrix(matrix).astype(np.float64)
    if found.shape != (n, n) or not np.isfinite(found.data).all():
        raise ProblemError(
            f"the mass matrix of problem {name!r} must be finite and {(n, n)}, a row for each "
            f"degree of freedom, got {found.shape}"
        )
    return found


def _block(space: Any, density: Density, who: str) -> sp.csr_matrix:
    more = _DEGREE if callable(density) else 0
    region = space.with_quadrature(2 * space.degree + more).interior()
    rho = _values(density, region, who)
    if not bool(torch.isfinite(rho).all()) or rho.min() <= 0:
        raise ProblemError(f"{who} must be positive and finite, got {float(rho.min())!r}")
    weights = np.repeat(region.weights.ravel() * rho.numpy(), region.shape[2]).reshape(
        -1, region.shape[2]
    )
    weights[:, region.columns()[0].stop :] = 0.0
    b = region.matrix
    return sp.csr_matrix(b.T @ sp.diags(weights.ravel()) @ b)


def _values(density: Density, region: Region, who: str) -> Tensor:
    """At the quadrature points, (n_points,)."""
    x = torch.from_numpy(region.points.x)
    if not callable(density):
        try:
            return x.new_full((len(x),), float(density))
        except (TypeError, ValueError) as error:
            raise ProblemError(
                f"{who} must be a number, or a function of the point x, got {density!r}"
            ) from error
    names = argument_names(density, "lambda x: ...")
    if len(names) != 1:
        raise ProblemError(
            f"{who} reads {', '.join(names)}, and may read the point x alone: the mass is the same "
            "for all parameters. Divide the equation by what varies with them"
        )
    function = density

    def at_point(x: Tensor) -> Tensor:
        return torch.as_tensor(function(x), dtype=x.dtype).reshape(())

    try:
        found: Tensor = vmap(at_point)(x)
    except Exception as error:
        raise ProblemError(
            f"{who} cannot be evaluated ({explained(error)}); it must be a torch function of one "
            "point x that returns one number"
        ) from error
    return found
