"""Entries that are multiples of each other are found, and told from those that only seem so."""

import numpy as np
import torch

from pddlvm.linalg.empirical_interpolation import find_interpolation
from pddlvm.weak.slots import Slots


def values(n=6):
    """Four entries at five points: a function, twice it, another one, and zero."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, n, 5, generator=generator, dtype=torch.float64)
    return torch.stack([a, -2 * a, b, torch.zeros_like(a)], dim=-1)


def test_multiples_count_as_one():
    found = Slots.of(values())
    assert found.own.tolist() == [1, 2]
    expected = torch.tensor([[-0.5, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(found.factors, expected)
    assert torch.allclose(values()[..., found.own] @ found.factors, values())
    sizes = found.sizes(torch.tensor([4.0, 1.0, 3.0, 9.0], dtype=torch.float64))
    assert torch.allclose(sizes, torch.tensor([2.0, 3.0], dtype=torch.float64))


def test_what_is_true_of_some_draws_alone_is_seen():
    found = Slots.of(values())
    assert found.holds(values(12))
    other = values(12)
    other[-1, 2, 0] += 1e-6
    assert not found.holds(other)


def test_zeros_have_an_entry_of_rank_zero():
    zero = torch.zeros(3, 5, 4, dtype=torch.float64)
    found = Slots.of(zero)
    assert found.own.tolist() == [0] and found.holds(zero)


def test_an_interpolation_is_spread_over_all_entries():
    given = values(20)
    # Of two functions of x, so that few entries tell all.
    given = torch.einsum("nq,qps->nps", torch.rand(20, 2).double(), given[:2])
    slots = Slots.of(given)
    own = given[..., slots.own].flatten(1).numpy()
    found = slots.spread(find_interpolation(own, 8))
    assert len(found.index) == 2
    rebuilt = sum(
        np.outer(given.flatten(1).numpy()[:, index], found.function(q))
        for q, index in enumerate(found.index)
    )
    assert np.allclose(rebuilt, given.flatten(1).numpy())
