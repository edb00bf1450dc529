"""Fourier neural operator (Li et al., 2021) by neuraloperator: from log kappa on the grid to u.

It learns from solutions, whose time counts: they come from our own reference solver, in batches.
The network, the loss and the optimiser are those of its example of Darcy flow.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.case import Case

__all__ = ["run"]

N_TRAIN, BATCH = 2000, 32
RATES = (5e-4, 2e-3, 8e-3)


def run(case: Case, seconds: float, seed: int = 0) -> list[dict[str, Any]]:
    """One row for each learning rate."""
    return [_trained(case, seconds, rate, seed) for rate in RATES]


def _trained(case: Case, seconds: float, rate: float, seed: int) -> dict[str, Any]:
    import neuralop
    from neuralop.losses import LpLoss
    from neuralop.models import FNO
    from neuralop.training import AdamW

    start = time.perf_counter()
    torch.manual_seed(seed)
    problem = case.problem
    z = problem.prior.sample((N_TRAIN,), seed=seed)
    u = torch.cat([problem.solve(part) for part in z.split(500)])
    shapes = case.shapes(problem.space.dof_points)

    def inputs(z: Tensor) -> Tensor:
        return case.on_grid(z @ shapes.T).float()[:, None]

    x, y = inputs(z), case.on_grid(u).float()[:, None]
    size = y.std()
    y = y / size
    net = FNO(n_modes=(16, 16), in_channels=1, out_channels=1, hidden_channels=32)
    optimiser, loss = AdamW(net.parameters(), lr=rate, weight_decay=1e-4), LpLoss(d=2, p=2)
    generator, n_steps = torch.Generator().manual_seed(seed), 0
    while (gone := (time.perf_counter() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * gone))
        rows = torch.randint(N_TRAIN, (BATCH,), generator=generator)
        optimiser.zero_grad()
        loss(net(x[rows]), y[rows]).backward()
        optimiser.step()
        n_steps += 1
    taken = time.perf_counter() - start

    @torch.no_grad()
    def predict(z: Tensor) -> Tensor:
        return case.off_grid(size * net(inputs(z))[:, 0])

    setting = f"{N_TRAIN} solutions, {n_steps} steps, rate {rate:g}"
    return case.row(f"neuraloperator {neuralop.__version__}, FNO", setting, taken, predict)
