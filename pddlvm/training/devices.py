"""Where a training runs."""

import torch

from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import InputError

__all__ = ["usable_device"]


def usable_device(device: str | torch.device, local: int | None = None) -> torch.device:
    """The device that a name means.

    Args:
        device: "auto" means a CUDA device where there is one.
        local: number of this process, where each of several takes a CUDA device of its own.

    Raises:
        InputError: there is no such device, or it cannot be used here.
    """
    check_kind(str | torch.device, device=device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if local is None:
            return torch.device(device)
    try:
        found = torch.device(device)
        if local is not None and found.type == "cuda" and found.index is None:
            # A process that is shown one device takes it, whatever its number.
            found = torch.device("cuda", local % max(1, torch.cuda.device_count()))
        # Creating a device does not say whether it is there; a copy back does.
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(
            f"device {device!r} cannot be used here ({error}); try 'auto' or 'cpu'"
        ) from error
    return found
