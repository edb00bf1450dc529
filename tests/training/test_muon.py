"""Muon: the steps of torch's own, but for the precision of its iteration."""

import pytest
import torch
from fake_device import DEVICE, fake_device

from pddlvm.training.muon import Muon


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [(64, 64), (32, 64), (64, 32)])
def test_steps_are_those_of_torch(shape):
    random = generator()
    start = torch.randn(shape, generator=random)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = Muon([ours], lr=0.1), torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0)
    for _ in range(4):
        gradient = torch.randn(shape, generator=random)
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    moved = (theirs.detach() - start).norm()
    # torch iterates in bfloat16, of two to three digits.
    assert float((ours - theirs).detach().norm() / moved) < 0.03


def test_steps_do_not_depend_on_the_size_of_the_gradient():
    steps = []
    for size in (1e-20, 1.0, 1e20):
        weight = torch.nn.Parameter(torch.zeros(16, 8))
        weight.grad = size * torch.randn(16, 8, generator=generator())
        Muon([weight], lr=0.1).step()
        steps.append(weight.detach())
    # float32.
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(steps[2], steps[1], rtol=1e-4, atol=1e-6)


def test_a_step_has_the_precision_of_its_weights():
    weight = torch.nn.Parameter(torch.zeros(8, 8, dtype=torch.float64))
    weight.grad = torch.randn(8, 8, generator=generator(), dtype=torch.float64)
    Muon([weight], lr=0.1).step()
    assert weight.dtype == torch.float64 and not torch.equal(weight, weight.float().double())


def test_matrices_without_a_gradient_stay():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(4, 4))


def test_matrices_that_move_together_move_as_each_alone():
    shapes = [(8, 8), (8, 8), (4, 8), (8, 4), (8, 8)]
    random = generator()
    grads = [torch.randn(shape, generator=random) for shape in shapes]
    found = []
    with fake_device():
        for device in ("cpu", DEVICE):
            weights = [torch.nn.Parameter(torch.ones(shape).to(device)) for shape in shapes]
            for weight, grad in zip(weights, grads, strict=True):
                weight.grad = grad.to(device)
            optimizer = Muon(weights, lr=0.1)
            optimizer.step()
            optimizer.step()
            found.append([weight.detach().cpu() for weight in weights])
    for alone, together in zip(*found, strict=True):
        torch.testing.assert_close(together, alone)
