"""A parametric PDE, discretised: residual r(u, z) = 0 with a prior p(z).

    r(u, z) = sum_terms B^T (w * flux(B u, z, x)),   rows of the free degrees of freedom
    u = u_D(z) on the Dirichlet boundary

Everything before this object is NumPy, SciPy and scikit-fem in float64; everything after is torch.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from hashlib import sha256
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from pddlvm.errors import InputError, ProblemError
from pddlvm.fem import FunctionSpace, Points
from pddlvm.fields import Field, FieldAtPoints
from pddlvm.operators import SparseOperator
from pddlvm.parameters import Block, ParameterSpace, kind_of
from pddlvm.physics import Energy, Fields, Term, TermEvaluator
from pddlvm.solver import ReferenceSolver

__all__ = ["Dirichlet", "Problem"]


@dataclass(frozen=True)
class Dirichlet:
    """u = value on a named boundary (None: on all of it).

    Attributes:
        boundary: name of the boundary.
        value: a number, or value(x, **fields) at one point: a number, or (c,) for a vector u.
        component: the only component of a vector u that is prescribed; None: all of them.
    """

    boundary: str | None
    value: float | Callable[..., Any] = 0.0
    component: int | None = None


class Problem:
    """A parametric PDE on a finite element space. Immutable.

    Args:
        name: for messages, plots and saved runs.
        space: where u lives.
        terms: energies and fluxes; r is their sum.
        fields: name -> field (with parameters and prior) or number (known). Point functions
            receive their values as keyword arguments of these names.
        dirichlet: prescribed values. At least one boundary: without it the operator is singular.

    Raises:
        ProblemError: no Dirichlet boundary, or a function asks for an unknown field.
    """

    def __init__(
        self,
        name: str,
        space: FunctionSpace,
        terms: Sequence[Term],
        fields: Fields,
        dirichlet: Sequence[Dirichlet],
    ) -> None:
        if not dirichlet:
            raise ProblemError(
                f"problem {name!r} has no Dirichlet boundary, so its operator is singular: add "
                "Dirichlet(boundary, value) on at least one boundary"
            )
        if not terms:
            raise ProblemError(f"problem {name!r} has no terms; give at least one Energy or Flux")
        self.name = name
        self.space = space
        self.terms = tuple(terms)
        self.fields = dict(fields)
        self.dirichlet = tuple(dirichlet)
        self.random_fields = {k: f for k, f in self.fields.items() if isinstance(f, Field)}
        self.prior = ParameterSpace(
            {k: Block(f.size, f.prior) for k, f in self.random_fields.items()}
        )
        fixed = [space.dofs_on(d.boundary, d.component) for d in dirichlet]
        self.fixed_dofs = np.unique(np.concatenate(fixed))
        self.free_dofs = np.setdiff1d(np.arange(space.n_dofs), self.fixed_dofs)
        if not len(self.free_dofs):
            raise ProblemError(f"problem {name!r} has no free degree of freedom; refine the mesh")
        self._check_rigid_modes()
        self._discretisations: dict[tuple[torch.dtype, torch.device], Discretisation] = {}
        self.discretisation(torch.float64, torch.device("cpu"))

    def _check_rigid_modes(self) -> None:
        modes = self.space.rigid_modes
        if not modes:
            return
        at_supports = np.column_stack(
            [v[self.fixed_dofs] / np.abs(v).max() for v in modes.values()]
        )
        values, vectors = np.linalg.eigh(at_supports.T @ at_supports)
        loose = vectors[:, values <= 1e-12 * len(self.fixed_dofs)]
        if loose.size:
            names = [
                k for k, size in zip(modes, np.abs(loose).max(axis=1), strict=True) if size > 0.3
            ]
            raise ProblemError(
                f"problem {self.name!r} can still move as a rigid body ({', '.join(names)}): "
                "fix more degrees of freedom with Dirichlet conditions"
            )

    def __repr__(self) -> str:
        return (
            f"Problem({self.name!r}, {self.n_dofs} dofs ({self.n_free} free), "
            f"{self.n_parameters} parameters: {self.prior!r})"
        )

    @property
    def n_parameters(self) -> int:
        """d, the length of z."""
        return self.prior.size

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """One name per parameter."""
        return self.prior.names

    @property
    def n_dofs(self) -> int:
        """Degrees of freedom, Dirichlet ones included."""
        return self.space.n_dofs

    @property
    def n_free(self) -> int:
        """Degrees of freedom without the Dirichlet ones."""
        return len(self.free_dofs)

    @property
    def has_potential(self) -> bool:
        """Is r the gradient of an energy?"""
        return all(isinstance(term, Energy) for term in self.terms)

    @property
    def is_coercive(self) -> bool:
        """Is r = K_s(u, z) u - f with K_s symmetric positive? See `Flux.has_secant`."""
        return all(term.is_coercive for term in self.terms)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what a saved model depends on: name, mesh, degrees of freedom, parameters."""
        digest = sha256()
        mesh = self.space.mesh
        digest.update(repr((self.name, self.prior, self.n_dofs, mesh.t.shape)).encode())
        digest.update(np.ascontiguousarray(mesh.t, dtype=np.int64).tobytes())
        digest.update(np.ascontiguousarray(mesh.p, dtype=np.float32).tobytes())
        digest.update(self.fixed_dofs.astype(np.int64).tobytes())
        return digest.hexdigest()

    @cached_property
    def probe(self) -> float:
        """Size of the residual of one fixed state at the centre of the prior: marks the physics.

        Parameter fields with random shapes vanish there, so it does not depend on eigenvectors.
        """
        u = torch.arange(self.n_dofs, dtype=torch.float64).cos()[None]
        z = self.prior.unstandardise(torch.zeros(1, self.n_parameters, dtype=torch.float64))
        return float(self.residual(u, z).norm())

    @cached_property
    def solver(self) -> ReferenceSolver:
        """The reference solver: Newton with a sparse direct factorisation, float64."""
        return ReferenceSolver(self)

    def with_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> "Problem":
        """The same problem with its fields defined by saved tensors (see `Field.state`)."""
        fields: dict[str, Field | float] = {
            k: f.with_state(states.get(k, {})) if isinstance(f, Field) else f
            for k, f in self.fields.items()
        }
        return Problem(self.name, self.space, self.terms, fields, self.dirichlet)

    def discretisation(self, dtype: torch.dtype, device: torch.device) -> "Discretisation":
        """The operators in a dtype on a device; built once for each."""
        key = (dtype, device)
        if key not in self._discretisations:
            self._discretisations[key] = Discretisation(self, dtype).to(device)
        return self._discretisations[key]

    def solve(self, z: Tensor) -> Tensor:
        """Reference finite element solution, (..., d) -> (..., n_dofs), float64 on the CPU.

        Raises:
            InputError, SupportError: z is not a parameter vector of the prior.
            ConvergenceError: Newton's iteration failed; the message names the sample.
        """
        z = self.prior.check(z)
        u = self.solver.solve(z.detach().to("cpu", torch.float64).reshape(-1, self.n_parameters))
        return u.reshape(*z.shape[:-1], self.n_dofs)

    def residual(self, u: Tensor, z: Tensor) -> Tensor:
        """r(u, z) on the free degrees of freedom, (..., n_free); dtype and device follow u.

        Zero at the discrete solution where u also carries the Dirichlet values.
        """
        u = self.check_solution(u)
        z = self.prior.check(z).to(u)
        batch = _broadcast(u, z)
        u = u.expand(*batch, -1).reshape(-1, self.n_dofs)
        z = z.expand(*batch, -1).reshape(-1, self.n_parameters)
        r = self.discretisation(u.dtype, u.device).residual(u, z)
        return r.reshape(*batch, self.n_free)

    def energy(self, u: Tensor, z: Tensor) -> Tensor:
        """Potential energy Pi(u, z), (...,); only where `has_potential`."""
        if not self.has_potential:
            raise ProblemError(f"problem {self.name!r} has flux terms and hence no energy")
        u, z = self.check_solution(u), self.prior.check(z).to(u)
        batch = _broadcast(u, z)
        u = u.expand(*batch, -1).reshape(-1, self.n_dofs)
        z = z.expand(*batch, -1).reshape(-1, self.n_parameters)
        return self.discretisation(u.dtype, u.device).energy(u, z).reshape(batch)

    def parameter_field(self, z: Tensor, name: str | None = None) -> Tensor:
        """A parameter field at the cell centroids, (..., n_cells); by default the first one."""
        z = self.prior.check(z)
        return self.field_at_centroids(z, name or next(iter(self.random_fields)))

    def field_at_centroids(self, z: Tensor, name: str) -> Tensor:
        """`parameter_field` without checking the support of z."""
        if name not in self.random_fields:
            raise InputError(f"no parameter field {name!r}; there are {list(self.random_fields)}")
        field = self._centroid_fields[name]
        values: Tensor = field(z.double().cpu()[..., self.prior.slices[name]]).to(z)
        return values

    def check_solution(self, u: Tensor, name: str = "u") -> Tensor:
        """Return u, or raise an InputError that says what is wrong with it."""
        if not isinstance(u, Tensor) or not u.is_floating_point():
            raise InputError(f"{name} must be a floating-point torch tensor, got {kind_of(u)}")
        if u.ndim == 0 or u.shape[-1] != self.n_dofs:
            raise InputError(
                f"{name} must have {self.n_dofs} degrees of freedom on its last axis (Dirichlet "
                f"ones included), got shape {tuple(u.shape)}"
            )
        if not torch.isfinite(u).all():
            raise InputError(f"{name} has values that are not finite (NaN or infinity)")
        return u

    @cached_property
    def _centroid_fields(self) -> dict[str, FieldAtPoints]:
        return {k: f.at(self.space.centroids) for k, f in self.random_fields.items()}


