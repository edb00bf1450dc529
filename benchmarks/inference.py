"""Posteriors: surrogate against finite elements, side by side.

`speed`: effective draws per second of no-U-turn sampling on the surrogate, against Hamiltonian
Monte Carlo with adjoint gradients of the finite element model. `accuracy`: errors of
the posteriors against long chains on the finite element likelihood; the honest baseline is
Gauss-Newton and the Laplace approximation with finite elements, and on small meshes it is hard to
beat. Where sbi is installed, its neural posterior estimation (NPE) runs beside ours, on
finite element simulations, until its own rule stops it. `many` and `sensors`: what the Laplace
approximation of a data set costs, beside many others, or of many values.
"""

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

import pddlvm
from benchmarks.speed import milliseconds
from pddlvm.inference.exact import hamiltonian
from pddlvm.inference.finite_element_density import FiniteElementPosterior, FiniteElementTarget
from pddlvm.inference.finite_element_surrogate import FiniteElements
from pddlvm.inference.laplace import laplace
from pddlvm.inference.pushed_gaussian import PushedGaussian
from pddlvm.sampling.charts import Charts
from pddlvm.sampling.explore import begin
from pddlvm.sampling.statistics import bulk_size
from problems import poisson

_GRID = [[(i + 0.5) / 5, (j + 0.5) / 5] for i in range(5) for j in range(5)]
_N_DATA = 10
_N_SIMULATIONS = 100_000


