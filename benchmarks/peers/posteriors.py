"""Posteriors of one data set, with everything counted: simulations, training, warm-up, draws.

    effective draws after T seconds:  0 until ready, then  rate * (T - ready)

Effective draws are those of the worst parameter (bulk), by one estimator for all. Errors are
against long chains on the finite element density: of means in posterior standard deviations, and
of standard deviations, root mean squares over the parameters.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pddlvm
from benchmarks.peers.case import Case
from pddlvm.sampling.coordinates import FAR
from pddlvm.sampling.statistics import bulk_size

__all__ = ["Data", "metropolis", "neural", "no_u_turn", "ours"]

_GRID = [[(i + 0.5) / 5, (j + 0.5) / 5] for i in range(5) for j in range(5)]
_REJECTED = 1e6
"""In the place of data so far from the prior that no solution is asked for: warm-up steps there."""


@dataclass(frozen=True)
class Data:
    """What 25 sensors read of one draw, with noise of 1 % of the mean maximum.

    Attributes:
        case: the problem.
        sensors: the sensors.
        noise_std: of their noise.
        y: what they read, (25,).
        reference: long chains.
    """

    case: Case
    sensors: pddlvm.PointObservation
    noise_std: float
    y: Tensor
    reference: pddlvm.Posterior

    @classmethod
    def of(cls, case: Case, model: pddlvm.LatentVariableModel, n_draws: int) -> "Data":
        """Of a case; the model is what the chains start from."""
        problem, noise_std = case.problem, 0.01 * float(case.u.amax(1).mean())
        sensors = pddlvm.PointObservation(problem, _GRID, noise_std)
        y = sensors.simulate(problem.solve(problem.prior.sample(seed=11)), seed=12)
        exact = model.infer(y, sensors, "exact", n_samples=n_draws, n_chains=16)
        return cls(case, sensors, noise_std, y, exact)

    def row(self, who: str, setting: str, ready: float, seconds: float, draws: Tensor) -> Any:
        """Of draws (n_chains, n, d) that took so many seconds after all was ready."""
        reference, flat = self.reference, draws.flatten(0, 1)
        mean = (flat.mean(0) - reference.mean) / reference.std
        rate = float(bulk_size(draws).min()) / seconds
        return {
            "case": self.case.name,
            "who": who,
            "setting": setting,
            "ready_s": ready,
            "effective_per_s": rate,
            "mean_error_in_std": float(mean.square().mean().sqrt()),
            "std_error": float((flat.std(0) / reference.std - 1).square().mean().sqrt()),
        }


def ours(
    data: Data, model: pddlvm.LatentVariableModel, ready: float, n_draws: int
) -> dict[str, Any]:
    """No-U-turn chains on the trained surrogate.

    Args:
        data: the data.
        model: trained.
        ready: seconds of its set-up and training.
        n_draws: of all chains.
    """
    start = time.perf_counter()
    found = model.infer(data.y, data.sensors, "nuts", n_samples=n_draws, n_chains=16)
    draws = found.sample((n_draws,)).unflatten(0, (16, -1))
    seconds = time.perf_counter() - start
    row = data.row(f"pddlvm {pddlvm.__version__}, nuts", "training included", ready, seconds, draws)
    # Draws are taken from chains at random: their own number says how many they are worth.
    return row | {"effective_per_s": float(found.diagnostics.bulk_size.min()) / seconds}


def neural(data: Data, n_simulations: int, n_draws: int, seed: int = 0) -> dict[str, Any]:
    """Neural posterior estimation (NPE) by sbi, until its own rule stops it."""
    import sbi
    from sbi.inference import NPE

    problem, start = data.case.problem, time.perf_counter()
    torch.manual_seed(seed)
    z = problem.prior.sample((n_simulations,), seed=seed)
    y = [data.sensors.simulate(problem.solve(part), seed=i) for i, part in enumerate(z.split(500))]
    prior = torch.distributions.MultivariateNormal(
        torch.zeros(problem.n_parameters), torch.eye(problem.n_parameters)
    )
    trainer = NPE(prior=prior)
    xi = problem.prior.standardise(z).float()
    trainer.append_simulations(xi, torch.cat(y).float()).train()
    density = trainer.build_posterior()
    ready = time.perf_counter() - start
    start = time.perf_counter()
    draws = density.sample((n_draws,), x=data.y.float(), show_progress_bars=False)
    seconds = time.perf_counter() - start
    found = problem.prior.unstandardise(draws.double()).unflatten(0, (16, -1))
    who, setting = f"sbi {sbi.__version__}, NPE", f"{n_simulations} solutions"
    return data.row(who, setting, ready, seconds, found)


def metropolis(data: Data, n_warmup: int, n_draws: int, seed: int = 0) -> dict[str, Any]:
    """Preconditioned Crank-Nicolson (pCN) by CUQIpy, on finite element solutions."""
    from cuqi.experimental.mcmc import PCN

    return _chains(data, "pCN", lambda target: PCN(target), n_warmup, n_draws, seed)


def no_u_turn(data: Data, n_warmup: int, n_draws: int, seed: int = 0) -> dict[str, Any]:
    """The no-U-turn sampler by CUQIpy, with gradients by adjoint finite element solutions."""
    from cuqi.experimental.mcmc import NUTS

    return _chains(data, "NUTS", lambda target: NUTS(target), n_warmup, n_draws, seed)


def _chains(
    data: Data,
    name: str,
    sampler_of: Callable[[Any], Any],
    n_warmup: int,
    n_draws: int,
    seed: int,
) -> dict[str, Any]:
    import cuqi

    problem, sensors = data.case.problem, data.sensors
    d, n = problem.n_parameters, len(data.y)

    def forward(x: np.ndarray) -> np.ndarray:
        xi = torch.from_numpy(np.asarray(x, dtype=np.float64))
        if xi.abs().max() > FAR:
            return np.full(n, _REJECTED)
        return sensors.apply(problem.solve(problem.prior.unstandardise(xi))).numpy()

    def gradient(direction: np.ndarray, x: np.ndarray) -> np.ndarray:
        xi = torch.from_numpy(np.asarray(x, dtype=np.float64)).requires_grad_()
        if xi.detach().abs().max() > FAR:
            return np.zeros(d)
        with torch.enable_grad():
            value = sensors.apply(problem.solve(problem.prior.unstandardise(xi)))
            total = value @ torch.from_numpy(np.asarray(direction, dtype=np.float64))
            return torch.autograd.grad(total, xi)[0].numpy()

    np.random.seed(seed)  # noqa: NPY002 (that is what CUQIpy draws from)
    x = cuqi.distribution.Gaussian(np.zeros(d), 1.0)
    of_x = cuqi.model.Model(forward, range_geometry=n, domain_geometry=d, gradient=gradient)
    y = cuqi.distribution.Gaussian(of_x(x), data.noise_std**2)
    target = cuqi.distribution.JointDistribution(x, y)(y=data.y.numpy())
    sampler, start = sampler_of(target), time.perf_counter()
    sampler.warmup(n_warmup)
    ready = time.perf_counter() - start
    start = time.perf_counter()
    sampler.sample(n_draws)
    seconds = time.perf_counter() - start
    xi = torch.from_numpy(sampler.get_samples().samples.T[-n_draws:].copy())
    draws = problem.prior.unstandardise(xi)[None]
    who, setting = f"CUQIpy {cuqi.__version__}, {name}", f"{n_warmup} + {n_draws} steps"
    return data.row(who, setting, ready, seconds, draws)
