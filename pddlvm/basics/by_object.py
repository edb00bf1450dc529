"""What is known of objects for as long as somebody else holds them."""

from typing import Any, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["ByObject"]

K = TypeVar("K")
V = TypeVar("V")


class ByObject(WeakKeyDictionary[K, V]):
    """Values by object, forgotten with it; unlike its base it can be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ByObject, (list(self.items()),)
