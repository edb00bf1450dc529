"""A training step on a device asks nothing of the host: no value, no copy, no wait.

Else the device stands still while the CPU reads, and the step cannot be recorded as a graph.
"""

import pytest
import torch
from fake_device import DEVICE, fake_device, shown
from small import galerkin, strong
from torch import Tensor
from torch.utils._pytree import tree_leaves

import pddlvm
from pddlvm.latent.rows import Rows
from problems import poisson

X = torch.arange(6.0).reshape(2, 3)
COPIES = {"copy_", "_to_copy", "_foreach_copy_"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# They may wait for the device, or take memory, out of sight.
WAITING = ("linalg_", "_linalg_", "cholesky", "lu_", "svd", "_fft")


ASKING = {
    "a value": lambda x: float(x[0, 0]),
    "a copy to the CPU": lambda x: x.cpu(),
    "a copy from the CPU": lambda x: x + X.to(x.device),
    "a copy in place": lambda x: x.copy_(X),
    "places": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 2],
    "an index of the CPU": lambda x: x[torch.tensor([1, 0])],
    "as many as it says": lambda x: x.repeat_interleave(torch.tensor([1, 2]).to(x.device), dim=0),
    "a factorisation": lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(2, device=x.device)),
    "random numbers of the CPU": lambda x: x * torch.rand((), device="cpu"),
}
QUIET = {
    "arithmetic": lambda x: (x @ x.mT).exp().sum(),
    "a number": lambda x: x * torch.tensor(2.0, device="cpu"),
    "a slice": lambda x: x[:1, 1],
    "an index": lambda x: x[torch.arange(2, device=x.device)],
    "random numbers": lambda x: x + torch.randn(2, 3, device=x.device),
    "work of the CPU alone": lambda x: X.nonzero() + torch.arange(2),
    "a norm": lambda x: torch.linalg.vector_norm(x),
}


def asks_the_host(func, arguments, found) -> bool:
    """Does an operation read values of the device, copy between it and the CPU, or wait?

    Args:
        func: an overload of a torch operation.
        arguments: positional ones and those by name.
        found: its result.
    """
    name = func.overloadpacket.__name__
    given = [x for x in tree_leaves(arguments) if isinstance(x, Tensor)]
    every = given + [x for x in tree_leaves(found) if isinstance(x, Tensor)]
    here = [x for x in every if x.device.type == "cpu"]
    if torch.Tag.nondeterministic_seeded in func.tags and here:
        return True  # Every step would have the same numbers.
    if len(here) == len(every):
        return False
    if name in INDEXING:
        return any(x.dtype in (torch.bool, torch.uint8) for x in given[1:]) or bool(here)
    tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    is_copy = name in COPIES and bool(here)
    # Numbers of the CPU are passed as numbers.
    return (
        is_copy or bool(tags & set(func.tags)) or (name.startswith(WAITING) and "norm" not in name)
    )


def seen(call):
    """Operations of a call that ask the host."""
    found = []

    def look(func, arguments, result):
        if asks_the_host(func, arguments, result):
            found.append(str(func))

    with shown(look):
        call()
    return found


@pytest.mark.parametrize("name", ASKING)
def test_what_asks_the_host_is_seen(name):
    with fake_device():
        x = X.to(DEVICE)
        assert seen(lambda: ASKING[name](x))


@pytest.mark.parametrize("name", QUIET)
def test_what_does_not_is_not(name):
    with fake_device():
        x = X.to(DEVICE)
        assert not seen(lambda: QUIET[name](x))


def two_blocks():
    problem = poisson.make_missing_middle(12)
    return pddlvm.LatentVariableModel(problem, basis=pddlvm.EnergyModes(4))


def nonlinear():
    u = pddlvm.fem.Space(pddlvm.fem.interval(6))
    energy = pddlvm.Energy(u.interior(), lambda u, du, x, k: 0.5 * k * du[0] ** 2 + u**4 - u)
    fields = {"k": pddlvm.KarhunenLoeve.on(u, 2, length=0.5, link=pddlvm.links.exp)}
    return pddlvm.LatentVariableModel(
        pddlvm.Problem("bar", u, [energy], fields, [pddlvm.Dirichlet("left")])
    )


MODELS = {
    "weak form": galerkin,
    "two blocks": two_blocks,
    "nonlinear": nonlinear,
    "strong form": strong,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_step_asks_nothing_of_the_host(name):
    model = MODELS[name]()
    with fake_device():
        model.to(DEVICE)
        stage, rows = model.stages(calibrate=False)[0], Rows.given(16)
        stage.prepare()
        generator = torch.Generator().manual_seed(0)
        drawn = [stage.draw(rows, generator) for _ in range(2)]
        # The first one fills caches.
        stage.loss(rows, drawn[0]).backward()
        assert seen(lambda: stage.loss(rows, drawn[1]).backward()) == []
