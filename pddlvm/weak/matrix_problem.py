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
    Squares,
    region_of_matrices,
    region_of_vectors,
)
from pddlvm.weak.problem import Problem
from pddlvm.weak.terms import Energy

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
) -> Problem:
    """A(z) u = f(z) as a `Problem`: the same models, inference, and bounds of errors.

    Bounds hold where all A_q are positive semidefinite, and theta(z) is positive: then
    min theta_q(z) / theta_q(z0) K0 <= A(z). Files are read as numbers, nothing in them is executed.

    Args:
        name: for messages, plots and saved runs.
        matrices: A_q, (n, n), symmetric: of SciPy or NumPy, or paths of files, .npz as of
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

    Raises:
        ProblemError: matrices or loads that cannot be read, of other sizes, not finite or not
            symmetric, or functions that do not give a coefficient for each.
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
        if a.shape != (n, n):
            raise ProblemError(
                f"matrix {q} of {who} has shape {a.shape}, matrix 0 {found[0].shape}; "
                "all must be those of the same unknowns"
            )
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
    terms = [
        Energy(region_of_matrices(found), Squares(theta, names, found)),
        Energy(region_of_vectors(vectors), Linear(phi, names if phi else ())),
    ]
    fields = {parameter: Constant(prior) for parameter, prior in parameters.items()}
    return Problem(name, space, terms, fields, dirichlet, solver)


def _matrix(given: Any, who: str) -> sp.csr_matrix:
    """A finite, symmetric matrix, or a ProblemError."""
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
    difference = abs(found - found.T).max()
    if difference > _SYMMETRIC * abs(found).max():
        raise ProblemError(
            f"{who} is not symmetric: A and its transpose differ by {difference:.1e}. "
            "Were rows of prescribed values replaced, and columns not? Give the matrix "
            "before, and dirichlet=[...]; matrices of advection have no way in yet"
        )
    return 0.5 * (found + found.T)


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
