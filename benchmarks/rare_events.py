"""A probability of 1e-4 on the default 2D problem: do intervals by 50 solves hold it?

Run:  python -m benchmarks.rare_events [--repeats 20] [--reference 20000] [--seconds 60]

The quantity is the mean of u over the right half. The value that repeats are compared with is that
of many finite element solutions without a surrogate in it: importance sampling alone, draws of the
same density near the event, each of them solved.
"""

import argparse
import time

import torch

import pddlvm
from benchmarks.run import table
from pddlvm.decisions.answers import Answers
from pddlvm.decisions.cross_entropy import Mixture, most_likely
from problems import poisson

RARE = 1e-4


def reference(
    model: pddlvm.LatentVariableModel, quantity: pddlvm.Quantity, value: float, n: int
) -> tuple[float, float]:
    """P(q > value) by n solutions, and its standard error."""
    prior, answers = model.problem.prior, Answers(model, quantity)
    generator = torch.Generator().manual_seed(123)

    def margin(eta: torch.Tensor) -> torch.Tensor:
        return answers(prior.from_normal(eta))[:, 0] - value

    start = Mixture.standard(prior.size)
    mixture = most_likely(margin, 1e-3 * abs(value), start, generator).with_wider()
    eta = mixture.sample(n, generator)
    z = prior.unstandardise(prior.from_normal(eta))
    values = torch.cat([quantity(model.problem.solve(part)) for part in z.split(1000)])[:, 0]
    w = mixture.log_weight(eta).exp() * (values > value)
    return float(w.mean()), float(w.std()) / n**0.5


def main() -> None:
    """One table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--reference", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="training time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = poisson.make()
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_seconds=options.seconds)
    half = pddlvm.average_matrix(problem, [lambda x: x[:, 0] > 0.5])
    quantity = pddlvm.Quantity(problem, half, "mean of the right half")
    values = pddlvm.propagate(model, quantity, 500_000).values[:, 0]
    value = float(values.kthvalue(round((1 - RARE) * len(values))).values)
    exact, error = reference(model, quantity, value, options.reference)
    rows, held = [], 0
    for seed in range(options.repeats):
        start = time.perf_counter()
        found = pddlvm.rare_event(model, quantity, value, seed=seed)
        low, high = found.interval()
        # The reference has an error of its own.
        held += low - 2 * error <= exact <= high + 2 * error
        rows.append(
            {
                "seed": seed,
                "probability": found.probability,
                "surrogate": found.surrogate_probability,
                "low": low,
                "high": high,
                "strictly": low <= exact <= high,
                "seconds": time.perf_counter() - start,
            }
        )
    table(f"P(q > {value:.4g}): {exact:.4g} +- {error:.1g} by {options.reference} solves", rows)
    print(f"{held} of {options.repeats} intervals of 95 % hold it")


if __name__ == "__main__":
    main()