def speed(shorter: float = 1.0) -> list[dict[str, Any]]:
    """One row per mesh: effective draws per second of the worst parameter."""
    rows = []
    for n in (32, 128):
        problem, model, obs = _trained(n, 60 * shorter)
        y = obs.simulate(problem.solve(problem.prior.sample(seed=11)), seed=12)
        start = time.perf_counter()
        by_nuts = model.infer(y, obs, "nuts", n_samples=4000, n_chains=16)
        seconds = time.perf_counter() - start
        ours = float(by_nuts.diagnostics.bulk_size.min()) / seconds
        (mode,) = laplace(FiniteElements(obs), y[None]).modes_of(0)
        target = Charts.of_parts([FiniteElementTarget(FiniteElementPosterior(obs, y), mode)], 4)
        generator = torch.Generator().manual_seed(0)
        target, w = begin(target, [torch.ones(1, dtype=torch.float64)], 4, generator)
        n_draws = max(20, round(60 * shorter))
        start = time.perf_counter()
        xi, _ = hamiltonian(target, w, n_draws // 2, n_draws, generator)
        theirs = float(bulk_size(xi).min()) / (time.perf_counter() - start)
        rows.append(
            {
                "mesh": f"{n} x {n}",
                "nuts_ess_per_s": ours,
                "fe_hmc_ess_per_s": theirs,
                "ratio": ours / theirs,
            }
        )
    return rows


def accuracy(shorter: float = 1.0) -> list[dict[str, Any]]:
    """One row per method on the default problem with 25 sensors, averages over ten data sets."""
    problem, model, obs = _trained(32, 60 * shorter)
    y = obs.simulate(problem.solve(problem.prior.sample((_N_DATA,), seed=11)), seed=12)
    reference = model.infer(y, obs, "exact", n_samples=max(400, round(8000 * shorter)), n_chains=16)
    model.amortize(obs, max_seconds=240 * shorter)
    rows = []
    for method in ("laplace", "amortized", "nuts"):
        posterior = model.infer(y, obs, method, n_samples=max(400, round(2000 * shorter)))
        query = milliseconds(partial(_mean, model, y[0], obs, method), 5)
        rows.append(_row(method, posterior.mean, posterior.std, reference, query))
    by_elements = FiniteElements(obs)
    found = PushedGaussian(laplace(by_elements, y).coordinates)
    query = milliseconds(lambda: laplace(by_elements, y[:1]), 5)
    rows.append(_row("laplace, finite elements", found.mean, found.std, reference, query))
    rows.extend(_npe(problem, obs, y, reference, shorter))
    return rows


def many(shorter: float = 1.0) -> list[dict[str, Any]]:
    """One row per number of data sets: time of each, and how far it is from the answer alone."""
    problem, model, obs = _trained(32, 60 * shorter)
    rows, n_alone = [], max(2, round(50 * shorter))
    z = problem.prior.sample((max(n_alone, round(5000 * shorter)),), seed=11)
    y = torch.cat(
        [obs.simulate(problem.solve(part), seed=i) for i, part in enumerate(z.split(500))]
    )
    model.infer(y[0], obs)  # What is prepared once for a model.
    start = time.perf_counter()
    alone = [model.infer(one, obs) for one in y[:n_alone]]
    rows.append({"data_sets": 1, "ms_each": 1e3 * (time.perf_counter() - start) / n_alone})
    mean, std = (torch.stack([getattr(one, name) for one in alone]) for name in ("mean", "std"))
    for n in (round(500 * shorter), round(5000 * shorter)):
        n = max(n_alone, n)
        start = time.perf_counter()
        together = model.infer(y[:n], obs)
        rows.append({"data_sets": n, "ms_each": 1e3 * (time.perf_counter() - start) / n})
        off = (together.mean[:n_alone] - mean).abs() / std
        rows[-1]["off_in_std"] = float(off.max())
    rows[0]["off_in_std"] = 0.0
    return rows


def sensors(shorter: float = 1.0) -> list[dict[str, Any]]:
    """One row per number of sensors: time of one data set."""
    problem, model, _ = _trained(32, 60 * shorter)
    rows = []
    for n in (30, 3000):
        places = 0.05 + 0.9 * torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
        obs = pddlvm.PointObservation(problem, places, 0.01)
        y = obs.simulate(problem.solve(problem.prior.sample(seed=1)), seed=2)
        rows.append({"sensors": n, "query_ms": milliseconds(partial(model.infer, y, obs), 5)})
    return rows


def _npe(
    problem: pddlvm.Problem,
    obs: pddlvm.PointObservation,
    y: Tensor,
    reference: pddlvm.Posterior,
    shorter: float,
) -> list[dict[str, Any]]:
    try:
        from sbi.inference import NPE
    except ModuleNotFoundError:
        print("sbi is not installed: its row is left out (pip install sbi)")
        return []
    n = max(1000, round(_N_SIMULATIONS * shorter))
    z = problem.prior.sample((n,), seed=1)
    data = torch.cat(
        [obs.simulate(problem.solve(part), seed=i) for i, part in enumerate(z.split(1000))]
    )
    prior = torch.distributions.MultivariateNormal(
        torch.zeros(problem.n_parameters), torch.eye(problem.n_parameters)
    )
    trainer = NPE(prior=prior)
    xi = problem.prior.standardise(z).float()
    start = time.perf_counter()
    trainer.append_simulations(xi, data.float()).train()
    print(f"sbi trained for {time.perf_counter() - start:.0f} s, until its own rule stopped it")
    density = trainer.build_posterior()
    start = time.perf_counter()
    draws = [density.sample((2000,), x=one.float(), show_progress_bars=False) for one in y]
    query = 1e3 * (time.perf_counter() - start) / len(y)
    found = problem.prior.unstandardise(torch.stack(draws, dim=1).double())
    return [_row(f"sbi NPE, {n} solves", found.mean(0), found.std(0), reference, query)]


def _row(
    name: str, mean: Tensor, std: Tensor, reference: pddlvm.Posterior, query: float
) -> dict[str, Any]:
    return {
        "method": name,
        "mean_error_in_std": float(((mean - reference.mean) / reference.std).abs().mean()),
        "std_error": float((std / reference.std - 1).abs().mean()),
        "query_ms": query,
    }


def _mean(
    model: pddlvm.LatentVariableModel, y: Tensor, obs: pddlvm.PointObservation, method: Any
) -> Tensor:
    return model.infer(y, obs, method).mean


def _trained(
    n: int, seconds: float
) -> tuple[pddlvm.Problem, pddlvm.LatentVariableModel, pddlvm.PointObservation]:
    problem = poisson.make(n)
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_seconds=seconds)
    largest = problem.solve(problem.prior.sample((200,), seed=99)).amax(1).mean()
    return problem, model, pddlvm.PointObservation(problem, _GRID, 0.01 * float(largest))
