"""No-U-turn sampling of a surrogate density by Pyro, all chains as one.

    (w_1, ..., w_K)  ~  p(w_1) ... p(w_K)

One trajectory in the product space moves K independent posteriors at once: a batch of K gradients
costs little more than one, and the step shrinks by K^(-1/4) only.
"""

from pyro.infer import MCMC, NUTS
from torch import Tensor

from pddlvm.dependencies import unchanged
from pddlvm.inference.target import Target
from pddlvm.random import seeded

__all__ = ["nuts"]


_N_WARMUP = 50
_MAX_DEPTH = 8
"""2^8 gradients a draw at most: where that is too few, R-hat says so within reasonable time."""


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
        return -target.value(parameters["w"]).sum()

    kernel = NUTS(
        potential_fn=potential,
        adapt_mass_matrix=False,
        step_size=step,
        max_tree_depth=_MAX_DEPTH,
    )
    sampler = MCMC(
        kernel,
        num_samples=n_draws,
        warmup_steps=_N_WARMUP,
        initial_params={"w": start},
        disable_progbar=True,
    )
    with unchanged(), seeded(seed):
        sampler.run()
    draws: Tensor = sampler.get_samples()["w"]
    return draws.transpose(0, 1)
