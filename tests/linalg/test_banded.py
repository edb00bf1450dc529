"""Cholesky within a band agrees with dense algebra."""

import numpy as np
import pytest
import scipy.sparse as sp

from pddlvm.linalg.banded import find_band
from problems import bayesian_poisson, poisson


@pytest.fixture(scope="module")
def matrix() -> sp.csc_matrix:
    """The stiffness matrix of a small mesh whose nodes are numbered at random."""
    problem = poisson.make(8, n_terms=2)
    z = problem.prior.sample((1,), seed=0)
    dense = problem.solver.matrix(problem.solve(z)[0], z[0]).toarray()
    order = np.random.default_rng(0).permutation(len(dense))
    return sp.csc_matrix(dense[np.ix_(order, order)])


@pytest.mark.parametrize("shape", [(), (3,)], ids=["one", "three"])
def test_solutions_are_those_of_dense_algebra(matrix, shape):
    factors = find_band(matrix).factorise(matrix.data)
    b = np.random.default_rng(1).standard_normal((matrix.shape[0], *shape))
    expected = np.linalg.solve(matrix.toarray(), b)
    # Both are exact to round-off times the condition number, some 30.
    np.testing.assert_allclose(factors.solve(b), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(factors.solve(b, "T"), factors.solve(b))


def test_a_numbering_at_random_is_put_in_order(matrix):
    # 8 x 8 cells have 7 free nodes a row; a band of about two rows is what can be found.
    assert find_band(matrix).width <= 14


def test_a_matrix_that_is_not_positive_definite_has_no_factors(matrix):
    assert find_band(matrix).factorise(-matrix.data) is None


def test_wide_bands_are_left_alone():
    assert find_band(sp.csc_matrix(np.ones((200, 200)))) is None


def test_the_public_benchmark_has_the_band_of_a_row_of_nodes():
    assert bayesian_poisson.make(16).affine._band.width == 16