def _broadcast(u: Tensor, z: Tensor) -> torch.Size:
    """The common batch shape."""
    try:
        return torch.broadcast_shapes(u.shape[:-1], z.shape[:-1])
    except RuntimeError as error:
        raise InputError(
            f"the batch shapes of u {tuple(u.shape[:-1])} and z {tuple(z.shape[:-1])} do not "
            "broadcast; make them equal"
        ) from error


class Discretisation(nn.Module):
    """The terms and boundary values of a problem as torch modules of one dtype.

    Below, u is (batch, n_dofs), z is (batch, d), and r is (batch, n_free).
    """

    free: Tensor
    terms: list[TermEvaluator]
    boundary: "list[BoundaryValues]"
    # Both are ModuleLists, declared by what they hold.

    def __init__(self, problem: Problem, dtype: torch.dtype) -> None:
        super().__init__()
        self.prior = problem.prior
        self.n_dofs = problem.n_dofs
        self.register_buffer("free", torch.from_numpy(problem.free_dofs))
        # Terms of one region share its operator, and in the residual its strains and its adjoint.
        operators = {
            id(term.region): SparseOperator(term.region.matrix, dtype) for term in problem.terms
        }
        terms = [
            TermEvaluator(
                term,
                operators[id(term.region)],
                torch.from_numpy(term.region.weights.ravel()).to(dtype),
                term.region.points,
                problem.fields,
            )
            for term in problem.terms
        ]
        boundary = [
            BoundaryValues(d, problem.space, problem.fields, dtype) for d in problem.dirichlet
        ]
        self.terms = cast(list[TermEvaluator], nn.ModuleList(terms))
        self.boundary = cast(list[BoundaryValues], nn.ModuleList(boundary))

    @property
    def _groups(self) -> list[list[TermEvaluator]]:
        """Terms by region."""
        groups: dict[int, list[TermEvaluator]] = {}
        for term in self.terms:
            groups.setdefault(id(term.operator), []).append(term)
        return list(groups.values())

    def lift(self, z: Tensor) -> Tensor:
        """Dirichlet values, zero at the free degrees of freedom, (batch, n_dofs)."""
        u = torch.zeros(len(z), self.n_dofs, dtype=z.dtype, device=z.device)
        blocks = self.prior.split(z)
        for boundary in self.boundary:
            # Later conditions win where two boundaries meet.
            u = u.index_copy(1, boundary.dofs, boundary(blocks, len(z)))
        return u

    def energy(self, u: Tensor, z: Tensor) -> Tensor:
        """Pi(u, z), (batch,)."""
        blocks = self.prior.split(z)
        return torch.stack([term.energy(u, blocks) for term in self.terms]).sum(0)

    def residual(self, u: Tensor, z: Tensor) -> Tensor:
        """r(u, z), (batch, n_free)."""
        blocks = self.prior.split(z)
        full = torch.zeros_like(u)
        for terms in self._groups:
            e = terms[0].strains(u)
            fluxes = reduce(torch.add, [term.fluxes_of(e, blocks) for term in terms])
            full = full + terms[0].operator.adjoint(fluxes.flatten(-2))
        return full[:, self.free]

    def tangents(self, u: Tensor, z: Tensor) -> list[Tensor]:
        """Pointwise tangents of each term, (batch, n_points, s, s) each."""
        blocks = self.prior.split(z)
        return [term.tangents(u, blocks) for term in self.terms]

    def apply_tangents(self, tangents: list[Tensor], v: Tensor) -> Tensor:
        """dr/du v for v of the free degrees of freedom, (batch, n_free) -> (batch, n_free)."""
        u = torch.zeros(len(v), self.n_dofs, dtype=v.dtype, device=v.device)
        u = u.index_copy(1, self.free, v)
        total = torch.zeros_like(u)
        for term, tangent in zip(self.terms, tangents, strict=True):
            de = torch.einsum("bpst,bpt->bps", tangent, term.strains(u))
            total = total + term.operator.adjoint(de.flatten(-2))
        return total[:, self.free]


