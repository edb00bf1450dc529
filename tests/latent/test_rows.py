"""Rows of a batch: what several processes find for theirs adds up to what one finds for all."""

import pytest
import torch
from small import galerkin, strong

import pddlvm
from pddlvm.basics.random import seeded
from pddlvm.latent.rows import Rows
from problems import poisson


def shares(total: int, n: int) -> list[Rows]:
    return [Rows(total, torch.arange(k, total, n)) for k in range(n)]


def two_blocks():
    problem = poisson.make_missing_middle(12)
    return pddlvm.LatentVariableModel(problem, basis=pddlvm.EnergyModes(4))


MODELS = {"weak form": galerkin, "two blocks": two_blocks, "strong form": strong}


def step(model, stage, rows):
    """The loss, its gradient, and where the random numbers are after it."""
    model.zero_grad()
    # Points follow the steps before, of which there are none.
    before = model.training_state()
    generator = torch.Generator().manual_seed(1)
    with seeded(2):
        loss = stage.loss(rows, stage.draw(rows, generator))
        loss.backward()
        after = (generator.get_state(), torch.get_rng_state())
    model.restore_training(before)
    gradients = [p.grad.flatten() for net in stage.networks for p in net.parameters()]
    return loss.detach(), torch.cat(gradients), after


@pytest.mark.parametrize(("total", "n"), [(16, 2), (7, 3), (3, 3)])
@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_of_rows_add_up(name, total, n):
    model = MODELS[name]().double()
    for stage in model.stages(calibrate=False):
        stage.prepare()
        whole, gradient, after = step(model, stage, Rows.given(total))
        parts = [step(model, stage, rows) for rows in shares(total, n)]
        # Float64 rounding of sums over the batch.
        torch.testing.assert_close(sum(part[0] for part in parts), whole, rtol=1e-12, atol=0.0)
        total_gradient = sum(part[1] for part in parts)
        assert (total_gradient - gradient).norm() < 1e-10 * gradient.norm()
        # Whatever its rows, a process goes on with the same numbers.
        assert all(torch.equal(a, b) for p in parts for a, b in zip(p[2], after, strict=True))


def test_rows_of_two_batches_and_of_the_first_few():
    first, second = shares(5, 2)
    assert (first + second).own.tolist() == [0, 2, 4, 6, 8] and (first + second).total == 10
    assert second.until(2).own.tolist() == [1] and second.until(2).total == 2
    assert second.of(torch.arange(10).reshape(2, 5), 1).tolist() == [[1, 3], [6, 8]]
