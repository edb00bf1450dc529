"""Laplace approximations of any number of data sets: in chunks that fit, side by side."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.parallel import Watch, nobody
from pddlvm.inference.basins import N_BETWEEN
from pddlvm.inference.laplace import Laplace, laplace
from pddlvm.inference.modes import N_STARTS, starts
from pddlvm.inference.resumed import Kept, parts_of
from pddlvm.latent.surrogate import Surrogate
from pddlvm.sampling.coordinates import Coordinates

__all__ = ["search"]

_MOST = 2**23
"""Numbers of an array that is held at a time."""


def search(
    surrogate: Surrogate, y: Tensor, watch: Watch = nobody, kept: Kept | None = None
) -> Laplace:
    """Laplace approximations of data sets, from several starts each.

    Args:
        surrogate: predicts the data.
        y: (batch, n), float64; NaN where nothing was measured.
        watch: told which share is done.
        kept: where what was found is kept, if anywhere.
    """
    per_value = 1 + surrogate.prior.size + N_BETWEEN
    per_set = (1 + N_STARTS) * y.shape[1] * per_value + surrogate.observation.problem.n_dofs
    chunks = y.split(max(1, _MOST // per_set))
    found = parts_of(
        (kept, "searches"),
        _of_chunk,
        surrogate,
        chunks,
        pack=_packed,
        unpack=partial(_unpacked, surrogate),
        what=_in_words,
        watch=watch,
        same=(surrogate.prior,),
    )
    return _joined(found)


def _packed(found: Laplace) -> list[Any]:
    modes, *rest = vars(found).values()
    return [modes.centre, modes.factor, *rest]


def _unpacked(surrogate: Surrogate, centre: Tensor, factor: Tensor, *rest: Any) -> Laplace:
    return Laplace(Coordinates(surrogate.prior, centre, factor), *rest)


def _of_chunk(surrogate: Surrogate, y: Tensor, watch: Watch) -> Laplace:
    return laplace(surrogate, y, starts(surrogate, y))


def _in_words(y: Tensor) -> str:
    return f"a chunk of {len(y)} data sets"


def _joined(parts: list[Laplace]) -> Laplace:
    if len(parts) == 1:
        return parts[0]
    n_modes = max(len(part.masses) for part in parts)

    def padded(x: Tensor) -> Tensor:
        """Modes that a chunk has not are its first ones, without mass."""
        return torch.cat([x, x[:1].expand(n_modes - len(x), *x.shape[1:])])

    def whole(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    masses = [torch.cat([p.masses, p.masses.new_zeros(n_modes, p.masses.shape[1])]) for p in parts]
    return Laplace(
        modes=Coordinates(
            parts[0].modes.prior,
            torch.cat([padded(part.modes.centre) for part in parts], dim=1),
            torch.cat([padded(part.modes.factor) for part in parts], dim=1),
        ),
        masses=torch.cat([mass[:n_modes] for mass in masses], dim=1),
        iterations=max(part.iterations for part in parts),
        converged=whole("converged"),
        misfit=whole("misfit"),
        degrees=whole("degrees"),
        n_seen=whole("n_seen"),
    )
