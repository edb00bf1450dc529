"""Where a solution lives, as it is drawn: points, and lines or triangles between them.

    a mesh of lines         lines               a mesh of the plane, a shell    its triangles
    a solid                 its surface         a box                           its grid

Of a problem in time a state is drawn at one time; t is then no coordinate of the picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, singledispatch
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.fem import SurfaceMesh
from pddlvm.fem.cells import straight
from pddlvm.fem.mixed import field_names, field_of
from pddlvm.models import LatentVariableModel
from pddlvm.strong.problem import CollocationProblem
from pddlvm.transient.problem import TransientProblem
from pddlvm.weak.problem import Problem

__all__ = ["Domain", "domain_of"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Kind = Literal["line", "plane", "solid"]
Forward = Callable[[LatentVariableModel, Tensor, int, int], Any]

_MOST_AXES = 3


@dataclass(frozen=True)
class Domain:
    """A picture of where u lives.

    Attributes:
        kind: a line, the plane, or surfaces in space.
        points: (n_points, 3), zeros where there are fewer coordinates.
        cells: numbers of points, (n_cells, 2) of lines, else (n_cells, 3).
        owners: which cell of the mesh each of these is of, (n_cells,).
        axes: names of the coordinates.
        times: at which there are states; none where there is no time.
        fields: of u, name -> number of components.
        is_shell: is it drawn with its displacement?
        solver: what reference solutions are found with.
        forward: model, z (d,), corrections, number of the time -> the prediction of that state.
        state: whole solutions (..., *solution_shape), number of the time -> (..., n_dofs).
        at_points: a state (n_dofs,), name of a field -> its values (n_points, n_components).
        parameter: z (d,), name, number of the time -> a value for each point, or each mesh cell.
        rows: places (n, dim), number of the time, field -> matrix that reads u there.
    """

    kind: Kind
    points: Array
    cells: Index
    owners: Index
    axes: tuple[str, ...]
    times: tuple[float, ...]
    fields: dict[str, int]
    is_shell: bool
    solver: str
    forward: Forward
    state: Callable[[Tensor, int], Tensor]
    at_points: Callable[[Array, str], Array]
    parameter: Callable[[Tensor, str, int], Array]
    rows: Callable[[Array, int, str], sp.csr_matrix]


@singledispatch
def domain_of(problem: Any) -> Domain:
    """The picture of a problem.

    Raises:
        InputError: it has too many coordinates to be drawn.
    """
    raise NotImplementedError(type(problem))


@domain_of.register
def _on_elements(problem: Problem) -> Domain:
    return _mesh(
        problem,
        times=(),
        forward=lambda model, z, corrections, k: model.forward(z, corrections=corrections),
        state=lambda u, k: u,
        parameter=lambda z, name, k: _numbers(problem.field_values(z, name)),
        rows=lambda x, k, field: problem.evaluation(x, field),
    )


@domain_of.register
def _in_time(problem: TransientProblem) -> Domain:
    times = problem.times

    def forward(model: Any, z: Tensor, corrections: int, k: int) -> Any:
        return model.forward(z, corrections=corrections, times=[times[k]])

    return _mesh(
        problem.steady,
        times=tuple(times.tolist()),
        forward=forward,
        state=lambda u, k: u[..., min(k, u.shape[-2] - 1), :],
        parameter=lambda z, name, k: _numbers(problem.field_values(z, name)),
        rows=lambda x, k, field: problem.seen_at(problem.evaluation(x, field), [times[k]]),
    )


@domain_of.register
def _in_a_box(problem: CollocationProblem) -> Domain:
    names = problem.box.names
    grid = [axis.double().numpy() for axis in problem.axes]
    has_time = names[-1] == "t" and len(names) > 1
    space = grid[:-1] if has_time else grid
    if len(space) > _MOST_AXES:
        raise InputError(
            f"problem {problem.name!r} has {len(space)} coordinates, and at most 3 are drawn"
        )
    times = tuple(grid[-1].tolist()) if has_time else ()
    points, cells = _tensor_grid(space)
    shape = tuple(map(len, grid))

    def at_time(values: Array, k: int) -> Array:
        whole = values.reshape(*values.shape[:-1], *shape)
        chosen = whole[..., k] if has_time else whole
        return chosen.reshape(*values.shape[:-1], -1)

    def state(u: Tensor, k: int) -> Tensor:
        parts = [torch.from_numpy(at_time(u[..., s].numpy(), k)) for s in fields.values()]
        return torch.cat(parts, dim=-1)

    def at_points(u: Array, name: str) -> Array:
        number, n = list(fields).index(name), len(points)
        return u[number * n : (number + 1) * n, None]

    def parameter(z: Tensor, name: str, k: int) -> Array:
        values = problem.ansatz.values(z[None], problem.grid_points.to(z).unbind(-1))[name]
        return at_time(_numbers(values.expand(1, len(problem.grid_points))[0]), k)

    def rows(x: Array, k: int, field: str) -> sp.csr_matrix:
        return problem.evaluation(
            np.column_stack([x, np.full(len(x), times[k])]) if times else x, field
        )

    fields = problem.fields_of_u
    kinds: dict[int, Kind] = {1: "line", 2: "plane", 3: "solid"}
    return Domain(
        kind=kinds[len(space)],
        points=_in_space(points),
        cells=cells,
        owners=np.arange(len(cells)),
        axes=names[: len(space)],
        times=times,
        fields=dict.fromkeys(fields, 1),
        is_shell=False,
        solver="the reference solver",
        forward=lambda model, z, corrections, k: _AtTime(
            model.forward(z, corrections=corrections), partial(_flip, state, k)
        ),
        state=state,
        at_points=at_points,
        parameter=parameter,
        rows=rows,
    )


def _flip(state: Callable[[Tensor, int], Tensor], k: int, u: Tensor) -> Tensor:
    return state(u, k)


@dataclass(frozen=True)
class _AtTime:
    """A prediction on a whole grid, seen at one time."""

    whole: Any
    of: Callable[[Tensor], Tensor]

    @property
    def mean(self) -> Tensor:
        return self.of(self.whole.mean)

    @property
    def std(self) -> Tensor:
        return self.of(self.whole.std)

    @property
    def residual_norm(self) -> Tensor:
        found: Tensor = self.whole.residual_norm
        return found

    def sample(self, shape: int | tuple[int, ...] = (), *, seed: int | None = None) -> Tensor:
        return self.of(self.whole.sample(shape, seed=seed))


def _mesh(problem: Problem, **parts: Any) -> Domain:
    """The mesh of a problem on elements."""
    space, mesh = problem.space, problem.space.mesh
    is_shell = isinstance(mesh, SurfaceMesh)
    if is_shell:
        kind, p, t, owners = "solid", mesh.p, mesh.t, np.arange(mesh.t.shape[1])
    elif mesh.dim() == 3:
        facets = mesh.boundary_facets()
        kind, p, t, owners = "solid", mesh.p, mesh.facets[:, facets], mesh.f2t[0, facets]
    else:
        p, t, owners = straight(mesh)
        kind = "line" if mesh.dim() == 1 else "plane"
    cells, pieces = _triangles(np.asarray(t.T))
    components = {}
    for name in field_names(space):
        dofs, own = field_of(space, name)
        components[name] = (
            3 if is_shell else own.at_nodes(np.zeros(dofs.stop - dofs.start)).shape[1]
        )

    def at_points(u: Array, name: str) -> Array:
        dofs, own = field_of(space, name)
        return np.asarray(own.at_nodes(u[dofs])[:, : components[name]])

    return Domain(
        kind=kind,  # type: ignore[arg-type]
        points=_in_space(np.asarray(p.T)),
        cells=cells,
        owners=np.asarray(owners)[pieces],
        axes=("x", "y", "z")[: problem.dim],
        fields=components,
        is_shell=is_shell,
        solver="finite elements",
        at_points=at_points,
        **parts,
    )


def _triangles(cells: Index) -> tuple[Index, Index]:
    """Lines and triangles as they are, quadrilaterals in two, and whose they are."""
    if cells.shape[1] < 4:
        return cells, np.arange(len(cells))
    found = np.concatenate([cells[:, [0, 1, 2]], cells[:, [0, 2, 3]]])
    return found, np.tile(np.arange(len(cells)), 2)


def _tensor_grid(axes: list[Array]) -> tuple[Array, Index]:
    """Points of a grid, (n, k), and its lines or triangles; of a box those of its six sides."""
    shape = tuple(map(len, axes))
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    numbers = np.arange(len(points)).reshape(shape)
    if len(axes) == 1:
        return points, np.stack([numbers[:-1], numbers[1:]], axis=1)
    if len(axes) == 2:
        return points, _quadrilaterals(numbers)
    sides = [np.take(numbers, end, axis) for axis in range(3) for end in (0, -1)]
    return points, np.concatenate([_quadrilaterals(side) for side in sides])


def _quadrilaterals(n: Index) -> Index:
    corners = [part.ravel() for part in (n[:-1, :-1], n[1:, :-1], n[1:, 1:], n[:-1, 1:])]
    return _triangles(np.stack(corners, axis=1))[0]


def _in_space(x: Array) -> Array:
    return np.pad(x, ((0, 0), (0, 3 - x.shape[1])))


def _numbers(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()
