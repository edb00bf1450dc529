"""What the page gets: a JSON object, and arrays of single precision behind it.

    length of the JSON (4 bytes, little endian)    JSON, padded to 4 bytes    float32 ... float32

The object has for each array its name and length under `arrays`, in their order.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Message", "finite"]


@dataclass(frozen=True)
class Message:
    """Attributes: what the JSON says, and arrays by name."""

    head: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As bytes."""
        parts = {name: np.ascontiguousarray(a, dtype="<f4") for name, a in self.arrays.items()}
        head = {**self.head, "arrays": [[name, int(a.size)] for name, a in parts.items()]}
        text = json.dumps(head, allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        return b"".join(
            [struct.pack("<I", len(text)), text, *(a.tobytes() for a in parts.values())]
        )


def finite(value: Any) -> float | None:
    """A number as JSON has it: None where it is not finite."""
    number = float(value)
    return number if np.isfinite(number) else None
