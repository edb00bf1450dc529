"""Problems whose matrices another code has assembled.

A(z) u = f(z),     A(z) = sum_q theta_q(z) A_q,     f(z) = sum_k phi_k(z) f_k
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from pddlvm import fem
from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import ProblemError
from pddlvm.basics.explained import explained
from pddlvm.fem import FunctionSpace
from pddlvm.linalg.automatic import Automatic
from pddlvm.linalg.factorisation import LinearSolver
from pddlvm.parameters.fields import Constant
from pddlvm.parameters.priors import Prior
from pddlvm.weak.boundary import Dirichlet
from pddlvm.weak.matrix_sum import (
    Coefficients,
    Linear,
    Skew,
    Squares,
    region_of_matrices,
    region_of_skew,
    region_of_vectors,
)
from pddlvm.weak.problem import Problem
from pddlvm.weak.terms import Energy, Flux, Term

__all__ = ["MatrixProblem"]

Array = NDArray[np.float64]

_SYMMETRIC = 1e-10
"""Of the largest entry."""


def MatrixProblem(
    name: str,
    matrices: Sequence[Any],
    loads: Sequence[Any],
    parameters: Mapping[str, Prior],
    theta: Coefficients,
    phi: Coefficients | None = None,
    *,
    space: FunctionSpace | None = None,
    dirichlet: Sequence[Dirichlet] = (),
    solver: LinearSolver = Automatic(),  # noqa: B008 (frozen)
    inner_product: Any = None,
) -> Problem:
    """A(z) u = f(z) as a `Problem`: the same models, inference, and bounds of errors.

    Bounds hold where all A_q are positive semidefinite, and theta(z) is positive: then
    min theta_q(z) / theta_q(z0) K0 <= A(z). Files are read as numbers, nothing in them is executed.

    Args:
        name: for messages, plots and saved runs.
        matrices: A_q, (n, n), of SciPy or NumPy, or paths of files, .npz as of
            `scipy.sparse.save_npz`, or Matrix Market (.mtx, .mtx.gz).
        loads: f_k, (n,): arrays, or paths of .npy or Matrix Market files.
        parameters: name of each parameter -> its prior, in the order of z.
        theta: torch function of z (..., d) that returns (..., n_matrices).
        phi: the same of the loads, (..., n_loads); by default they are all added.
        space: with n degrees of freedom in the order of the matrices; sensors and figures are
            those of its mesh. By default a line with a node for each unknown.
        dirichlet: prescribed values, as of any problem; rows and columns are then those of all
            degrees of freedom. Without a space, `Dirichlet(fem.Nodes([0, 7]), 0.0)` names unknowns.
        solver: of linear systems.
        inner_product: X, (n, n), symmetric and positive, given as a matrix is: the norm of
            solutions. By default the symmetric part of A at the centre of the prior; where that is
            not positive, of waves and saddle points, a model asks for one.

    Raises:
        ProblemError: matrices or loads that cannot be read, of other sizes, not finite, symmetric
            but for rows that were replaced, or functions that do not give a coefficient for each;
            an inner product that is not symmetric or not positive.
    """
    check_kind(str, name=name)
    check_kind(Mapping, parameters=parameters)
    check_kind(Sequence, matrices=matrices, loads=loads)
    who = f"problem {name!r}"
    if not len(matrices) or not len(loads):
        raise ProblemError(
            f"{who} needs at least one matrix and one load; got {len(matrices)} and {len(loads)}"
        )
    found = tuple(_matrix(a, f"matrix {q} of {who}") for q, a in enumerate(matrices))
    n = found[0].shape[0]
    for q, a in enumerate(found):
        _check_size(a, n, f"matrix {q} of {who}")
        _check_rows(a, f"matrix {q} of {who}")
    vectors = tuple(_vector(f, f"load {k} of {who}", n) for k, f in enumerate(loads))
    for parameter, prior in parameters.items():
        check_kind(Prior, **{f"the prior of {parameter}": prior})
    names = tuple(parameters)
    _check_coefficients(theta, f"theta of {who}", len(names), len(found))
    if phi is not None:
        _check_coefficients(phi, f"phi of {who}", len(names), len(vectors))
    if space is None:
        space = fem.Space(fem.interval(n - 1, 0.0, float(n - 1)))
    if space.n_dofs != n:
        raise ProblemError(
            f"the space of {who} has {space.n_dofs} degrees of freedom, its matrices "
            f"have {n} rows; give the space that they were assembled in, or none"
        )
    even, odd = (tuple(sp.csr_matrix(0.5 * (a + sign * a.T)) for a in found) for sign in (1, -1))
    terms: list[Term] = [
        Energy(region_of_matrices(even), Squares(theta, names, even)),
        Energy(region_of_vectors(vectors), Linear(phi, names if phi else ())),
    ]
    if not all(map(_is_symmetric, found)):
        terms.append(Flux(region_of_skew(odd), Skew(theta, names)))
    fields = {parameter: Constant(prior) for parameter, prior in parameters.items()}
    norm = () if inner_product is None else _norm(inner_product, n, who)
    return Problem(name, space, terms, fields, dirichlet, solver, inner_product=norm)


def _norm(given: Any, n: int, who: str) -> tuple[Energy]:
    """The energy of a symmetric matrix."""
    who = f"the inner product of {who}"
    x = _matrix(given, who)
    _check_size(x, n, who)
    if not _is_symmetric(x):
        raise ProblemError(f"{who} is not symmetric; a norm is, |u|_X^2 = u . X u")
    x = sp.csr_matrix(0.5 * (x + x.T))
    return (Energy(region_of_matrices((x,)), Squares(None, (), (x,))),)


def _check_size(a: sp.csr_matrix, n: int, who: str) -> None:
    if a.shape != (n, n):
        raise ProblemError(
            f"{who} has shape {a.shape}, matrix 0 {(n, n)}; all must be those of the same unknowns"
        )


def _is_symmetric(a: sp.csr_matrix) -> bool:
    return bool(abs(a - a.T).max() <= _SYMMETRIC * abs(a).max())


def _check_rows(a: sp.csr_matrix, who: str) -> None:
    """Refuse a matrix that is symmetric but for rows which were replaced by those of a diagonal."""
    if _is_symmetric(a):
        return
    others = (a - sp.diags(a.diagonal())).tocsr()
    replaced = (np.diff(_pruned(others).indptr) == 0) & (np.diff(_pruned(others.T).indptr) > 0)
    rest = np.flatnonzero(~replaced)
    if replaced.any() and _is_symmetric(a[rest][:, rest]):
        raise ProblemError(
            f"{who} is not symmetric, but for {int(replaced.sum())} rows that have a diagonal "
            f"alone, of unknown {int(replaced.argmax())} for one: were rows of prescribed values "
            "replaced, and columns not? Give the matrix before, and dirichlet=[...]"
        )


def _pruned(a: Any) -> sp.csr_matrix:
    """Without zeros that are stored."""
    found = sp.csr_matrix(a, copy=True)
    found.eliminate_zeros()
    return found


def _matrix(given: Any, who: str) -> sp.csr_matrix:
    """A finite matrix, or a ProblemError."""
    if isinstance(given, str | Path):
        given = _read(Path(given), who, {".npz": sp.load_npz})
    try:
        found = sp.csr_matrix(given)
        if found.dtype.kind not in "biuf":
            raise TypeError(f"its numbers are of {found.dtype}")
        found = found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(
            f"{who} is no matrix of real numbers ({explained(error)}); give one of "
            "SciPy, or the path of a .npz or .mtx file"
        ) from error
    if found.shape[0] != found.shape[1] or found.shape[0] < 2:
        raise ProblemError(f"{who} must be square, of two rows or more, got shape {found.shape}")
    if not np.isfinite(found.data).all():
        raise ProblemError(f"{who} has entries that are not finite (NaN or infinity)")
    return found


def _vector(given: Any, who: str, n: int) -> Array:
    """A finite load (n,), or a ProblemError."""
    if isinstance(given, str | Path):
        given = _read(Path(given), who, {".npy": lambda p: np.load(p, allow_pickle=False)})
    try:
        dense = given.toarray() if hasattr(given, "toarray") else np.asarray(given)
        if dense.dtype.kind not in "biuf":
            raise TypeError(f"its numbers are of {dense.dtype}")
        found = dense.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"{who} is no vector of real numbers ({explained(error)})") from error
    if found.shape not in ((n,), (n, 1), (1, n)):
        raise ProblemError(f"{who} has shape {found.shape}, the matrices have {n} rows")
    if not np.isfinite(found).all():
        raise ProblemError(f"{who} has entries that are not finite (NaN or infinity)")
    return found.ravel()


def _read(path: Path, who: str, others: Mapping[str, Any]) -> Any:
    """What a file holds: Matrix Market, or by its suffix."""
    suffixes = [".mtx", ".mtx.gz", *others]
    suffix = next((s for s in suffixes if path.name.endswith(s)), None)
    if suffix is None:
        raise ProblemError(f"{who}: {path} is none of {', '.join(suffixes)} files")
    try:
        return others.get(suffix, scipy.io.mmread)(path)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ProblemError(f"{who}: {path} cannot be read ({explained(error)})") from error


def _check_coefficients(function: Coefficients, who: str, d: int, size: int) -> None:
    """Does a function give (..., size) for z (..., d)?"""
    z = torch.full((3, d), 0.5, dtype=torch.float64)
    try:
        found = function(z)
        shape = tuple(found.shape)
    except Exception as error:
        raise ProblemError(
            f"{who} cannot be evaluated for z of shape {tuple(z.shape)} "
            f"({explained(error)}); it is a torch function of z, z[..., 0] for one"
        ) from error
    if shape != (3, size):
        raise ProblemError(
            f"{who} returns shape {shape} for z of shape {tuple(z.shape)}, and "
            f"{(3, size)} is expected: torch.stack([...], dim=-1)"
        )
