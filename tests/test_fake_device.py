"""The device that is not there computes, and fails where a real one does."""

import pytest
import torch
from fake_device import CPU, DEVICE, fake_device
from torch.func import jacrev, vmap


@pytest.fixture(autouse=True)
def device():
    with fake_device():
        yield


X = torch.arange(6.0).reshape(2, 3)

FAULTS = {
    "sum": lambda x: x + X,
    "product": lambda x: x @ X.T,
    "choice": lambda x: torch.where(X > 0, x, 0.0),
    "joint": lambda x: torch.stack([x.sum(), X.sum()]),
    "values in place": lambda x: x.index_copy_(0, torch.arange(2), x),
    "mask of the CPU's": lambda x: X[x > 0],
    "random numbers": lambda x: torch.randn(2, device=DEVICE, generator=torch.Generator()),
    "random numbers of the CPU": lambda x: torch.rand(2, generator=torch.Generator(DEVICE)),
    "array": lambda x: x.numpy(),
    "derivatives": lambda x: vmap(jacrev(lambda row: (row * X[0]).sum()))(x),
    "gradient": lambda x: torch.autograd.grad((x.requires_grad_().cpu() * x).sum(), x),
}


@pytest.mark.parametrize("name", FAULTS)
def test_devices_do_not_mix(name):
    with pytest.raises((RuntimeError, TypeError)):
        FAULTS[name](X.to(DEVICE))


RESULTS = {
    "number": lambda x: x * torch.tensor(2.0, device=CPU),
    "index": lambda x: x[torch.tensor([1]), [2]],
    "copy": lambda x: torch.zeros_like(x).copy_(x),
    "solve": lambda x: torch.linalg.solve(x[:, :2] + 1, x[:, 2]),
    "made there": lambda x: torch.ones(2, device=x.device) + x.new_tensor(1.0) + x.new_zeros(2),
    "derivatives": lambda x: vmap(jacrev(lambda row: torch.eye(3, device=x.device) @ row.exp()))(x),
    "gradient through the CPU": lambda x: torch.autograd.grad(
        x.requires_grad_().cpu().exp().sum(), x
    )[0],
    "seeded": lambda x: torch.randn(
        2, device=x.device, generator=torch.Generator(x.device).manual_seed(0)
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_values_are_those_of_the_cpu(name):
    found = RESULTS[name](X.to(DEVICE))
    assert found.device == DEVICE
    assert torch.equal(found.cpu(), RESULTS[name](X.clone()))


def test_a_module_moves_and_learns():
    module = torch.nn.Linear(3, 1).to(DEVICE)
    before = module.weight.detach().cpu()
    optimizer = torch.optim.Adam(module.parameters())
    module(X.to(DEVICE)).sum().backward()
    optimizer.step()
    assert module.weight.grad.device == DEVICE
    assert (module.cpu().weight != before).all()
    assert module.weight.device == CPU
