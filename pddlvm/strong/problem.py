"""A parametric PDE in strong form: r(u, u_x, u_t, u_xx, ..., x, t; z) = 0 in a box, with p(z).

On hard faces u has its values by construction (see `pddlvm.strong.ansatz`); on the others
conditions are rows of the residual. Of several unknowns u, v, ... r has a row for each.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from hashlib import sha256
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from torch import Tensor

from pddlvm.basics.checks import array_of, check_all, check_kind
from pddlvm.basics.errors import InputError, ProblemError
from pddlvm.basics.grad_mode import out_of_inference
from pddlvm.basics.summary import summarise
from pddlvm.parameters.fields import Constant, Fields
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.strong.ansatz import Ansatz
from pddlvm.strong.checks import (
    check_arguments,
    check_conditions,
    check_functions,
    check_shapes,
    first_bad,
)
from pddlvm.strong.domain import Affine, Box, Face, Stretch
from pddlvm.strong.form import StrongForm
from pddlvm.strong.jets import HIGHEST, closure
from pddlvm.strong.newton import SpaceTimeNewton
from pddlvm.strong.pointwise import Condition, FieldValues, PointFunction
from pddlvm.strong.unknowns import Unknowns

__all__ = ["CollocationProblem"]

Reference = Callable[[Tensor], Tensor]
Values = Tensor | tuple[Tensor | float, ...]
"""Of the one unknown, or of each of several."""

_N_PROBES, _N_PROBED, _PROBE_SEED = 2, 64, 20225
_FEW, _ALL = 4, 2**63 - 1
_DEFAULT_NODES = {1: (64,), 2: (64, 20), 3: (14, 14, 8)}


class CollocationProblem(ParametricProblem):
    """A parametric PDE in strong form on a box, without a mesh. Immutable.

    Args:
        name: for messages, plots and saved runs.
        box: the domain; a time is a coordinate like the others.
        residual: function of u, its derivatives, coordinates and fields, by name. Of several
            unknowns it returns a tuple, in their order: the equation of each.
        fields: name -> field (with parameters and prior) or number (known).
        unknowns: their names; solutions have the values of one after the other.
        lift: function of coordinates and fields that has the values of the hard conditions; zero
            by default. Of several unknowns it returns a tuple.
        hard: faces on which u equals the lift by construction; of several unknowns the faces of
            all, or name -> those of each.
        conditions: initial and boundary conditions that hold up to a tolerance.
        odd: coordinates in which every solution is odd; the box and the lift must be.
        periodic: coordinates whose interval is a period of every solution; their ends have no
            conditions, and their nodes are odd numbers of equal points.
        stretch: coordinate -> map from its reference coordinate, default `Affine()`.
        along: name of a field that varies in space -> its coordinate.
        residual_scale: function like `residual`, positive: where it is large the residual may be.
            u and its derivatives in it are not differentiated. Of several unknowns one for all
            equations, or a tuple.
        grid: points along each coordinate on which solutions are compared and given to the
            inverse map.
        nodes: Chebyshev nodes along each coordinate, for errors and for fast evaluation on grids.
        reference: z (n, d) float64 -> solutions on the grid, (n, n_dofs), for validation only;
            by default Newton's method on the nodes.

    Raises:
        ProblemError: a missing condition, an unknown argument, a residual that cannot be evaluated.
    """

    @out_of_inference
    def __init__(
        self,
        name: str,
        box: Box,
        residual: Callable[..., Values],
        fields: Fields,
        *,
        unknowns: Sequence[str] = ("u",),
        lift: Callable[..., Values] | None = None,
        hard: Sequence[Face] | Mapping[str, Sequence[Face]] = (),
        conditions: Sequence[Condition] = (),
        odd: Sequence[str] = (),
        periodic: Sequence[str] = (),
        stretch: Mapping[str, Stretch] | None = None,
        along: Mapping[str, str] | None = None,
        residual_scale: Callable[..., Values] | None = None,
        grid: tuple[int, ...] | None = None,
        nodes: tuple[int, ...] | None = None,
        reference: Reference | None = None,
    ) -> None:
        check_kind(Mapping | None, stretch=stretch, along=along)
        check_kind(Callable | None, reference=reference)  # type: ignore[arg-type]
        odd = check_all(odd, str, "odd", "['x']")
        names = Unknowns(check_all(unknowns, str, "unknowns", '["u", "v"]'))
        hard_of_each, conditions = check_arguments(box, names, hard, conditions, stretch or {})
        super().__init__(name, fields, _names_in(box, names))
        self.box, self.unknowns = box, names
        k = len(box.names)

        def function(given: Callable[..., Values]) -> PointFunction:
            return PointFunction(given, box, fields, names)

        self.residual_function = function(residual)
        self.scale_function = function(_one if residual_scale is None else residual_scale)
        self.conditions = conditions
        self.condition_functions = tuple(function(c.function) for c in conditions)
        periodic = check_all(periodic, str, "periodic", "['x']")
        if nodes is None:
            usual = _DEFAULT_NODES.get(k, (6,) * k)
            nodes = tuple(n | (c in periodic) for c, n in zip(box.names, usual, strict=True))
        self.grid, self.nodes = (
            tuple(np.atleast_1d(array_of(sizes, name)).tolist())
            for name, sizes in (("grid", (64,) * k if grid is None else grid), ("nodes", nodes))
        )
        self.along, self._reference = dict(along or {}), reference
        functions = (self.residual_function, self.scale_function, *self.condition_functions)
        self.functions = functions
        read = {i for f in functions for _, i in f.derivatives.values()}
        slopes = {
            (box.names.index(f.coordinate),) for own in hard_of_each for f in own if f.with_slope
        }
        self.indices = closure(read | slopes)
        self.ansatz = Ansatz(
            box,
            FieldValues(self.fields, self.along, box),
            function(_zero if lift is None else lift),
            hard=hard_of_each,
            odd=odd,
            periodic=periodic,
            stretch={c: Affine() for c in box.names} | dict(stretch or {}),
            indices=self.indices,
        )
        self.form = StrongForm(
            name,
            self.ansatz,
            self.residual_function,
            self.conditions,
            self.condition_functions,
            self.grid,
            self.nodes,
        )
        varying = [n for n, f in self.random_fields.items() if not isinstance(f, Constant)]
        check_shapes(self.form, self.along, varying)
        check_conditions(self.form)
        check_functions(self.form, self.scale_function, self.prior)
        named = {n for f in (*self.functions, self.ansatz.lift_function) for n in f.others}
        self._check_read(named | {n for s in self.ansatz.stretch.values() for n in s.reads})

    # --- what users ask for --------------------------------------------------------------------

    def __repr__(self) -> str:
        return (
            f"CollocationProblem({self.name!r}, {self.box!r}, grid {self.grid}, "
            f"{self.n_parameters} parameters: {self.prior!r})"
        )

    @property
    def n_dofs(self) -> int:
        """Number of grid points, times the unknowns."""
        return self.unknowns.n * int(np.prod(self.grid))

    @property
    def fields_of_u(self) -> dict[str, slice]:  # noqa: D102
        return self.unknowns.slices(len(self.grid_points))

    @property
    def dim(self) -> int:  # noqa: D102
        return len(self.box.names)

    @property
    def coordinates(self) -> tuple[str, ...]:  # noqa: D102
        return self.box.names

    @property
    def axes(self) -> tuple[Tensor, ...]:
        """The grid along each coordinate, float64."""
        return self.form.axes

    @property
    def grid_points(self) -> Tensor:
        """The grid, (n_points, k), float64; the last coordinate runs fastest."""
        return self.form.grid_points

    @cached_property
    def fixed_dofs(self) -> NDArray[np.int64]:
        """Values at grid points on hard faces."""
        return self.ansatz.is_hard(self.grid_points).nonzero()[:, 0].numpy()

    @cached_property
    def free_dofs(self) -> NDArray[np.int64]:
        """Values at grid points that are not on hard faces."""
        return np.setdiff1d(np.arange(self.n_dofs), self.fixed_dofs)

    def with_states(  # noqa: D102
        self, states: Mapping[str, Mapping[str, Tensor]]
    ) -> "CollocationProblem":
        return CollocationProblem(
            self.name,
            self.box,
            self.residual_function.function,
            self._fields_with(states),
            **self._options,
        )

    @out_of_inference
    def residual(self, u: Callable[..., Values], z: Tensor, points: Tensor) -> Tensor:
        """r of any smooth function u(x, t, ...), by automatic differentiation.

        Args:
            u: elementwise torch function of the coordinates; of several unknowns it returns a
                tuple.
            z: (..., d).
            points: (n_points, k), in the box.

        Returns:
            (..., n_points), in the dtype of z; of several unknowns row after row of r.
        """
        z = self.prior.check(z)
        x = self.box.check(points).to(z).unbind(-1)
        flat = z.reshape(-1, self.n_parameters)

        def given(*at: Tensor) -> Tensor:
            return self.unknowns.stacked(u(*at))

        found = self.unknowns.partials(given, x, self.indices).items()
        jet = {i: v.expand(*v.shape[:-2], len(flat), len(points)) for i, v in found}
        r = self.residual_function(jet, self.ansatz.values(flat, x))
        return self.unknowns.join(r.expand_as(jet[()])).reshape(*z.shape[:-1], -1)

    def field_values(self, z: Tensor, name: str) -> Tensor:
        """A field along its coordinate, (..., n_grid), z not checked; a constant has n_grid = 1."""
        self._check_field(name)
        flat = z.reshape(-1, self.n_parameters)
        x = {} if name not in self.along else self._coordinates(name, z)
        return self.ansatz.fields(flat, x)[name].reshape(*z.shape[:-1], -1)

    def field_points(self, name: str) -> NDArray[np.float64]:
        """The grid along the coordinate of a field, (n_grid, 1)."""
        self._check_field(name)
        if name not in self.along:
            raise InputError(
                f"{name!r} is one number: there is nothing to draw. See inverse(u).mean"
            )
        x: NDArray[np.float64] = self.axes[self.box.names.index(self.along[name])].numpy()
        return x[:, None]

    def inferred(self, z: Tensor) -> Tensor:
        """The first field if it varies, else all of z."""
        first = next(iter(self.random_fields))
        return self.field_values(z, first) if first in self.along else z

    @cached_property
    def fingerprint(self) -> str:
        """Hash of name, domain, conditions, parameters, grid and arguments of fields."""
        conditions = [(c.face, c.tolerance) for c in self.conditions]
        sizes = (self.grid, self.nodes)
        held = (self.ansatz.hard, self.ansatz.odd, self.ansatz.periodic, conditions)
        fields = (self._field_signatures, self.along)
        names = (self.unknowns, self.indices)
        content = (self.name, self.box, self.prior, sizes, held, names, fields)
        return sha256(repr(content).encode()).hexdigest()

    @cached_property
    def probe(self) -> Tensor:
        """Of the prior, and of fields, lift, stretch and each function, to a row each.

        The states are the lift, where sources are not hidden by derivatives, and a random one.
        """
        generator = torch.Generator().manual_seed(_PROBE_SEED)
        z = self.prior.sample((_N_PROBES,), generator=generator)
        shape = (_N_PROBES, self.unknowns.n * _N_PROBED)
        k = len(self.box.names)
        s = (2 * torch.rand(k, _N_PROBED, generator=generator, dtype=torch.float64) - 1).unbind()
        rows = [z]
        for size in (0.0, 1.0):
            wave = {
                i: self.unknowns.stack(
                    size * torch.randn(shape, generator=generator, dtype=torch.float64)
                )
                for i in self.indices
            }
            jet, values = self.ansatz.assemble(wave, s, z)
            found = [*jet.values(), *values.values(), *(f(jet, values) for f in self.functions)]
            parts = [part for row in found for part in (row if row.ndim > 2 else [row])]
            rows += [part.expand(_N_PROBES, _N_PROBED) for part in parts]
        return torch.cat([summarise(row) for row in rows])

    @cached_property
    def shape_sizes(self) -> dict[str, Tensor]:  # noqa: D102
        return {k: shapes.norm(dim=0) for k, shapes in self.ansatz.fields.tables.items()}

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "unknowns": self.unknowns.names,
            "lift": self.ansatz.lift_function.function,
            "hard": dict(zip(self.unknowns.names, self.ansatz.hard, strict=True)),
            "conditions": self.conditions,
            "odd": self.ansatz.odd,
            "periodic": self.ansatz.periodic,
            "stretch": self.ansatz.stretch,
            "along": self.along,
            "residual_scale": self.scale_function.function,
            "grid": self.grid,
            "nodes": self.nodes,
            "reference": self._reference,
        }

    @property
    def _made_by(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        arguments = (self.name, self.box, self.residual_function.function, self.fields)
        return partial(CollocationProblem, **self._options), arguments

    @property
    def _pickled_parts(self) -> dict[str, Any]:
        options = {f"its argument {name!r}": part for name, part in self._options.items()}
        return {"its residual": self.residual_function.function} | options | self._named_fields

    @property
    def _solution_has(self) -> str:
        of_each = f" of each of {', '.join(self.unknowns.names)}" if self.unknowns.n > 1 else ""
        return f"have the {self.n_dofs} values on the grid {self.grid}{of_each} on its last axis"

    @property
    def _at_once(self) -> int:
        # One by one, with a few operators made once; what somebody gave is asked once.
        return _FEW if self._reference is None else _ALL

    def _solve(self, z: Tensor, first: int) -> Tensor:
        if self._reference is not None:
            return self._reference(z)
        return SpaceTimeNewton(self.form).solve(z, first)

    def _coordinates(self, name: str, like: Tensor) -> dict[str, Tensor]:
        c = self.along[name]
        return {c: self.axes[self.box.names.index(c)].to(like)}

    def _evaluation(self, points: NDArray[np.float64], field: str) -> sp.csr_matrix:
        """Cubic between the points of the grid."""
        number = self.unknowns.number(field)
        columns = self.box.check(torch.from_numpy(points)).unbind(-1)
        found = sp.csr_matrix(np.ones((len(points), 1)))
        for axis, x in zip(self.axes, columns, strict=True):
            degree = min(3, len(axis) - 1)
            cardinal = make_interp_spline(axis.numpy(), np.eye(len(axis)), k=degree)
            weights = sp.csr_matrix(cardinal(x.numpy()))
            # Row by row the product of the weights along each axis.
            rows = [sp.kron(found[i], weights[i], format="csr") for i in range(len(points))]
            found = sp.vstack(rows, format="csr")
        own = sp.csr_matrix(np.eye(1, self.unknowns.n, number))
        return sp.csr_matrix(sp.kron(own, found, format="csr"))

    def first_bad(self, r: Tensor, values: Mapping[str, Tensor], z: Tensor) -> str | None:
        """Where r (n_samples, n_points) is not finite, in words; None if it is everywhere."""
        return first_bad(self.form, r, values, z)


def _zero() -> Tensor:
    return torch.zeros(())


def _one() -> Tensor:
    return torch.ones(())


def _names_in(box: Box, unknowns: Unknowns) -> dict[str, str]:
    """What functions read beside fields: u, its derivatives, and the coordinates."""
    orders = range(1, HIGHEST + 1)
    derivatives = ["".join(d) for k in orders for d in product(box.names, repeat=k)]
    of_u = {u: "the solution" if unknowns.n == 1 else "an unknown" for u in unknowns.names}
    taken = {
        **of_u,
        **{f"{u}_{d}": f"a derivative of {what}" for u, what in of_u.items() for d in derivatives},
    }
    both = sorted(set(taken) & set(box.names))
    if both:
        raise ProblemError(
            f"{both} name coordinates and unknowns, or derivatives of these; take other names"
        )
    return {**taken, **dict.fromkeys(box.names, "a coordinate of the box")}
