"""Parameter fields kappa(x; z) = link(shift + sum_i c_i(z) psi_i(x)) on any mesh, c = z as a rule.

A field owns its block of z and that block's prior. `shapes(points)` are the functions psi_i at
given points; what they are computed from is the field's `state`, which travels with a saved model,
so that z keeps its meaning on another machine.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from pddlvm.basics.checks import check_count, check_kind, check_real
from pddlvm.basics.errors import InputError
from pddlvm.basics.owned import own_fields
from pddlvm.fem import Points, Space
from pddlvm.links import identity
from pddlvm.parameters.distributions import prior_of
from pddlvm.parameters.priors import Normal, Prior

__all__ = ["Chebyshev", "Constant", "Field", "FieldAtPoints", "Fields", "Piecewise"]

Link = Callable[[Tensor], Tensor]

_STANDARD_NORMAL = Normal()


class FieldAtPoints(nn.Module):
    """A field at fixed points: z (..., size) -> values (..., n_points).

    Args:
        shapes: psi_i there, (n_points, n_shapes).
        shift, link: see `Field`.
        coefficients: of psi_i, (..., size) -> (..., n_shapes).
    """

    shapes: Tensor

    def __init__(
        self, shapes: Tensor, shift: float, link: Link, coefficients: Link = identity
    ) -> None:
        super().__init__()
        # In memory of torch's own, as in `TermEvaluator`.
        self.register_buffer("shapes", shapes.clone())
        self.shift = shift
        self.link = link
        self.coefficients = coefficients

    def forward(self, z: Tensor) -> Tensor:
        """Values of the field, (..., n_points)."""
        return self.link(self.latent(z))

    def latent(self, z: Tensor) -> Tensor:
        """What the link is applied to, (..., n_points)."""
        return self.shift + self.coefficients(z) @ self.shapes.T

    def latent_slopes(self, z: Tensor) -> Tensor:
        """Its derivatives by z (batch, size), (batch, n_points, size) or a batch of one for all."""
        if self.coefficients is identity:
            return self.shapes[None]
        with torch.enable_grad():
            found: Tensor = vmap(jacrev(self.coefficients))(z.detach())
        return self.shapes @ found.detach()


@dataclass(frozen=True)
class Field(ABC):
    """Base of all fields.

    Attributes:
        prior: distribution of each of its parameters, or of all together; one of
            `torch.distributions` becomes a `Distribution`.
        link: elementwise function from the latent field to the coefficient.
        shift: constant added to the latent field.
    """

    prior: Prior = _STANDARD_NORMAL
    link: Link = identity
    shift: float = 0.0

    def __post_init__(self) -> None:
        own_fields(self)
        object.__setattr__(self, "prior", prior_of(self.prior))

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of parameters."""

    @property
    def names(self) -> tuple[str, ...]:
        """What its parameters are called behind its own name; () where by their numbers."""
        return ()

    @abstractmethod
    def shapes(self, points: Points) -> Tensor:
        """psi_i at the points, (n_points, n_shapes), float64."""

    @property
    def coefficients(self) -> Link:
        """What the psi are multiplied by, z (..., size) -> (..., n_shapes); z itself as a rule."""
        return identity

    @property
    def n_shapes(self) -> int:
        """Number of psi."""
        return self.size

    @property
    def state(self) -> dict[str, Tensor]:
        """The tensors that define psi."""
        return {}

    def with_state(self, state: Mapping[str, Tensor]) -> Self:
        """The same field with psi defined by the tensors of `state`."""
        changes: dict[str, Any] = dict(state)
        return replace(self, **changes) if state else self

    @property
    def signature(self) -> str:
        """Class and arguments, but for functions and real tensors: these are known by values."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {
            name: float(value) if isinstance(value, Real) else value
            for name, value in given.items()
            if isinstance(value, Real | str)
        }
        tensors = {
            name: (tuple(value.shape), [] if value.is_floating_point() else value.tolist())
            for name, value in self.state.items()
        }
        return repr((type(self).__name__, plain, tensors))

    def at(self, points: Points, dtype: torch.dtype = torch.float64) -> FieldAtPoints:
        """The field at fixed points, ready to be evaluated for any batch of z."""
        shapes = self.shapes(points).to(dtype)
        return FieldAtPoints(shapes, self.shift, self.link, self.coefficients)


Fields = Mapping[str, Field | float]


@dataclass(frozen=True)
class Constant(Field):
    """One parameter, the same everywhere: link(shift + z)."""

    @property
    def size(self) -> int:  # noqa: D102
        return 1

    def shapes(self, points: Points) -> Tensor:  # noqa: D102
        return torch.ones(len(points.x), 1, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Chebyshev(Field):
    """Chebyshev polynomials T_i along one axis, scaled to [-1, 1] on [low, high].

    Attributes:
        n_terms: number of polynomials, from T_0.
        low, high: range of the coordinate.
        axis: which coordinate.
    """

    n_terms: int
    low: float
    high: float
    axis: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(1, **{"n_terms of Chebyshev": self.n_terms})
        check_count(0, **{"axis of Chebyshev": self.axis})
        check_real(**{"low of Chebyshev": self.low})
        check_real(self.low, **{"high of Chebyshev": self.high})

    @property
    def size(self) -> int:  # noqa: D102
        return self.n_terms

    def shapes(self, points: Points) -> Tensor:  # noqa: D102
        if self.axis >= points.x.shape[1]:
            raise InputError(f"x has {points.x.shape[1]} coordinates, and no axis {self.axis}")
        s = 2 * (points.x[:, self.axis] - self.low) / (self.high - self.low) - 1
        return torch.from_numpy(np.polynomial.chebyshev.chebvander(s, self.n_terms - 1))


@dataclass(frozen=True, kw_only=True)
class Piecewise(Field):
    """One parameter per part of the mesh: psi_i = 1 on part i, 0 elsewhere.

    Attributes:
        labels: part of each cell, (n_cells,), 0 ... n_parts - 1. `on_subdomains` and `on_blocks`
            make it.
        n_parts: number of parts.
    """

    labels: Tensor
    n_parts: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(1, n_parts=self.n_parts)
        check_kind(Tensor, labels=self.labels)
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise InputError(f"labels must be (n_cells,) of torch.int64, got {self.labels!r}")
        if not ((self.labels >= 0) & (self.labels < self.n_parts)).all():
            raise InputError(f"labels must lie between 0 and {self.n_parts - 1}")

    @classmethod
    def on_subdomains(
        cls, space: Space, names: Sequence[str | int], *, prior: Prior, link: Link = identity
    ) -> "Piecewise":
        """One parameter per named subdomain; together they must cover the mesh, each cell once."""
        check_kind(Space, space=space)
        check_kind(Sequence, names=names)
        labels = torch.full((space.mesh.nelements,), -1)
        for i, name in enumerate(names):
            cells = torch.from_numpy(space.cells(name))
            shared = cells[labels[cells] >= 0]
            if len(shared):
                raise InputError(
                    f"{len(shared)} cells are in the subdomain {name!r} and in another one, the "
                    f"first in {names[int(labels[shared[0]])]!r} too; name parts without overlap"
                )
            labels[cells] = i
        if (labels < 0).any():
            raise InputError(
                f"subdomains {names} leave {(labels < 0).sum()} cells of the mesh without a "
                "parameter; name all of them"
            )
        return cls(prior=prior, link=link, labels=labels, n_parts=len(names))

    @classmethod
    def on_blocks(
        cls, space: Space, counts: tuple[int, ...], *, prior: Prior, link: Link = identity
    ) -> "Piecewise":
        """One parameter per block of a regular grid in the bounding box, first axis fastest."""
        check_kind(Space, space=space)
        check_kind(Sequence, counts=counts)
        if len(counts) != space.dim:
            raise InputError(f"counts must be {space.dim} numbers of blocks, got {counts!r}")
        for count in counts:
            check_count(1, counts=count)
        x = space.centroids.x
        low, high = space.mesh.p.min(axis=1), space.mesh.p.max(axis=1)
        labels, stride = np.zeros(len(x), dtype=np.int64), 1
        for axis, count in enumerate(counts):
            s = (x[:, axis] - low[axis]) / (high[axis] - low[axis])
            labels += stride * np.clip((s * count).astype(np.int64), 0, count - 1)
            stride *= count
        return cls(prior=prior, link=link, labels=torch.from_numpy(labels), n_parts=stride)

    @property
    def size(self) -> int:  # noqa: D102
        return self.n_parts

    @property
    def state(self) -> dict[str, Tensor]:  # noqa: D102
        return {"labels": self.labels}

    def shapes(self, points: Points) -> Tensor:  # noqa: D102
        parts = self.labels[torch.from_numpy(points.cells)]
        return nn.functional.one_hot(parts, self.n_parts).to(torch.float64)
