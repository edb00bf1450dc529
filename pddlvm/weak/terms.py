"""Pointwise physics: the only part of a PDE that is written per problem.

At one quadrature point, with e = (u, grad u), position x and the values of the parameter fields:

    Energy:  Pi(u, z) = int psi(u, grad u, x; fields)          r = dPi/du
    Flux:    r . v    = int f0 . v + f1 : grad v,              (f0, f1) = flux(u, grad u, x; fields)

Both are plain torch functions without batch, mesh or device; `torch.func` supplies derivatives and
batches. For a scalar problem u is a number and grad u a vector (dim,); for a vector problem u is
(c,) and grad u is (c, dim), grad u[i, j] = du_i/dx_j. Regions of shells give strains instead,
elements of H(div) the divergence, those of H(curl) the curl; plates have second derivatives, `ddu`
by name, too. Of several fields (`fem.MixedSpace`) a function names those that it reads: u, du, p.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, jacrev, vjp, vmap

from pddlvm.basics.checks import check_flag
from pddlvm.basics.errors import ProblemError
from pddlvm.fem import Points, Region
from pddlvm.linalg.operators import DenseOperator, LinearOperator
from pddlvm.parameters.fields import Field, FieldAtPoints, Fields
from pddlvm.weak.arguments import (
    call,
    kind_of,
    parameters_of,
    stack_fluxes,
    unknown_in_words,
)

__all__ = ["Energy", "Flux", "Term", "TermEvaluator"]

PointFunction = Callable[..., Any]

_FEW = 2048
"""Points of all samples whose physics costs no more than a level of vmap does."""
_MANY = 2**15
"""Points of all samples from which on samples are better taken a few at a time."""
_MOST = 2**17
"""Points whose physics is taken at once: what it leaves in memory on the way has many numbers."""
_IN_CACHE = 8192
"""Points whose derivatives are taken at once: more leave the caches, five times slower."""


@dataclass(frozen=True)
class Term(ABC):
    """Physics on one region. Final classes: `Energy` and `Flux`."""

    region: Region
    function: PointFunction

    def __post_init__(self) -> None:
        if not isinstance(self.region, Region) or not callable(self.function):
            kind = type(self).__name__
            raise ProblemError(
                f"{kind} takes a region and a function, {kind}(space.interior(), function), got "
                f"{type(self.region).__name__} and {type(self.function).__name__}"
            )

    @property
    @abstractmethod
    def is_coercive(self) -> bool:
        """Is the flux D e + load with D symmetric and not negative?"""

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the parameter fields that the function reads: its arguments after (u, du, x)."""
        return parameters_of(self.function, self.region)

    @abstractmethod
    def flux(self, e: Tensor, x: Tensor, values: Mapping[str, Tensor | float]) -> Tensor:
        """dpsi/de or (f0, f1) at one point, (s,)."""


@dataclass(frozen=True)
class Energy(Term):
    """Potential energy with density psi(u, du, x, **fields) -> number."""

    @property
    def is_coercive(self) -> bool:  # noqa: D102
        return True

    def density(self, e: Tensor, x: Tensor, values: Mapping[str, Tensor | float]) -> Tensor:
        """psi at one point."""
        psi = call(self.function, self.region, e, x, values)
        if isinstance(psi, tuple | list | Mapping) or (isinstance(psi, Tensor) and psi.ndim):
            raise ProblemError(
                f"it returns {kind_of(psi)}, and an Energy is one number, the density; (f0, f1) "
                "of a weak form make a Flux(region, function)"
            )
        result: Tensor = psi
        return result

    def flux(self, e: Tensor, x: Tensor, values: Mapping[str, Tensor | float]) -> Tensor:
        """dpsi/de at one point, (s,)."""
        result: Tensor = grad(self.density)(e, x, values)
        return result


@dataclass(frozen=True)
class Flux(Term):
    """A weak form without a potential: function(u, du, x, **fields) -> (f0, f1).

    Of several fields {"u": (f0, f1), "p": (f0, f1)}; a field that is left out has no rows.

    Attributes:
        has_secant: is (f0, f1) = D (u, grad u) + load with D(u, x; fields) symmetric and not
            negative (Picard's form)? Not checked. It admits the energy covariance.
    """

    has_secant: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag(has_secant=self.has_secant)

    @property
    def is_coercive(self) -> bool:  # noqa: D102
        return self.has_secant

    def flux(self, e: Tensor, x: Tensor, values: Mapping[str, Tensor | float]) -> Tensor:
        """(f0, f1) at one point, (s,)."""
        found = call(self.function, self.region, e, x, values)
        return stack_fluxes(found, self.region, e)


