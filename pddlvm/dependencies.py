"""Dependencies that change what belongs to the user when they are imported: it is set back.

meshio moves Python's random numbers, zuko and pyro set whether `torch.distributions` validates.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from torch.distributions import Distribution

__all__ = ["unchanged"]


@contextmanager
def unchanged() -> Iterator[None]:
    """Inside, Python's random numbers and the validation of distributions may change."""
    numbers, validates = random.getstate(), Distribution._validate_args
    try:
        yield
    finally:
        random.setstate(numbers)
        Distribution.set_default_validate_args(validates)


with unchanged():
    for _name in ("meshio", "pyro.distributions", "zuko"):
        import_module(_name)
