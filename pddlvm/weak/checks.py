"""What a finite element problem is asked before it is built: mistakes are named at once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pddlvm.basics.checks import check_all
from pddlvm.basics.errors import ProblemError
from pddlvm.basics.explained import explained
from pddlvm.fem import FunctionSpace
from pddlvm.weak.arguments import describe, wanted_of
from pddlvm.weak.boundary import BoundaryValues, Dirichlet
from pddlvm.weak.form import WeakForm
from pddlvm.weak.terms import Energy, Term, TermEvaluator

__all__ = [
    "check_dirichlet",
    "check_inner_product",
    "check_physics",
    "check_rigid_modes",
    "check_terms",
]

_SMALL = 1e-8
"""A relative change, next to the rounding of float32."""


def check_terms(name: str, space: FunctionSpace, terms: Any) -> tuple[Term, ...]:
    """Return the terms of the problem `name`, or raise a ProblemError."""
    found = check_all(terms, Term, "terms", "[Energy(space.interior(), function)]")
    if not found:
        raise ProblemError(f"problem {name!r} has no terms; give at least one Energy or Flux")
    _check_regions(name, space, found)
    return found


def check_inner_product(name: str, space: FunctionSpace, energies: Any) -> tuple[Energy, ...]:
    """Return the energies of the norm of the problem `name`, or raise a ProblemError."""
    example = "[Energy(space.interior(), lambda u, du, x: 0.5 * du @ du)]"
    found = check_all(energies, Energy, "inner_product", example)
    _check_regions(name, space, found)
    return found


def _check_regions(name: str, space: FunctionSpace, terms: tuple[Term, ...]) -> None:
    for term in terms:
        if term.region.n_dofs != space.n_dofs:
            raise ProblemError(
                f"a term of problem {name!r} is on a region of another space, with "
                f"{term.region.n_dofs} degrees of freedom instead of {space.n_dofs}; take "
                "interior() and boundary() of the space of the problem"
            )


def check_dirichlet(name: str, space: FunctionSpace, dirichlet: Any) -> tuple[Dirichlet, ...]:
    """Return the conditions of the problem `name`, or raise a ProblemError."""
    found = check_all(dirichlet, Dirichlet, "dirichlet", '[Dirichlet("left", 0.0)]')
    dofs = [d.dofs_of(space) for d in found]
    for i, condition in enumerate(found[:-1]):
        if np.isin(dofs[i], np.concatenate(dofs[i + 1 :])).all():
            raise ProblemError(
                f"the Dirichlet condition on {condition.boundary!r} of problem {name!r} has no "
                "effect: later conditions prescribe the same degrees of freedom, and the last one "
                "holds; leave one of them out, or change their order"
            )
    return found


def check_rigid_modes(name: str, space: FunctionSpace, fixed_dofs: np.ndarray) -> None:
    """Raise a ProblemError if motions without strain are left."""
    modes = space.rigid_modes
    if not modes:
        return
    if not fixed_dofs.size:
        raise ProblemError(
            f"problem {name!r} has no Dirichlet boundary, so it can move as a rigid body "
            f"({', '.join(modes)}): add pddlvm.supports.clamped(name) for one"
        )
    # Displacements and rotations have other units: compare with what is fixed of them.
    components = space.dof_components
    same = np.isin(components, components[fixed_dofs])
    sizes = [np.abs(v[same]).max() or 1.0 for v in modes.values()]
    at_supports = np.column_stack(
        [v[fixed_dofs] / size for v, size in zip(modes.values(), sizes, strict=True)]
    )
    values, vectors = np.linalg.eigh(at_supports.T @ at_supports)
    loose = vectors[:, values <= 1e-12 * len(fixed_dofs)]
    if loose.size:
        names = [k for k, size in zip(modes, np.abs(loose).max(axis=1), strict=True) if size > 0.3]
        raise ProblemError(
            f"problem {name!r} can still move as a rigid body ({', '.join(names)}): "
            "fix more degrees of freedom with Dirichlet conditions"
        )


def check_physics(name: str, form: WeakForm) -> None:
    """Evaluate each function of the problem `name`, so that a mistake in it is named."""
    z = form.prior.unstandardise(torch.zeros(form.prior.size, dtype=torch.float64))
    blocks = {k: v[None] for k, v in form.prior.split(z).items()}
    for term in form.terms:
        _check_term(name, term, form, blocks)
    for condition in form.dirichlet:
        _check_values(name, condition, form, blocks)


def _check_term(name: str, term: Term, form: WeakForm, blocks: Mapping[str, Tensor]) -> None:
    s = term.region.shape[2]
    evaluator = TermEvaluator.at_one_point(term, form.fields)
    who = f"{_name(term.function)!r} of problem {name!r}"
    try:
        e = torch.linspace(0.1, 0.2, s, dtype=torch.float64)[None, None]
        flux = evaluator.fluxes_of(e, blocks)
    except Exception as error:
        wanted = "a number" if isinstance(term, Energy) else wanted_of(term.region)
        raise ProblemError(
            f"{who} cannot be evaluated at a point ({explained(error)}). It must return {wanted}, "
            f"made by torch functions of {describe(term.region)}, x and fields"
        ) from error
    if flux.shape[-1] != s:
        raise ProblemError(
            f"{who} returns {flux.shape[-1]} flux entries, and {s} are expected, of the shapes of "
            f"{describe(term.region)}"
        )
    if term.region.is_mixed:
        _check_precision(who, evaluator, e, blocks)


def _check_precision(
    who: str, evaluator: TermEvaluator, e: Tensor, blocks: Mapping[str, Tensor]
) -> None:
    """Does the flux follow changes of e that float32 cannot tell?

    A number of float64 times a matrix of float32, p * torch.eye(2), is of float32.
    """

    def flux(e: Tensor) -> Tensor:
        return evaluator.fluxes_of(e, blocks)

    at, slope = flux(e), torch.autograd.functional.jacobian(flux, e).flatten(3) @ e.flatten()
    missed = (flux(e * (1 + _SMALL)) - at) / _SMALL - slope
    if (missed.abs() > 1e-2 * (at.abs() + slope.abs())).any():
        raise ProblemError(
            f"{who} loses half of its digits: a constant tensor in it is of float32, as "
            "torch.eye(2) is; write torch.eye(2, dtype=x.dtype)"
        )


def _check_values(
    name: str, condition: Dirichlet, form: WeakForm, blocks: Mapping[str, Tensor]
) -> None:
    boundary = BoundaryValues(condition, form.space, form.fields, torch.float64)
    where = f"the Dirichlet value on {condition.boundary!r} of problem {name!r}"
    if isinstance(condition.value, str):
        raise ProblemError(f"{where} is the text {condition.value!r}; it must be a number")
    try:
        values = boundary(blocks, 1)
    except Exception as error:
        raise ProblemError(
            f"{where} cannot be evaluated ({explained(error)}). It must be a number, or a torch "
            f"function of one point x ({form.space.dim},) and of fields that returns one, or "
            f"{boundary.n_components} for a vector {condition.field}"
        ) from error
    if not torch.isfinite(values).all():
        raise ProblemError(f"{where} is not finite at the centre of the prior")


def _name(function: Any) -> str:
    return getattr(function, "__name__", "the function")
