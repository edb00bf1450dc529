"""Products on huge pages are the same products."""

import gc

import pytest
import torch

from pddlvm.basics import memory


@pytest.mark.parametrize("batch", [(3,), (2, 3), ()])
@pytest.mark.parametrize("large", [1, 2**60])
def test_products_are_those_of_torch(batch, large, monkeypatch):
    monkeypatch.setattr(memory, "_LARGE", large)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(*batch, 4, generator=generator), torch.randn(4, 7, generator=generator)
    # The same sums of four numbers, perhaps in another order.
    torch.testing.assert_close(memory.multiply(a, b), a @ b)


def test_the_result_keeps_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "_LARGE", 1)
    a, b = torch.ones(300, 2), torch.ones(2, 500)
    part = memory.multiply(a, b)[7]
    for _ in range(3):
        gc.collect()
        memory.multiply(0 * a, b)
    assert (part == 2).all()
