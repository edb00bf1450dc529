"""Several fields in one basis of trajectories.

    (u, v)_X = sum_f (u_f, v_f)_L2 / size_f^2,       V = (shapes of u, of p, ...),    V^T X V = 1

Fields have units of their own, and some have no derivative in time, as a pressure: the mass is no
norm of these. Each field has its own shapes. A pressure p is tested by what it does: for each of
its shapes there is one of the fields with a mass,

    s = (M / T + K)^{-1} K_p p,    K_p the columns of K that p enters by, T the interval

(the supremizers of Rozza and Veroy, Comput. Methods Appl. Mech. Eng. 196, 2007), or the reduced
saddle point would be singular. Of one field X is the mass.
"""

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.transient.problem import TransientProblem

__all__ = [
    "norm_matrix",
    "number_of_field",
    "only_field",
    "ordered",
    "points_of_fields",
    "without_mass",
]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_DEPENDENT = 1e-7
"""Share of a shape that is new, below which it is left out."""


def norm_matrix(problem: TransientProblem, sizes: Tensor) -> sp.csr_matrix:
    """X on all degrees of freedom, of the sizes of the fields (n_fields,)."""
    if len(sizes) == 1:
        return problem.mass
    scale = 1 / sizes.numpy()[number_of_field(problem)] ** 2
    return sp.csr_matrix(sp.diags(scale) @ problem.space.gram_matrices()[0])


def number_of_field(problem: TransientProblem) -> Index:
    """That of each degree of freedom, (n_dofs,)."""
    lengths = [dofs.stop - dofs.start for dofs in problem.fields_of_u.values()]
    return np.repeat(np.arange(len(lengths)), lengths)


def points_of_fields(
    problem: TransientProblem, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random places among the free degrees of freedom, as many of each field, and their fields."""
    number = torch.from_numpy(number_of_field(problem)[problem.steady.free_dofs])
    n_fields = len(problem.fields_of_u)
    parts = []
    for i in range(n_fields):
        own = (number == i).nonzero()[:, 0]
        share = n // n_fields + (i < n % n_fields)
        parts.append(own[torch.randint(len(own), (share,), generator=generator)])
    place = torch.cat(parts)
    return place, number[place]


def without_mass(problem: TransientProblem) -> list[int]:
    """Numbers of the fields without a derivative in time, where there are several fields."""
    if len(problem.fields_of_u) == 1:
        return []
    dofs = problem.fields_of_u.values()
    return [i for i, own in enumerate(dofs) if not problem.mass[own].nnz]


def only_field(problem: TransientProblem, x: Array, number: int) -> Array:
    """The part of x (n_free, n) that is of one field, zero elsewhere."""
    own = number_of_field(problem)[problem.steady.free_dofs] == number
    return np.asarray(np.where(own[:, None], x, 0.0))


def ordered(norm: sp.csr_matrix, columns: Array) -> Array:
    """X-orthonormal columns, of which the first k span the first k given; less dependent ones."""
    v = np.zeros((len(columns), 0))
    for column in columns.T:
        size = np.sqrt(column @ (norm @ column))
        rest = column
        for _ in range(2):
            rest = rest - v @ (v.T @ (norm @ rest))
        left = np.sqrt(max(rest @ (norm @ rest), 0.0))
        if left > _DEPENDENT * size:
            v = np.column_stack([v, rest / left])
    return v