class TermEvaluator(nn.Module):
    """A term at fixed points, through an evaluation operator, batched over u and z.

    The operator is the sparse B of the region, or its product with a reduced basis; the points are
    all quadrature points, or a cubature subset with its own weights.

    Args:
        term: the physics.
        operator: u -> e at the points, flattened, (..., n_points * s).
        weights: quadrature weights, (n_points,).
        points: where fields are evaluated, n_points of them.
        fields: name -> field or number, at least those that the term reads.
        tests: the operator of the test functions, by default that of u.
    """

    weights: Tensor
    x: Tensor
    operator: LinearOperator
    own_tests: LinearOperator | None

    def __init__(
        self,
        term: Term,
        operator: LinearOperator,
        weights: Tensor,
        points: Points,
        fields: Fields,
        tests: LinearOperator | None = None,
    ) -> None:
        super().__init__()
        dtype = weights.dtype
        self.term = term
        self.points = points
        self.operator = operator
        self.own_tests = tests
        self.s = term.region.shape[2]
        # In memory of torch's own: where an array of NumPy lies decides the last digit of sums.
        self.register_buffer("weights", weights.clone())
        self.register_buffer("x", torch.tensor(points.x, dtype=dtype))
        self.used = used = {name: _lookup(name, fields, term.region) for name in term.field_names}
        self.numbers = {k: float(v) for k, v in used.items() if not isinstance(v, Field)}
        self.fields = nn.ModuleDict(
            {k: v.at(points, dtype) for k, v in used.items() if isinstance(v, Field)}
        )

    @classmethod
    def at_points(
        cls, term: Term, points: Points, fields: Fields, n_columns: int = 0
    ) -> "TermEvaluator":
        """The term at some points of weight 1, where the operator is zero: for strains only."""
        n = len(points.x)
        zero = torch.zeros(n * term.region.shape[2], n_columns, dtype=torch.float64)
        return cls(term, DenseOperator(zero), torch.ones(n, dtype=torch.float64), points, fields)

    @classmethod
    def at_one_point(cls, term: Term, fields: Fields) -> "TermEvaluator":
        """The term at the first point of its region."""
        return cls.at_points(term, term.region.points.take(np.zeros(1, dtype=np.int64)), fields)

    @property
    def tests(self) -> LinearOperator:
        """Test functions -> e, whose adjoint makes residuals of fluxes."""
        return self.operator if self.own_tests is None else self.own_tests

    def strains(self, u: Tensor) -> Tensor:
        """e at the points, (..., n_points, s)."""
        return self.operator(u).unflatten(-1, (-1, self.s))

    def energy(self, u: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """int psi, (batch,). Only for a term that has a density."""
        assert isinstance(self.term, Energy)
        e = self.strains(u)
        return (self.weights * self._map(self.term.density, e, self._values(e, z))).sum(-1)

    def residual(self, u: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """B^T (w * flux(B u)), (batch, n_tests)."""
        return self.tests.adjoint(self.fluxes(u, z).flatten(-2))

    def tangents(self, u: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """w * d flux/de at the points, (batch, n_points, s, s)."""
        return self.tangents_of(self.strains(u), z)

    def tangents_of(self, e: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """The same from strains."""
        derivative = jacrev(self.term.flux)
        part = max(1, _IN_CACHE // max(1, len(e)))
        part_or_all = part if part < e.shape[-2] else None
        values = self._values(e, z)
        return self.weights[:, None, None] * self._map(derivative, e, values, part_or_all)

    def fluxes(self, u: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """w * flux at the points, (batch, n_points, s)."""
        return self.fluxes_of(self.strains(u), z)

    def fluxes_of(self, e: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """The same from strains, which terms of one region share."""
        return self.fluxes_with(e, self._values(e, z))

    def field_slopes(self, e: Tensor, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """w * d flux / d of each latent field that is read, (batch, n_points, s) each."""
        with torch.enable_grad():
            latents = {name: x.detach().requires_grad_() for name, x in self.latents(z).items()}
            fluxes = self.fluxes_at(e.detach(), latents)
            if not fluxes.requires_grad:
                # A function may read a field, and not depend on it.
                return {name: torch.zeros_like(fluxes) for name in latents}
            # A point reads few fields, and has many strains: J = d (J^T w) / dw.
            w = torch.zeros_like(fluxes, requires_grad=True)
            given = list(latents.values())
            pulled = torch.autograd.grad(
                fluxes, given, w, create_graph=True, materialize_grads=True
            )
            found = [
                torch.autograd.grad(part.sum(), w, retain_graph=True)[0]
                if part.requires_grad
                else torch.zeros_like(fluxes)
                for part in pulled
            ]
        return dict(zip(latents, (part.detach() for part in found), strict=True))

    def values(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the fields at the points, (batch, n_points) each."""
        return {name: field(z[name]) for name, field in self.fields.items()}

    def linked(self, z: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Values of the fields at the points, and their derivatives by the latent ones."""
        with torch.enable_grad():
            latents = {name: x.detach().requires_grad_() for name, x in self.latents(z).items()}
            values = self._linked(latents)
            # Each reads its own latent field.
            slopes = [torch.autograd.grad(values[k].sum(), x)[0] for k, x in latents.items()]
        detached = {name: value.detach() for name, value in values.items()}
        return detached, dict(zip(latents, slopes, strict=True))

    def fluxes_with(self, e: Tensor, values: dict[str, Tensor]) -> Tensor:
        """w * flux where fields have these values, (batch, n_points, s)."""
        wide = {name: value.expand(e.shape[:-1]) for name, value in values.items()}
        return self.weights[:, None] * self._map(self.term.flux, e, wide)

    # --- by the latent fields, (batch, n_points) each: what their links are applied to -----------

    def latents(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of z."""
        return {name: self._field(name).latent(z[name]) for name in self.fields}

    def fluxes_at(self, e: Tensor, latents: Mapping[str, Tensor]) -> Tensor:
        """w * flux, (batch, n_points, s)."""
        return self.fluxes_with(e, self._linked(latents))

    def tangent_rows(self, rows: Tensor, latents: Mapping[str, Tensor]) -> Tensor:
        """`tangent_rows_with` of latent fields."""
        return self.tangent_rows_with(rows, self._linked(latents))

    def tangent_rows_with(self, rows: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Rows of d flux/de at e = 0, one at each point, (batch, n_points, s).

        Args:
            rows: 1 at the row of a point and 0 elsewhere, (batch, n_points, s).
            values: of the fields there, (batch, n_points) each.
        """

        def at_point(row: Tensor, x: Tensor, values: dict[str, Tensor | float]) -> Tensor:
            pull = vjp(lambda e: self.term.flux(e, x, values), torch.zeros_like(row))[1]
            found: Tensor = pull(row)[0]
            return found

        wide = {name: value.expand(rows.shape[:-1]) for name, value in values.items()}
        return self._map(at_point, rows, wide)

    def by_latents(
        self, function: Callable[[dict[str, Tensor]], Tensor], z: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One number at each point, (batch, n_points), and derivatives by the fields there."""
        with torch.enable_grad():
            latents = {name: x.detach().requires_grad_() for name, x in self.latents(z).items()}
            value, given = function(latents), list(latents.values())
            if not value.requires_grad:
                # A function may read a field, and not depend on it.
                return value, {name: torch.zeros_like(x) for name, x in latents.items()}
            slopes = torch.autograd.grad(value.sum(), given, materialize_grads=True)
        return value.detach(), dict(zip(latents, slopes, strict=True))

    def shapes(self, name: str) -> Tensor:
        """psi_j of a field at the points, (n_points, n_shapes)."""
        return self._field(name).shapes

    def latent_slopes(self, name: str, z: Mapping[str, Tensor]) -> Tensor:
        """Derivatives of a latent field at the points, see `FieldAtPoints`."""
        return self._field(name).latent_slopes(z[name])

    def _field(self, name: str) -> FieldAtPoints:
        field = self.fields[name]
        assert isinstance(field, FieldAtPoints)
        return field

    def _linked(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._field(name).link(latent) for name, latent in latents.items()}

    def _values(self, e: Tensor, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The fields at the points, (batch, n_points), for strains e."""
        return {name: value.expand(e.shape[:-1]) for name, value in self.values(z).items()}

    def _map(
        self,
        function: PointFunction,
        e: Tensor,
        values: dict[str, Tensor],
        n_at_once: int | None = None,
    ) -> Tensor:
        """The point function over all points and the batch, (batch, n_points, ...)."""
        (n_samples, n_points), names = e.shape[:2], list(values)
        few = max(1, _MANY // max(1, n_points))
        if n_at_once is None and few < n_samples:
            parts = zip(e.split(few), *(v.split(few) for v in values.values()), strict=True)
            return torch.cat(
                [self._map(function, x, dict(zip(names, v, strict=True))) for x, *v in parts]
            )

        if n_at_once is None and n_points > _MOST:
            n_at_once = _MOST

        def at_point(e: Tensor, x: Tensor, *fields: Tensor) -> Any:
            return function(e, x, {**dict(zip(names, fields, strict=True)), **self.numbers})

        each = vmap(at_point, chunk_size=n_at_once)
        result: Tensor
        if n_samples == 1 or 0 < n_samples * n_points <= _FEW:
            # By one level of vmap in place of two.
            x = self.x.expand(n_samples, -1, -1).flatten(0, 1)
            result = each(e.flatten(0, 1), x, *(v.flatten() for v in values.values()))
            return result.unflatten(0, (n_samples, n_points))
        result = vmap(each, in_dims=(0, None, *[0] * len(names)))(e, self.x, *values.values())
        return result


def _lookup(name: str, fields: Fields, region: Region) -> Field | float:
    if name not in fields:
        raise ProblemError(
            f"the physics reads a field {name!r} that the problem does not have; it has "
            f"{sorted(fields)}. {unknown_in_words(name, region)}"
        )
    return fields[name]
