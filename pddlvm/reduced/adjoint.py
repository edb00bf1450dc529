"""Adjoint solutions of linear functionals in a basis of their own.

    K(z)^T psi = l,      psi = V c,     W^T K(z)^T V c = W^T l

of a linear problem. V is made as that of solutions is, from representers and what is left of
reduced solutions of draws,

    span V ~ { X^{-1} l, K(z_k)^{-T} l, K(z_k)^{-T} (l - K(z)^T V c) }

and W is V, or in another norm than that of K0 the leading representers X^{-1} K(z_k)^T V. The
operators are those of the terms between these bases, by empirical interpolation or cubature. Of
many functionals there is one basis: that of their X'-orthonormal span.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.random import generator_of
from pddlvm.linalg.newton import least_squares_step
from pddlvm.reduced.galerkin import Galerkin
from pddlvm.reduced.interpolated import interpolated
from pddlvm.reduced.reduction import reduce_terms, reduced_model
from pddlvm.reduced.reference import Reference, orthonormalise
from pddlvm.reduced.representers import leading, principal
from pddlvm.reduced.residual import ReducedModel
from pddlvm.weak.problem import Problem

__all__ = ["Adjoint", "adjoint_of"]

Array = NDArray[np.float64]

_SEED = 271828
_MOST, _MORE, _TOLERANCE = 96, 2, 1e-4
"""Basis vectors at most, more for each functional; of |l - K^T psi|_X' / |l|_X' of draws."""
_BLOCK, _N_DRAWS = 8, 48
"""Draws of a round of enrichment, and those that a cubature is chosen by."""
_ROUND_OFF = 1e-13


@dataclass(frozen=True)
class Adjoint:
    """Reduced adjoint solutions of some functionals; float64, CPU.

    Attributes:
        v: basis, X-orthonormal, (n_free, n_modes).
        loads: W^T l of each functional, (n_tests, n).
        model: K between V and W: its modes are W, its tests V.
    """

    v: Tensor
    loads: Tensor
    model: ReducedModel

    def solve(self, z: Tensor) -> Tensor:
        """Coefficients of psi at z (batch, d), (batch, n, n_modes)."""
        rest = z.new_zeros(len(z), self.model.n_modes)
        k = self.model.stiffness(rest, z).mT
        found = [least_squares_step(k, load.expand(len(z), -1)) for load in self.loads.T]
        return torch.stack(found, dim=1)


def adjoint_of(problem: Problem, reference: Reference, functionals: Array) -> Adjoint | None:
    """Those of a linear problem; None of any other.

    Args:
        problem: the problem.
        reference: X, and K at the centres.
        functionals: rows l on the free degrees of freedom, (n, n_free). None where all are zero.
    """
    if not problem.is_linear:
        return None
    galerkin, generator = Galerkin(problem, reference), generator_of(_SEED)
    # Of a solution that is known up to a constant, a functional does not see the constant.
    functionals = galerkin.operators.balanced(torch.from_numpy(functionals)).numpy()
    riesz = reference.factors.solve(np.ascontiguousarray(functionals.T))
    values, vectors = np.linalg.eigh(functionals @ riesz)
    kept = values > _ROUND_OFF * values.max(initial=0.0)
    if not kept.any():
        return None
    # What is solved for: their X'-orthonormal combinations.
    loads = functionals.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    v = _basis(galerkin, loads, generator)
    w = _tests(reference, v, loads)
    z = problem.prior.sample((_N_DRAWS,), generator=generator)
    trial, bases = (v, (v, None)) if w is None else (w, (w, v))
    # Of any direction: a cubature, where there is one, is to integrate all entries of a matrix.
    c = np.random.default_rng(_SEED).standard_normal((_N_DRAWS, trial.shape[1]))
    terms = reduce_terms(problem, galerkin, bases, z, c, np.random.default_rng(_SEED))
    model = interpolated(reduced_model(problem, reference, bases, terms, torch.float64))
    return Adjoint(torch.from_numpy(v), torch.from_numpy(trial.T @ functionals.T), model)


def _basis(galerkin: Galerkin, loads: Array, generator: torch.Generator) -> Array:
    """V, (n_free, n_modes), for X'-orthonormal loads (n_free, n)."""
    problem, reference = galerkin.problem, galerkin.reference
    x, most = reference.matrix, min(_MOST + _MORE * loads.shape[1], len(loads))
    starts = [centre.factors.solve(loads, "T") for centre in reference.centres]
    start = np.column_stack(starts or [reference.factors.solve(loads)])
    v = principal(start, x, most)
    tests = _NearTests(reference)
    while v.shape[1] < most:
        xi = problem.prior.sample_standard((_BLOCK,), generator=generator)
        found: list[Array] = []
        for own in xi[:, None]:
            z = problem.prior.unstandardise(own)
            k = problem.solver.matrix(galerkin.lift(z)[0], z[0])
            near = int(reference.nearest(own)) if reference.centres else None
            w = tests(v, near)
            kv = k.T @ v
            r = loads - kv @ np.linalg.solve(w.T @ kv, w.T @ loads)
            size = np.sqrt(np.maximum((r * reference.factors.solve(r)).sum(axis=0), 0))
            r = np.ascontiguousarray(r[:, size > _TOLERANCE])
            if r.shape[1]:
                factors = reference.factors if near is None else reference.centres[near].factors
                found.append(factors.solve(r, "N" if near is None else "T"))
        if not found:
            break
        wider = orthonormalise(v, np.column_stack(found), x)
        if wider.shape[1] == v.shape[1]:
            # What is left of the residual is round-off, in directions that V has already.
            break
        v = wider
    return v[:, :most]


class _NearTests:
    """V itself, or X^{-1} K(z_k)^T V in another norm than K0's, of a V that grows."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._w = [np.zeros((reference.matrix.shape[0], 0)) for _ in reference.centres]

    def __call__(self, v: Array, k: int | None) -> Array:
        if k is None or not self._reference.is_dual:
            return v
        new = self._reference.centres[k].matrix.T @ v[:, self._w[k].shape[1] :]
        if new.shape[1]:
            riesz = self._reference.factors.solve(np.ascontiguousarray(new))
            self._w[k] = np.column_stack([self._w[k], riesz])
        return self._w[k]


def _tests(reference: Reference, v: Array, loads: Array) -> Array | None:
    """W where it is not V, (n_free, n_tests)."""
    if not reference.is_dual:
        return None
    groups = [
        reference.factors.solve(np.ascontiguousarray(centre.matrix.T @ v))
        for centre in reference.centres
    ]
    return leading(groups, reference.factors.solve(loads), reference.matrix)
