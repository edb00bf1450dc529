"""The inner product X of problems whose own operator is not positive.

    |u|_X^2 = u^T X u,        |r|_X' = sup_v r . v / |v|_X

K0 is the tangent at rest, u = 0, at the centre of the prior. Without an X of the user's it is made
field by field, of the first of these that is positive:

    K0_ff           its own block of K0, symmetric part               a velocity, by its viscosity
    K0_ff + m L^2 int du . dv    it is a mass only, of mean m         a flux, with its divergence
    B^T (w D_+) B   D_+ the positive part of the pointwise tangents   a wave, by |grad u|^2
    B^T (w D_+) B + q M_ff                                            periodic, or fluxes only
    mu M_pp         no energy of its own                              a pressure

L is the longest side of the mesh over pi, du a divergence or a curl. q is the least quotient
|v|^2_K / |v|^2_M of waves v once along each axis. mu is the least eigenvalue but zero of S p = mu M
p, S = B X_uu^{-1} B^T: it balances the pressure, whose error is as well known as that of the
velocity then (Silvester and Wathen, SIAM J. Numer. Anal. 31, 1994).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg as sl
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from pddlvm.basics.errors import ProblemError
from pddlvm.fem import FunctionSpace
from pddlvm.fem.mixed import fields_of
from pddlvm.fem.regions import constants
from pddlvm.linalg.factorisation import Factorisation, NotPositiveError, SingularMatrixError
from pddlvm.weak.assembly import Assembler
from pddlvm.weak.discretisation import Discretisation
from pddlvm.weak.matrix_sum import MatrixSum
from pddlvm.weak.terms import Term

if TYPE_CHECKING:
    from pddlvm.weak.problem import Problem

__all__ = ["energy_on_mean_free", "inner_product", "is_elliptic", "schur_values"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_NEGATIVE, _ZERO = 1e-10, 1e-8
_HARDLY = 1e-6
"""Of a shift: it makes positive what has no negative eigenvalue, but one next to zero."""
_TINY = 1e-300
_FEW = 600
"""Unknowns of a pressure whose eigenvalues are found densely."""


def inner_product(problem: "Problem") -> sp.csr_matrix | None:
    """X on all degrees of freedom, or None where none was given and the rules above end.

    That is where the flux of a field does not grow with its gradient: a coefficient is zero there,
    or has the wrong sign.

    Raises:
        ProblemError: the one that was given is not positive.
    """
    return _given(problem) if problem.inner_product else _default(problem)


def energy_on_mean_free(problem: "Problem", k0: sp.csr_matrix) -> sp.csr_matrix | None:
    """K0 + q M where K0 is positive but for constants, which a constraint excludes; or None.

    Solutions and residuals without an imbalance have no part in M, but for its quotient.
    """
    if not (problem.constraints and problem.has_potential) or problem.inner_product:
        return None
    mass = problem.space.gram_matrices()[0]
    blocks = [
        _least_quotient(space, sp.csr_matrix(k0[dofs, dofs]), sp.csr_matrix(mass[dofs, dofs]))
        * mass[dofs, dofs]
        for dofs, space in fields_of(problem.space)
    ]
    shift = sp.csr_matrix(sp.block_diag(blocks, format="csr"))
    for share in (_HARDLY, 1.0):
        whole = sp.csr_matrix(k0 + share * shift)
        if _factors(problem, whole, problem.free_dofs) is None:
            return None
    return whole


def _given(problem: "Problem") -> sp.csr_matrix:
    form, n = replace(problem.form, terms=problem.inner_product), problem.n_dofs
    z = problem.prior.unstandardise(torch.zeros(1, problem.n_parameters, dtype=torch.float64))
    rest = torch.zeros(1, n, dtype=torch.float64)
    tangents = [t[0] for t in Discretisation(form, torch.float64).tangents(rest, z)]
    whole = sp.csr_matrix(Assembler(form.terms, np.arange(n), n)(tangents))
    whole = sp.csr_matrix(0.5 * (whole + whole.T))
    if _factors(problem, whole, problem.free_dofs) is None:
        raise ProblemError(
            f"the inner product of problem {problem.name!r} is not positive: its energy must grow "
            "with each field that is free, 0.5 * du.square().sum() + 0.5 * p**2 for one"
        )
    return whole


def _default(problem: "Problem") -> sp.csr_matrix | None:
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    z = problem.prior.unstandardise(torch.zeros(1, problem.n_parameters, dtype=torch.float64))
    rest = torch.zeros(1, problem.n_dofs, dtype=torch.float64)
    tangents = [t[0] for t in operators.tangents(rest, z)]
    # Not symmetric, where the signs of a saddle point make it skew.
    coupled = problem.solver.assemble_unconstrained(tangents)
    tangents = [0.5 * (t + t.mT) for t in tangents]
    whole = problem.solver.assemble_unconstrained(tangents)
    mass = problem.space.gram_matrices()[0]
    fields = list(_fields(problem))
    blocks: dict[int, sp.csr_matrix] = {}
    for number, field in enumerate(fields):
        found = _own(problem, field, tangents, whole, mass)
        if found is not None:
            blocks[number] = found
    silent = [field for number, field in enumerate(fields) if number not in blocks]
    if silent:
        held = [fields[number] for number in blocks]
        if not held or len(silent) > 1:
            return None
        scaled = _balanced(problem, silent[0], held, list(blocks.values()), coupled, mass)
        if scaled is None:
            return None
        blocks[fields.index(silent[0])] = scaled
    return sp.csr_matrix(sp.block_diag([blocks[i] for i in range(len(fields))], format="csr"))


@dataclass(frozen=True)
class _Field:
    """A field of a problem, by its number.

    Attributes:
        number: in the order of the space.
        dofs: its degrees of freedom.
        free: those of them that are free.
        space: where it lives.
    """

    number: int
    dofs: slice
    free: Index
    space: FunctionSpace


def _fields(problem: "Problem") -> Iterator[_Field]:
    for number, (dofs, space) in enumerate(fields_of(problem.space)):
        free = problem.free_dofs
        yield _Field(number, dofs, free[(free >= dofs.start) & (free < dofs.stop)], space)


def _own(
    problem: "Problem",
    field: _Field,
    tangents: list[Tensor],
    whole: sp.csc_matrix,
    mass: sp.csc_matrix,
) -> sp.csr_matrix | None:
    """What the energy of a field alone says of its norm; None where it has none."""
    dofs, free = field.dofs, field.free - field.dofs.start
    block = sp.csr_matrix(whole[dofs, dofs]) + _unseen(problem, field, tangents)
    if _factors(problem, block, free) is not None:
        return block
    parts = [
        _positive_part(t, term, field.number)
        for t, term in zip(tangents, problem.terms, strict=True)
    ]
    positive = [part for part in parts if part is not None]
    if len(positive) < len(parts) or not any(part.any() for part in positive):
        return None
    matrix = problem.solver.assemble_unconstrained(positive)
    block = sp.csr_matrix(matrix[dofs, dofs])
    if _factors(problem, block, free) is not None:
        return block
    own = sp.csr_matrix(mass[dofs, dofs])
    block = sp.csr_matrix(block + _least_quotient(field.space, block, own) * own)
    return block if _factors(problem, block, free) is not None else None


def _unseen(problem: "Problem", field: _Field, tangents: list[Tensor]) -> sp.csr_matrix:
    """m L^2 int du . dv of a flux whose own equation has a mass alone; else zero."""
    n = field.dofs.stop - field.dofs.start
    what = problem.terms[0].region.parts[field.number].derived[0][0]
    mass, is_seen = 0.0, what not in ("divergence", "curl")
    for tangent, term in zip(tangents, problem.terms, strict=True):
        of_u, *of_du = term.region.columns(field.number)
        is_seen |= any(bool(tangent[:, part, part].any()) for part in of_du)
        mass += float(tangent[:, of_u, of_u].diagonal(dim1=1, dim2=2).sum())
    if is_seen:
        return sp.csr_matrix((n, n))
    mean = mass / (field.space.n_components * float(field.space.cell_volumes.sum()))
    length = float(np.ptp(problem.space.mesh.p, axis=1).max()) / np.pi
    energy = problem.space.gram_matrices()[1][field.dofs, field.dofs]
    return sp.csr_matrix(mean * length**2 * energy)


def _positive_part(tangent: Tensor, term: Term, number: int) -> Tensor | None:
    """D_+ of one field, zero elsewhere, (n_points, s, s); None if it is not elliptic."""
    if isinstance(term.function, MatrixSum):
        # Pairs of unknowns are no points, and u_i - u_j is no gradient.
        return None
    if not _grows_with_gradients(tangent, term, number):
        return None
    inside, _ = _columns(term, number)
    weights = _weights(term)
    d = tangent[:, inside, inside] / weights
    values, vectors = torch.linalg.eigh(d)
    positive = (vectors * values.clamp(min=0)[:, None, :]) @ vectors.mT
    found = torch.zeros_like(tangent)
    found[:, inside, inside] = weights * torch.where(values.amin(1)[:, None, None] < 0, positive, d)
    return found


def is_elliptic(problem: "Problem", u: Tensor, z: Tensor) -> bool:
    """Does the energy of each field grow with its gradient everywhere, at u (n_dofs,), z (d,)?"""
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    tangents = operators.tangents(u[None], z[None])
    return all(
        _grows_with_gradients(0.5 * (t + t.mT)[0], term, field.number)
        for t, term in zip(tangents, problem.terms, strict=True)
        for field in _fields(problem)
    )


def _grows_with_gradients(tangent: Tensor, term: Term, number: int) -> bool:
    _, gradient = _columns(term, number)
    principal = torch.linalg.eigvalsh(tangent[:, gradient, gradient] / _weights(term))
    if not principal.numel():
        return True
    return bool(principal.min() >= -_NEGATIVE * principal.abs().max())


def _weights(term: Term) -> Tensor:
    """Those of the quadrature, (n_points, 1, 1); some rules have a negative one."""
    return torch.from_numpy(term.region.weights.ravel())[:, None, None]


def _columns(term: Term, number: int) -> tuple[slice, slice]:
    """Which entries of e are those of a field, and which its highest derivative."""
    pieces = term.region.columns(number)
    return slice(pieces[0].start, pieces[-1].stop), pieces[-1]


def _least_quotient(space: FunctionSpace, energy: sp.csr_matrix, mass: sp.csr_matrix) -> float:
    """The least |v|^2_energy / |v|^2_mass of waves once along an axis, each about its mean."""
    quotients = []
    for own in constants(space).T:
        for x in space.dof_points.T:
            # Smooth also where opposite sides are one.
            v = own * np.cos(2 * np.pi * (x - x.min()) / max(float(np.ptp(x)), _TINY))
            v = v - (own @ (mass @ v)) / (own @ (mass @ own)) * own
            size = float(v @ (mass @ v))
            if size > _ZERO * float(own @ (mass @ own)):
                quotients.append(float(v @ (energy @ v)) / size)
    return min(quotients, default=0.0)


def _balanced(
    problem: "Problem",
    silent: _Field,
    held: list[_Field],
    blocks: list[sp.csr_matrix],
    coupled: sp.csc_matrix,
    mass: sp.csc_matrix,
) -> sp.csr_matrix | None:
    """mu M of a field without an energy, or None where the others do not see it."""
    dofs = np.concatenate([field.free for field in held])
    x = sp.block_diag(
        [
            block[field.free - field.dofs.start][:, field.free - field.dofs.start]
            for field, block in zip(held, blocks, strict=True)
        ],
        format="csc",
    )
    factors = problem.linear_solver.factorise(x, symmetric=True, many=True)
    b = sp.csr_matrix(coupled[silent.free][:, dofs])
    m = sp.csc_matrix(mass[silent.free][:, silent.free])
    if not b.nnz:
        return None
    values = schur_values(b, factors, m, len(problem.constraints) + 1)
    seen = values[values > _ZERO * values.max()]
    if not len(seen):
        return None
    return sp.csr_matrix(float(seen.min()) * mass[silent.dofs, silent.dofs])


def schur_values(b: sp.csr_matrix, factors: Factorisation, m: sp.csc_matrix, n: int) -> Array:
    """Least eigenvalues of B X^{-1} B^T p = mu M p, n or more, ascending, and the largest.

    Of many unknowns they are right to a percent.
    """

    def times(p: Array) -> Array:
        return np.asarray(b @ factors.solve(np.ascontiguousarray(b.T @ p)))

    if b.shape[0] <= _FEW:
        schur = times(np.eye(b.shape[0]))
        return np.asarray(sl.eigvalsh(0.5 * (schur + schur.T), m.toarray()))
    mass = sp.linalg.splu(m)
    operator = LinearOperator(m.shape, matvec=times, dtype=np.float64)
    inverse = LinearOperator(m.shape, matvec=mass.solve, dtype=np.float64)
    start = np.cos(np.arange(m.shape[0], dtype=np.float64))
    least = eigsh(operator, n, M=m, Minv=inverse, which="SA", tol=1e-2, v0=start)[0]
    most = eigsh(operator, 1, M=m, Minv=inverse, which="LA", tol=1e-2, v0=start)[0]
    return np.concatenate([least, most])


def _factors(problem: "Problem", whole: sp.csr_matrix, dofs: Index) -> Factorisation | None:
    """Of some rows and columns of a symmetric matrix, or None where these are not positive."""
    matrix = sp.csc_matrix(whole[dofs][:, dofs])
    if (matrix.diagonal() <= 0).any():
        return None
    try:
        factors = problem.linear_solver.factorise(matrix, symmetric=True)
        found = factors.definiteness()
    except (SingularMatrixError, NotPositiveError):
        return None
    return None if found.n_negative or found.is_singular else factors
