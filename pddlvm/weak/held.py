"""Is each part of a problem held, and each field of it, by as much as it takes and no more?"""

import numpy as np

from pddlvm.basics.errors import ProblemError
from pddlvm.fem.mixed import MixedSpace
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.form import WeakForm
from pddlvm.weak.parts import LoosePart, forces_at_rest, loose_parts, parts_of

__all__ = ["check_held"]

_ZERO = 1e-10
_NOT_CONSERVED = (
    "its equations, summed up, leave more than loads (advection that is not in divergence form "
    "does, or flows through the boundary)"
)


def check_held(name: str, form: WeakForm, operators: Discretisation) -> None:
    """Raise a ProblemError if something of the problem `name` can move freely.

    Args:
        name: of the problem.
        form: its form.
        operators: its discretisation, float64 on the CPU.
    """
    _check_constraints(name, form, operators)
    loose = loose_parts(form, operators)
    if not loose:
        return
    if isinstance(form.space, MixedSpace):
        _refuse_fields(name, form.space, loose[0])
    if not form.dirichlet:
        raise ProblemError(
            f"problem {name!r} has no Dirichlet boundary, and none of its terms holds its "
            "solution, as a reaction or a Robin condition (0.5 * h * u**2 on "
            "space.boundary(name)) would: add one, or Dirichlet(boundary, value), or fix its "
            "mean, constraints=[MeanValue()]"
        )
    low, high = (f(form.space.dof_points[loose[0].dofs], axis=0) for f in (np.min, np.max))
    which = "a part" if len(loose) == 1 else f"{len(loose)} parts, the first"
    raise ProblemError(
        f"nothing holds {which} between {low.tolist()} and {high.tolist()} of the mesh of "
        f"problem {name!r}, or not enough to keep it from turning: connect it with "
        "the rest (parts that touch need common nodes), or give it a term and Dirichlet "
        "conditions"
    )


def _refuse_fields(name: str, space: MixedSpace, part: LoosePart) -> None:
    fields = [space.field_names[i] for i in part.fields]
    one, are_numbers = fields[0], space.field(fields[0])[1].n_components == 1
    why = (
        "it is known up to a constant at most, as a pressure where the velocity is prescribed all "
        f'around. Fix its mean, constraints=[MeanValue("{one}")], or'
        if are_numbers
        else "it can still shift or turn:"
    )
    low, high = (f(space.dof_points[part.dofs], axis=0).tolist() for f in (np.min, np.max))
    raise ProblemError(
        f"nothing holds field {' and '.join(map(repr, fields))} of problem {name!r} between {low} "
        f'and {high}: {why} prescribe it, Dirichlet(boundary, value, field="{one}"), or add a term '
        "that reads it"
    )


def _check_constraints(name: str, form: WeakForm, operators: Discretisation) -> None:
    """Does each constraint fix what the equations leave open, and nothing else?"""
    if form.constraints is None:
        return
    fixed = np.setdiff1d(np.arange(form.n_dofs), form.free_dofs)
    forces = forces_at_rest(form, operators)
    backwards = forces_at_rest(form, operators, transposed=True)
    rough = np.cos(np.arange(form.n_dofs))[:, None]
    labels = parts_of(form)
    for one, v in zip(form.constraints.given, form.constraints.constants.T, strict=True):
        start = f"{one} of problem {name!r} is one too many: "
        if v[fixed].any():
            raise ProblemError(
                f"{start}Dirichlet values hold that field already; leave one of them out"
            )
        n_parts = len(np.unique(labels[v > 0]))
        if n_parts > 1:
            raise ProblemError(
                f"{one} of problem {name!r} is one mean value for {n_parts} parts of the mesh that "
                "nothing connects: each is known up to a constant of its own; solve them one by one"
            )
        field = rough * v[:, None]
        for apply, what in (
            (forces, "a term holds it already; leave it out"),
            (backwards, _NOT_CONSERVED),
        ):
            if np.linalg.norm(apply(v[:, None])) > _ZERO * np.linalg.norm(apply(field)):
                raise ProblemError(f"{start}{what}")
