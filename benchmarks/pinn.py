"""Problems in strong form: our maps against a plain parametric PINN of the same network.

The baseline has the same branch, trunk, ansatz and points; its loss is the mean square residual
and its optimiser Adam, with the same cosine schedule, for the same time. Also: the three ways to
get the derivatives of a network, per training step.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import pddlvm
from pddlvm.collocation.trunk import Trunk
from pddlvm.strong.jets import Index, Jet
from problems import pinn

_SEEDS = (0, 1, 2)
_N_SAMPLES = 16
_CASES: tuple[tuple[str, Callable[[], pddlvm.CollocationProblem], float], ...] = (
    ("heat", pinn.make_heat, 120),
    ("Burgers", pinn.make_burgers, 180),
    ("reaction-diffusion", pinn.make_reaction_diffusion, 120),
)
_RATE = 2e-3


def run(shorter: float = 1.0) -> list[dict[str, Any]]:
    """One row per problem, medians of the seeds."""
    rows = []
    for name, make, seconds in _CASES:
        problem = make()
        runs = [_compare(problem, seed, seconds * shorter) for seed in _SEEDS]
        medians = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
        rows.append({"case": name, "seconds": seconds * shorter, **medians})
    return rows


def derivatives(shorter: float = 1.0) -> list[dict[str, Any]]:
    """Milliseconds for u, u_x, u_t, u_xx of 64 functions at 256 points, and the gradient."""
    torch.manual_seed(0)
    trunk = Trunk(2, 64)
    x = tuple(torch.rand(2, 256).unbind(0))
    ways = {"reverse": _reverse, "nested forward": _nested, "Taylor": _taylor}
    n = max(3, round(50 * shorter))
    return [{"way": k, "milliseconds": _milliseconds(w, trunk, x, n)} for k, w in ways.items()]


def _compare(problem: pddlvm.CollocationProblem, seed: int, seconds: float) -> dict[str, float]:
    z = problem.prior.sample((_N_SAMPLES,), seed=7)
    u = problem.solve(z)
    model = pddlvm.LatentVariableModel(problem, seed=seed)
    pddlvm.train(model, max_seconds=seconds)
    report = pddlvm.validate(model, n_samples=_N_SAMPLES)
    ours = _errors(model, z, u)
    plain = _errors(train_baseline(problem, seed, seconds), z, u)
    return {
        "relative_l2": float(ours.mean()),
        "worst": float(ours.max()),
        "baseline": float(plain.mean()),
        "baseline_over_ours": float(plain.mean() / ours.mean()),
        "mnse_z": report.mnse_z,
        "coverage_u": report.coverage_u,
        "coverage_z": report.coverage_z,
        "speedup_1000": report.speedup["batch 1000"],
    }


def train_baseline(
    problem: pddlvm.CollocationProblem, seed: int, seconds: float
) -> pddlvm.CollocationModel:
    """The same network trained by Adam on the mean square residual."""
    model = pddlvm.CollocationModel(problem, seed=seed)
    parameters = [*model.basis.trunk.parameters(), *model.forward_map.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    while (done := (time.perf_counter() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = _RATE * (1e-3 + 0.5 * (1 + math.cos(math.pi * done)))
        model.draw_points(generator)
        xi = problem.prior.sample_standard((model.batch_size,), generator=generator).float()
        z = problem.prior.unstandardise(xi)
        jet, values = model.zero_residual.inside.jet(problem, model.forward_map(xi)[0], z)
        loss = problem.residual_function(jet, values).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.basis.freeze()
    return model


def _errors(model: pddlvm.LatentVariableModel, z: Tensor, u: Tensor) -> Tensor:
    return (model.forward(z).mean - u).norm(dim=1) / u.norm(dim=1)


Coordinates = tuple[Tensor, ...]


def _plain(trunk: Trunk, *x: Tensor) -> Tensor:
    *hidden, last = trunk.layers
    h = torch.stack(x, dim=-1)
    for layer in hidden:
        h = torch.tanh(layer(h))
    return last(h)


def _taylor(trunk: Trunk, x: Coordinates) -> Jet:
    one, zero = torch.ones_like(x[0]), torch.zeros_like(x[0])
    return trunk(
        {
            (): torch.stack(x, dim=-1),
            (0,): torch.stack([one, zero], dim=-1),
            (1,): torch.stack([zero, one], dim=-1),
            (0, 0): torch.stack([zero, zero], dim=-1),
        }
    )


def _nested(trunk: Trunk, x: Coordinates) -> Jet:
    one, zero = torch.ones_like(x[0]), torch.zeros_like(x[0])

    def along_x(*at: Tensor) -> Tensor:
        return torch.func.jvp(lambda *a: _plain(trunk, *a), at, (one, zero))[1]

    u, u_t = torch.func.jvp(lambda *a: _plain(trunk, *a), x, (zero, one))
    u_x, u_xx = torch.func.jvp(along_x, x, (one, zero))
    return {(): u, (0,): u_x, (1,): u_t, (0, 0): u_xx}


def _reverse(trunk: Trunk, x: Coordinates) -> Jet:
    """One function at a time, as reverse mode has it: here the first of the 64 only."""
    at = tuple(c.clone().requires_grad_() for c in x)
    u = _plain(trunk, *at)[:, :1]
    u_x, u_t = torch.autograd.grad(u.sum(), at, create_graph=True)
    (u_xx,) = torch.autograd.grad(u_x.sum(), at[0], create_graph=True)
    return {(): u, (0,): u_x, (1,): u_t, (0, 0): u_xx}


def _milliseconds(
    way: Callable[[Trunk, Coordinates], dict[Index, Tensor]],
    trunk: Trunk,
    x: Coordinates,
    n: int,
) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        torch.stack([d.square().mean() for d in way(trunk, x).values()]).sum().backward()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
