"""Empirical interpolation: ranks, magic entries, and what is no family of low rank."""

import numpy as np
import pytest

from pddlvm.linalg.empirical_interpolation import find_interpolation


def family(rank: int, n_snapshots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Snapshots of a family of functions of the given rank, and fresh members of it."""
    rng = np.random.default_rng(seed)
    functions = rng.standard_normal((rank, 60))
    return rng.standard_normal((n_snapshots, rank)) @ functions, rng.standard_normal(
        (5, rank)
    ) @ functions


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_interpolation_is_exact_on_a_family_of_low_rank(rank):
    snapshots, fresh = family(rank, 20, seed=rank)
    found = find_interpolation(snapshots, 10)
    # Rounding times the condition number of a random matrix of this size.
    np.testing.assert_allclose(fresh[:, found.index] @ found.cardinal.T, fresh, atol=1e-9)


def test_interpolation_has_the_rank_of_the_family():
    assert find_interpolation(family(3, 20, seed=0)[0], 10).index.size == 3


def test_cardinal_functions_are_one_at_their_own_entry():
    found = find_interpolation(family(3, 20, seed=0)[0], 10)
    np.testing.assert_allclose(found.cardinal[found.index], np.eye(3), atol=1e-10)  # rounding


def test_no_interpolation_of_full_rank():
    assert find_interpolation(family(30, 20, seed=0)[0], 40) is None


def test_no_interpolation_above_the_largest_rank():
    assert find_interpolation(family(3, 20, seed=0)[0], 2) is None


def test_nothing_takes_rank_zero():
    found = find_interpolation(np.zeros((20, 60)), 10)
    assert (found.index.size, found.cardinal.shape) == (0, (60, 0))
