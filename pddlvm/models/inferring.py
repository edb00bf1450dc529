"""What all final models can do beside their maps: inference, and files."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pddlvm.amortized.amortized import NO_GAPS, Amortized
from pddlvm.amortized.families import Family
from pddlvm.amortized.kept import ANYTHING, KeptDensity
from pddlvm.amortized.stored import load_amortized
from pddlvm.amortized.train import amortize
from pddlvm.basics.by_object import ByObject
from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import InputError
from pddlvm.basics.grad_mode import with_gradients
from pddlvm.inference.assimilation import Stream, assimilate
from pddlvm.inference.density import Density
from pddlvm.inference.methods import Method, infer
from pddlvm.inference.posterior import Posterior
from pddlvm.inference.whole_field import inverse_of_noisy
from pddlvm.latent.core import LatentModel
from pddlvm.latent.inverse import Inverse
from pddlvm.latent.saved import save
from pddlvm.latent.signature import checksum
from pddlvm.results.vtu import write_pvd, write_vtu
from pddlvm.results.xdmf import write_xdmf
from pddlvm.sensors.observation import Observation, PointObservation
from pddlvm.training.checkpoints import Checkpoints
from pddlvm.training.fit import Budget

__all__ = ["InferringModel"]


class InferringModel(LatentModel):
    """A model with `infer`, `amortize`, `save`, `to_vtu`, `to_pvd` and `to_xdmf`."""

    @with_gradients
    def infer(
        self,
        y: Tensor,
        observation: Observation,
        method: Method = "laplace",
        *,
        n_samples: int = 1000,
        n_chains: int = 4,
        seed: int = 0,
        progress: bool = False,
        checkpoints: Checkpoints | None = None,
        resume: bool = False,
    ) -> Posterior:
        """Posterior of the parameters from noisy, partial data.

        Args:
            y: data, (..., n); NaN where nothing was measured.
            observation: sensors and noise, of the problem of this model.
            method:
                "laplace": Gauss-Newton on the corrected map, then a Gaussian: milliseconds.
                "amortized": a network that was trained for these sensors by `amortize`, or is, on
                    first use; then any data take a millisecond.
                "variational": the best Gaussian, by the ELBO on the corrected map; where it is not
                    the posterior, one of its mean and covariance, by weighted draws.
                "nuts": no-U-turn sampling of the corrected map.
                "exact": Markov chains on the finite element likelihood.
            n_samples: draws of "nuts" and "exact", all chains together.
            n_chains: Markov chains of "nuts" and "exact".
            seed: of everything random.
            progress: show a progress bar, as `train` does; of "exact" by data sets.
            checkpoints: where to keep what was found, every so many seconds: data sets, of
                "laplace" chunks of them, and the solves of chains of "exact". All files stay.
            resume: go on with the job in the folder of `checkpoints`, if there is one.

        Returns:
            `.mean`, `.std`, `.sample`, `.quantiles`, `.log_prob`, `.solution()`, `.diagnostics`,
            `.check()`, `.to_arviz()`.

        Raises:
            InputError: data of the wrong length, an observation of another problem, no such method;
                checkpoints of another job, or of one that `resume` does not go on with.
            RunFileError: the folder of the checkpoints is in use, or cannot be written to.
            ConvergenceError: predictions are not finite where the data lead, or nowhere.
        """
        return infer(
            self,
            y,
            observation,
            method,
            self._by_network,
            n_samples=n_samples,
            n_chains=n_chains,
            seed=seed,
            progress=progress,
            checkpoints=checkpoints,
            resume=resume,
        )

    @with_gradients
    def assimilate(self, stream: Stream, observation: PointObservation) -> Iterator[Posterior]:
        """Posteriors by "laplace" of data that arrive one time after the other, one each time.

        Args:
            stream: pairs of a time and of the values of all sensors then, (..., n_points) with NaN
                where one has none, in the order of time; times may be left out.
            observation: sensors with all times that may come, of the problem of this model.

        Yields:
            After each arrival what `infer` gives for all data so far; its y has NaN for what has
            not come. Each begins at the modes of the one before. Before anything was measured it
            is the prior, as "laplace" sees it.

        Raises:
            InputError: sensors without times, of another problem; while it is read, values of the
                wrong length, a time that comes twice, too early, or is none of the observation's.
            ConvergenceError: predictions are not finite where the data lead.
        """
        return assimilate(self, stream, observation, self._by_network)

    def _by_network(self, observation: Observation, y: Tensor) -> Density:
        kept = self.amortized.get(observation)
        if torch.isnan(y).any() and not (kept and kept.density.context.gaps):
            raise InputError(NO_GAPS)
        return self.amortize(observation).resampled(y)

    @with_gradients
    def amortize(
        self,
        observation: Observation,
        family: Callable[[int, int], Family] | None = None,
        *,
        max_seconds: float | None = None,
        max_steps: int | None = None,
        seed: int = 0,
        gaps: float = 0.0,
    ) -> Amortized:
        """Train a density of z given data of these sensors, without solving the PDE.

        The result serves `infer(..., method="amortized")`. Asked again with the same limits and
        seed, or with those by default, it is returned as it is, unless the model has changed since.

        Args:
            observation: sensors and noise.
            family: `Flow` by default; `Full`, `Diagonal` are faster. Given, it is trained anew.
            max_seconds: wall-clock limit of the training, a minute where no limit is given.
            max_steps: limit on all optimiser steps, at least one a part; alone it is repeatable.
            seed: of the weights and draws.
            gaps: largest share of the values that will be missing (NaN), in [0, 1): for data with
                gaps, or of a number of sensors that changes. It is trained on random gaps up to it.

        Raises:
            InputError, ConvergenceError, NonFiniteError: an observation of another problem, a limit
                of nothing, a share out of range; predictions, or the training, are not finite.
        """
        check_kind(Observation, observation=observation)
        check_kind(Callable | None, family=family)  # type: ignore[arg-type]
        budget = Budget.of(max_seconds, max_steps, default=60.0)
        asked, weights = (max_seconds, max_steps, seed, gaps), checksum(self)
        kept = self.amortized.get(observation)
        if family is not None or kept is None or not kept.serves(weights, asked):
            density = amortize(self, observation, family, budget, seed, gaps)
            kept = self.amortized[observation] = KeptDensity(density, weights, asked)
        return kept.density

    def load_amortized(self, path: str | Path, observation: Observation) -> Amortized:
        """Read what `Amortized.save` wrote; `infer(..., method="amortized")` takes it from then on.

        Args:
            path: the file.
            observation: sensors and noise that it was trained for.

        Raises:
            RunFileError: no such file, damaged, or trained for another model, sensors or noise.
            InputError: an observation of another problem.
        """
        check_kind(Observation, observation=observation)
        kept = KeptDensity(load_amortized(self, path, observation), checksum(self), ANYTHING)
        self.amortized[observation] = kept
        return kept.density

    @cached_property
    def amortized(self) -> ByObject[Observation, KeptDensity]:
        """What `amortize` trained, by observation, and what it was made of."""
        return ByObject()

    def save(self, path: str | Path) -> None:
        """Write the model to a file that `pddlvm.load` reads; replaces it in one step."""
        save(self, path)

    def to_vtu(self, path: str | Path, z: Tensor, *, n_samples: int = 0, seed: int = 0) -> None:
        """Write mean, std, draws and fields to a file; see `pddlvm.results.vtu.write_vtu`."""
        write_vtu(self, path, z, n_samples=n_samples, seed=seed)

    def to_pvd(
        self,
        path: str | Path,
        z: Tensor,
        *,
        times: "ArrayLike | Tensor | None" = None,
        n_samples: int = 0,
        seed: int = 0,
    ) -> None:
        """Write a sweep, or the time series of one z; see `pddlvm.results.vtu.write_pvd`."""
        write_pvd(self, path, z, times=times, n_samples=n_samples, seed=seed)

    def to_xdmf(
        self,
        path: str | Path,
        z: Tensor,
        *,
        times: "ArrayLike | Tensor | None" = None,
        n_samples: int = 0,
        seed: int = 0,
    ) -> None:
        """Write the time series of one z to one file; see `pddlvm.results.xdmf.write_xdmf`."""
        write_xdmf(self, path, z, times=times, n_samples=n_samples, seed=seed)

    def _inverse_of_noisy(
        self, u: Tensor, noise_std: float | Tensor, z_known: dict[str, Tensor] | None
    ) -> Inverse:
        return inverse_of_noisy(self, u, noise_std, z_known)
