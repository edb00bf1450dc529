"""No-U-turn sampling of a surrogate density by Pyro, chain after chain."""

import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pddlvm.inference.target import Target
from pddlvm.random import seeded

__all__ = ["nuts"]


_N_WARMUP = 50


def nuts(target: Target, start: Tensor, step: float, n_draws: int, seed: int) -> Tensor:
    """Draws of w, (n_chains, n_draws, d).

    Args:
        target: a density whose coordinates are about standard.
        start: draws of it, one for each chain, (n_chains, d).
        step: size to begin with.
        n_draws: per chain.
        seed: of everything random.
    """

    def potential(parameters: dict[str, Tensor]) -> Tensor:
        return -target.value(parameters["w"][None])[0]

    found = []
    with seeded(seed):
        for w in start:
            kernel = NUTS(potential_fn=potential, adapt_mass_matrix=False, step_size=step)
            chain = MCMC(
                kernel,
                num_samples=n_draws,
                warmup_steps=_N_WARMUP,
                initial_params={"w": w},
                disable_progbar=True,
            )
            chain.run()
            found.append(chain.get_samples()["w"])
    return torch.stack(found)
