"""JSON that every program reads: it has no NaN and no infinity.

{"rhat": NaN, "z": [1.0, Infinity]}  ->  {"rhat": null, "z": [1.0, null],
                                          "not_finite": {"rhat": "nan", "z[1]": "inf"}}
"""

import json
import math
from typing import Any

__all__ = ["strict_json"]


def strict_json(content: dict[str, Any]) -> str:
    """A dictionary as JSON; what is not finite is null there, and `not_finite` says what it was."""
    lost: dict[str, str] = {}
    plain = _finite(content, "", lost)
    return json.dumps(plain | ({"not_finite": lost} if lost else {}), indent=2, allow_nan=False)


def _finite(value: Any, name: str, lost: dict[str, str]) -> Any:
    if isinstance(value, dict):
        dot = "." if name else ""
        return {key: _finite(part, f"{name}{dot}{key}", lost) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part, f"{name}[{i}]", lost) for i, part in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        lost[name] = str(value)
        return None
    return value