class BoundaryValues(nn.Module):
    """Dirichlet values at the degrees of freedom of one boundary."""

    dofs: Tensor
    x: Tensor
    component: Tensor

    def __init__(
        self, condition: Dirichlet, space: FunctionSpace, fields: Fields, dtype: torch.dtype
    ) -> None:
        super().__init__()
        dofs = space.dofs_on(condition.boundary, condition.component)
        x = space.dof_points[dofs]
        self.value = condition.value
        self.n_components = space.n_components
        self.register_buffer("dofs", torch.from_numpy(dofs))
        self.register_buffer("x", torch.from_numpy(x).to(dtype))
        self.register_buffer("component", torch.from_numpy(space.dof_components[dofs]))
        self.numbers = {k: float(v) for k, v in fields.items() if not isinstance(v, Field)}
        names = _arguments(condition.value)
        unknown = [n for n in names if n not in fields]
        if unknown:
            raise ProblemError(
                f"a Dirichlet value reads fields {unknown} that the problem does not have; it has "
                f"{sorted(fields)}"
            )
        self.numbers = {n: self.numbers[n] for n in names if n in self.numbers}
        points = Points(x, space.cells_of_dofs(dofs))
        random = {n: fields[n] for n in names if isinstance(fields[n], Field)}
        self.fields = nn.ModuleDict(
            {n: f.at(points, dtype) for n, f in random.items() if isinstance(f, Field)}
        )

    def forward(self, z: Mapping[str, Tensor], batch: int) -> Tensor:
        """Values, (batch, n_boundary_dofs)."""
        if not callable(self.value):
            return self.x.new_full((batch, len(self.dofs)), float(self.value))
        function = self.value

        def at_dof(x: Tensor, component: Tensor, values: dict[str, Tensor]) -> Tensor:
            value = function(x, **values, **self.numbers)
            value = torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(-1)
            return value.expand(self.n_components).gather(0, component[None])[0]

        values = {k: field(z[k]).expand(batch, -1) for k, field in self.fields.items()}
        if not values:
            one: Tensor = vmap(lambda x, c: at_dof(x, c, {}))(self.x, self.component)
            return one.expand(batch, -1)
        result: Tensor = vmap(vmap(at_dof), in_dims=(None, None, 0))(self.x, self.component, values)
        return result


def _arguments(value: float | Callable[..., Any]) -> tuple[str, ...]:
    """Names of the fields that a boundary value reads: its arguments after x."""
    return tuple(inspect.signature(value).parameters)[1:] if callable(value) else ()
