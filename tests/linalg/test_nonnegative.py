"""Few nonnegative weights."""

import numpy as np
import pytest
from scipy.optimize import nnls

from pddlvm.linalg.nonnegative import few_weights


def integrals(n_rows: int, n: int, rank: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n_rows, rank)) @ rng.standard_normal((rank, n))


def test_few_weights_give_the_sum_of_all_columns():
    a = integrals(200, 600, 30)
    index, w = few_weights(a, a.sum(1), 1e-8, 1000)
    assert len(index) == len(w) == len(set(index.tolist())) <= 60
    assert (w > 0).all()
    assert np.linalg.norm(a[:, index] @ w - a.sum(1)) <= 1e-8 * np.linalg.norm(a.sum(1))


def test_what_no_weights_give_is_left_as_lawson_and_hanson_leave_it():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((60, 40)), rng.standard_normal(60)
    index, w = few_weights(a, b, 1e-8, 1000)
    best = nnls(a, b)[1]
    assert np.linalg.norm(a[:, index] @ w - b) == pytest.approx(best, rel=0.02)


def test_columns_that_are_equal_or_zero_are_no_harm():
    a = np.hstack([integrals(50, 100, 10)] * 2 + [np.zeros((50, 3))])
    index, w = few_weights(a, a.sum(1), 1e-6, 1000)
    assert (index < 200).all()
    assert np.linalg.norm(a[:, index] @ w - a.sum(1)) <= 1e-6 * np.linalg.norm(a.sum(1))


def test_nothing_needs_no_columns():
    index, w = few_weights(integrals(20, 30, 5), np.zeros(20), 1e-6, 100)
    assert len(index) == len(w) == 0
