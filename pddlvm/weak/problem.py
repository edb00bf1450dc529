"""A parametric PDE, discretised: residual r(u, z) = 0 with a prior p(z).

    r(u, z) = sum_terms B^T (w * flux(B u, z, x)),   rows of the free degrees of freedom
    u = u_D(z) on the Dirichlet boundary

Everything before this object is NumPy, SciPy and scikit-fem in float64; everything after is torch.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from pddlvm.basics.checks import broadcast_batch, check_kind
from pddlvm.basics.errors import ProblemError
from pddlvm.basics.grad_mode import out_of_inference
from pddlvm.fem import FunctionSpace, MixedSpace
from pddlvm.fem.mixed import field_of, names_of, on_all_dofs
from pddlvm.fem.where import Patch, Where
from pddlvm.linalg.automatic import Automatic
from pddlvm.linalg.factorisation import Factorisation, LinearSolver
from pddlvm.parameters.fields import FieldAtPoints, Fields
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.parameters.time import has_time
from pddlvm.weak.affine_parts import AffineParts, affine_parts
from pddlvm.weak.affine_system import AffineSystem, affine_system
from pddlvm.weak.boundary import Dirichlet
from pddlvm.weak.checks import (
    check_dirichlet,
    check_inner_product,
    check_physics,
    check_rigid_modes,
    check_terms,
)
from pddlvm.weak.coercivity import Coercivity, MinTheta, coercivity_of
from pddlvm.weak.constraints import MeanValue, constraints_of
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm
from pddlvm.weak.held import check_held
from pddlvm.weak.held_on import held_on
from pddlvm.weak.linear_operators import LinearOperators
from pddlvm.weak.newton import ReferenceSolver
from pddlvm.weak.probe import probe_of
from pddlvm.weak.sensitivities import ElementSensitivities
from pddlvm.weak.stable_pairs import warn_of_unstable_pairs
from pddlvm.weak.terms import Energy, Term

__all__ = ["Problem"]

_THIRD = " (the third argument of a point function is the point x, whatever its name)"
_AT_THE_START = "; what an initial value alone reads needs a pddlvm.Time among the fields"
_FEW, _CHUNKS = 8, 16
"""Samples that are solved at once: few, or a part of what fits, for others are solved beside."""
_TAKEN = {
    **dict.fromkeys(dir(nn.ModuleDict()), "a part of torch's modules, which hold the fields"),
    "x": "the point",
}


class Problem(ParametricProblem):
    """A parametric PDE on a finite element space. Immutable.

    Args:
        name: for messages, plots and saved runs.
        space: where u lives.
        terms: energies and fluxes; r is their sum.
        fields: name -> field (with parameters and prior) or number (known). Point functions
            receive their values as keyword arguments of these names.
        dirichlet: prescribed values. Without any a term must hold u, a reaction or a Robin
            condition, or it is one in time, with a `Time` among its fields.
        solver: of linear systems, `pddlvm.linalg.SuperLU()` for one; by default it depends on their
            size and on what is installed.
        constraints: mean values that are zero, of what the equations know up to a constant.
        inner_product: energies whose sum is |u|_X^2 / 2, the norm of u for a model; fields have
            their values at the centre of the prior. By default the operator itself where that is
            positive, else see `pddlvm.weak.inner_product`.

    Raises:
        ProblemError: a mesh, or a part of it, that nothing holds, a field that no function reads
            or that is unknown, or a function that cannot be evaluated.

    Warns:
        UserWarning: a velocity and a pressure of elements that are not inf-sup stable.
    """

    @out_of_inference
    def __init__(
        self,
        name: str,
        space: FunctionSpace,
        terms: Sequence[Term],
        fields: Fields,
        dirichlet: Sequence[Dirichlet] = (),
        solver: LinearSolver = Automatic(),  # noqa: B008 (frozen)
        constraints: Sequence[MeanValue] = (),
        inner_product: Sequence[Energy] = (),
    ) -> None:
        check_kind(str, name=name)
        if not hasattr(space, "dofs_on"):
            raise ProblemError(
                f"space must be a function space, got {type(space).__name__}; "
                "pddlvm.fem.Space(mesh) makes one of a mesh"
            )
        super().__init__(name, fields, _TAKEN | names_of(space))
        if not isinstance(solver, LinearSolver):
            raise ProblemError(
                f"solver must be one of pddlvm.linalg, Multigrid() for one, got {solver!r}; "
                "leave it out for what suits the size"
            )
        self.space, self.linear_solver = space, solver
        self.terms = check_terms(name, space, terms)
        self.dirichlet = check_dirichlet(name, space, dirichlet)
        self.inner_product = check_inner_product(name, space, inner_product)
        fixed = [d.dofs_of(space) for d in self.dirichlet]
        self.fixed_dofs = np.unique(np.concatenate([*fixed, np.zeros(0, dtype=np.int64)]))
        self.free_dofs = np.setdiff1d(np.arange(space.n_dofs), self.fixed_dofs)
        if not len(self.free_dofs):
            raise ProblemError(f"problem {name!r} has no free degree of freedom; refine the mesh")
        self.form = WeakForm(
            self.prior,
            space,
            self.terms,
            self.fields,
            self.dirichlet,
            self.free_dofs,
            solver,
            constraints_of(name, space, constraints),
        )
        check_rigid_modes(name, space, self.fixed_dofs)
        self._discretisations: dict[tuple[torch.dtype, torch.device], Discretisation] = {}
        check_physics(name, self.form)
        # In time more functions read fields, and u is held by where it starts.
        if not has_time(self.fields):
            third = "" if isinstance(space, MixedSpace) else _THIRD
            self._check_read(self.form.names_read, _AT_THE_START + third)
        if isinstance(space, MixedSpace) or not has_time(self.fields):
            check_held(name, self.form, self._exact)
        warn_of_unstable_pairs(name, self.form, self._exact)

    def __repr__(self) -> str:
        return (
            f"Problem({self.name!r}, {self.n_dofs} dofs ({self.n_free} free), "
            f"{self.n_parameters} parameters: {self.prior!r})"
        )

    @property
    def n_dofs(self) -> int:
        """Degrees of freedom, Dirichlet ones included."""
        return self.space.n_dofs

    @property
    def dim(self) -> int:  # noqa: D102
        dim: int = self.space.mesh.p.shape[0]
        return dim

    @property
    def n_free(self) -> int:
        """Degrees of freedom without the Dirichlet ones."""
        return len(self.free_dofs)

    @property
    def fields_of_u(self) -> dict[str, slice]:  # noqa: D102
        if not isinstance(self.space, MixedSpace):
            return super().fields_of_u
        return {name: self.space.field(name)[0] for name in self.space.field_names}

    @property
    def constraints(self) -> tuple[MeanValue, ...]:
        """Mean values that are zero."""
        return () if self.form.constraints is None else self.form.constraints.given

    @property
    def has_potential(self) -> bool:
        """Is r the gradient of an energy?"""
        return self.form.has_potential

    @property
    def is_coercive(self) -> bool:
        """Is r = K_s(u, z) u - f with K_s symmetric positive? See `Flux.has_secant`."""
        return all(term.is_coercive for term in self.terms)

    @cached_property
    def is_linear(self) -> bool:
        """Is K the same whatever u is?"""
        return self._exact.is_linear()

    @cached_property
    def linear(self) -> LinearOperators:
        """Of a linear problem: its operators from few entries at each point."""
        return LinearOperators(self._exact, self.solver.assembler)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of name, mesh, degrees of freedom, parameters, terms and arguments of fields."""
        digest = sha256()
        mesh = self.space.mesh
        digest.update(repr((self.name, self.prior, self.n_dofs, mesh.t.shape)).encode())
        digest.update(np.ascontiguousarray(mesh.t, dtype=np.int64).tobytes())
        digest.update(np.ascontiguousarray(mesh.p, dtype=np.float32).tobytes())
        digest.update(self.fixed_dofs.astype(np.int64).tobytes())
        terms = [(type(t).__name__, t.is_coercive, t.region.shape) for t in self.terms]
        digest.update(repr((terms, self._field_signatures)).encode())
        if self.constraints:
            digest.update(repr(self.constraints).encode())
        if self.inner_product:
            digest.update(repr([t.region.shape for t in self.inner_product]).encode())
        if isinstance(self.space, MixedSpace):
            digest.update(repr(self.space).encode())
        return digest.hexdigest()

    @cached_property
    def probe(self) -> Tensor:  # noqa: D102
        return probe_of(self.form, self._exact, self._centroid_fields)

    @cached_property
    def shape_sizes(self) -> dict[str, Tensor]:  # noqa: D102
        return {k: f.shapes.norm(dim=0) for k, f in self._centroid_fields.items()}

    @cached_property
    def affine(self) -> AffineSystem | None:
        """The problem as a sum of few fixed operators, where it is one: for fast direct solves."""
        return affine_system(self.form, self._exact)

    @cached_property
    def coercivity(self) -> Coercivity | MinTheta | None:
        """Bounds of K(z) against K0, the stiffness at the centre of the prior, where there are."""
        return coercivity_of(self.form, self._exact)

    def affine_parts(self) -> AffineParts | None:
        """The problem, if it is linear, as a sum of few parts, where it is one to round-off."""
        return affine_parts(self.form, self._exact)

    @cached_property
    def reference_stiffness(self) -> sp.csr_matrix:
        """K0, the symmetric part of K at the centre of the prior, on all degrees of freedom."""
        operators, z0 = self._exact, torch.zeros(1, self.n_parameters, dtype=torch.float64)
        z0 = self.prior.unstandardise(z0)
        tangents = [0.5 * (t + t.mT) for t in operators.tangents(operators.lift(z0), z0)]
        whole = self.solver.assemble_unconstrained([t[0] for t in tangents])
        return (0.5 * (whole + whole.T)).tocsr()

    @out_of_inference
    def energy_norm(self, u: Tensor) -> Tensor:
        """|u|_{K0} = (u . K0 u)^{1/2}, boundary values included, (..., n_dofs) -> (...,), float64.

        K0 is the stiffness at the reference parameter, the centre of the prior: the norm of
        `error_bound` and of the basis, if K0 is positive.
        """
        u = self.check_solution(u)
        flat = u.detach().reshape(-1, self.n_dofs).to("cpu", torch.float64)
        k0u = torch.from_numpy((self.reference_stiffness @ flat.numpy().T).T)
        return (flat * k0u).sum(-1).clamp(min=0).sqrt().reshape(u.shape[:-1]).to(u.device)

    def solve_with_factors(self, z: Tensor) -> tuple[Tensor, Sequence[Factorisation]]:
        """Solutions (n, n_dofs) at z (n, d), float64, and factors of K at each or close to it.

        Without assembly where the problem allows it; the factors of the whole batch are in memory.
        """
        return self.solver.solve_with_factors(z) if self.affine is None else self.affine.solve(z)

    def sensitivities(self) -> ElementSensitivities:  # noqa: D102
        return ElementSensitivities(self._exact, self.affine, self.solve_with_factors)

    @cached_property
    def solver(self) -> ReferenceSolver:
        """The reference solver: Newton's method, float64."""
        return ReferenceSolver(self.form, self._exact)

    def with_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> "Problem":  # noqa: D102
        fields = self._fields_with(states)
        return Problem(
            self.name,
            self.space,
            self.terms,
            fields,
            self.dirichlet,
            self.linear_solver,
            self.constraints,
            self.inner_product,
        )

    def discretisation(self, dtype: torch.dtype, device: torch.device) -> Discretisation:
        """The operators in a dtype on a device; built once for each."""
        key = (dtype, device)
        if key not in self._discretisations:
            self._discretisations[key] = Discretisation(self.form, dtype).to(device)
        return self._discretisations[key]

    @property
    def _exact(self) -> Discretisation:
        return self.discretisation(torch.float64, torch.device("cpu"))

    @out_of_inference
    def residual(self, u: Tensor, z: Tensor) -> Tensor:
        """r(u, z) on the free degrees of freedom, (..., n_free); dtype and device follow u.

        Zero at the discrete solution where u also carries the Dirichlet values. With constraints
        it is r + C lambda, which does not see u's mean: r without the imbalance of the loads.
        """
        u = self.check_solution(u)
        z = self.prior.check(z).to(u)
        batch = broadcast_batch(u=u, z=z)
        u = u.expand(*batch, -1).reshape(-1, self.n_dofs)
        z = z.expand(*batch, -1).reshape(-1, self.n_parameters)
        operators = self.discretisation(u.dtype, u.device)
        r = operators.balanced(operators.residual(u, z))
        return r.reshape(*batch, self.n_free)

    @out_of_inference
    def energy(self, u: Tensor, z: Tensor) -> Tensor:
        """Potential energy Pi(u, z), (...,); only where `has_potential`."""
        if not self.has_potential:
            raise ProblemError(f"problem {self.name!r} has flux terms and hence no energy")
        u = self.check_solution(u)
        z = self.prior.check(z).to(u)
        batch = broadcast_batch(u=u, z=z)
        u = u.expand(*batch, -1).reshape(-1, self.n_dofs)
        z = z.expand(*batch, -1).reshape(-1, self.n_parameters)
        return self.discretisation(u.dtype, u.device).energy(u, z).reshape(batch)

    def field_values(self, z: Tensor, name: str) -> Tensor:
        """A parameter field at the cell centroids, (..., n_cells), z not checked."""
        self._check_field(name)
        field = self._centroid_fields[name]
        values: Tensor = field(z.double().cpu()[..., self.prior.slices[name]]).to(z)
        return values

    def field_points(self, name: str) -> NDArray[np.float64]:
        """The cell centroids, (n_cells, dim)."""
        self._check_field(name)
        return self.space.centroids.x

    def inferred(self, z: Tensor) -> Tensor:
        """The first parameter field."""
        return self.field_values(z, next(iter(self.random_fields)))

    def gradients(  # noqa: D102
        self, points: "ArrayLike | Tensor", field: str = "u"
    ) -> sp.csr_matrix:
        dofs, space = field_of(self.space, field)
        matrix = space.evaluation(self.as_points(points), gradient=True)
        return on_all_dofs(matrix, dofs, self.n_dofs)

    def averages(  # noqa: D102
        self, patches: Sequence[Patch], field: str = "u", is_mean: bool = True
    ) -> sp.csr_matrix:
        dofs, space = field_of(self.space, field)
        return on_all_dofs(space.averages(patches, is_mean), dofs, self.n_dofs)

    def forces(self, u: Tensor, z: Tensor) -> Tensor:  # noqa: D102
        return self.discretisation(u.dtype, u.device).forces(u, z.to(u))

    def held_on(self, where: Where, field: str = "u") -> sp.csr_matrix:  # noqa: D102
        return held_on(self.space, self.fixed_dofs, where, field)

    def _evaluation(self, points: NDArray[np.float64], field: str) -> sp.csr_matrix:
        dofs, space = field_of(self.space, field)
        return on_all_dofs(space.evaluation(points), dofs, self.n_dofs)

    @property
    def _made_by(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        arguments = self.space, self.terms, self.fields, self.dirichlet, self.linear_solver
        return Problem, (self.name, *arguments, self.constraints, self.inner_product)

    @property
    def _pickled_parts(self) -> dict[str, Any]:
        terms = {f"its term number {i}": t.function for i, t in enumerate(self.terms)}
        norms = {f"its inner product, {i}": t.function for i, t in enumerate(self.inner_product)}
        values = {f"the Dirichlet value on {d.boundary!r}": d.value for d in self.dirichlet}
        places = {f"the boundary {d.boundary!r}": d.boundary for d in self.dirichlet}
        return terms | norms | places | values | self._named_fields

    @property
    def _solution_has(self) -> str:
        return f"have {self.n_dofs} degrees of freedom on its last axis (Dirichlet ones included)"

    @property
    def _at_once(self) -> int:
        # A batch shares what a few operations cost: many samples where they are small.
        chunk = self.solver.chunk
        return min(chunk, max(_FEW, chunk // _CHUNKS))

    def _solve(self, z: Tensor, first: int) -> Tensor:
        return self.solver.solve(z, first)

    @cached_property
    def _centroid_fields(self) -> dict[str, FieldAtPoints]:
        return {k: f.at(self.space.centroids) for k, f in self.random_fields.items()}
