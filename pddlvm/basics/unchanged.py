"""Answers of which a part is computed later, by a model that must be the same by then."""

from typing import Any, Generic, TypeVar

from torch import nn

from pddlvm.basics.by_object import ByObject
from pddlvm.basics.errors import StaleError

__all__ = ["Unchanged"]

M = TypeVar("M", bound=nn.Module)

_PARTS: ByObject[nn.Module, list[Any]] = ByObject()
"""Where the tensors of a module stand: each answer of a model asks, and a look takes longer."""


class Unchanged(Generic[M]):
    """A module, so long as its parameters and buffers are what they were.

    PyTorch counts the changes of a tensor in place. What is written to `.data` is not counted.

    Args:
        module: as it is now.
    """

    def __init__(self, module: M) -> None:
        self.module = module
        self._tensors = [x for part in _parts_of(module) for x in part.values() if x is not None]
        self._versions = [x._version for x in self._tensors]

    def __call__(self) -> M:
        """The module.

        Raises:
            StaleError: it has changed.
        """
        if not self.is_same:
            raise StaleError(
                "the model has changed since this answer was given (it was trained, calibrated or "
                "loaded), and a part that was not asked for until now would be that of another "
                "model; ask the model again, or read all parts before it changes"
            )
        return self.module

    @property
    def is_same(self) -> bool:
        """Is it what it was?"""
        return [x._version for x in self._tensors] == self._versions

    def __getstate__(self) -> tuple[Any, ...]:
        pairs = zip(self._tensors, self._versions, strict=True)
        return self.module, self._tensors, [x._version - was for x, was in pairs]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # Of a copy, whose tensors count anew; what had changed before stays so.
        self.module, self._tensors, changes = state
        self._versions = [x._version - n for x, n in zip(self._tensors, changes, strict=True)]


def _parts_of(module: nn.Module) -> list[Any]:
    """The dictionaries of parameters and buffers of a module, whose submodules stay the same."""
    found = _PARTS.get(module)
    if found is None:
        own = [part for each in module.modules() for part in (each._parameters, each._buffers)]
        found = _PARTS[module] = own
    return found
