"""JSON that every program reads: it has no NaN and no infinity.

{"rhat": NaN, "z": [1.0, Infinity]}  ->  {"rhat": null, "z": [1.0, null],
                                          "not_finite": {"rhat": "nan: few draws", "z[1]": "inf"}}
"""

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["strict_json"]


def strict_json(content: dict[str, Any], reasons: Mapping[str, str] | None = None) -> str:
    """A dictionary as JSON; what is not finite is null there.

    Args:
        content: names and values.
        reasons: name -> why it may not be finite, for `not_finite`, which says what it was.
    """
    lost: dict[str, str] = {}
    plain = _finite(content, "", lost)
    said = {k: f"{v}: {reasons[k]}" if reasons and k in reasons else v for k, v in lost.items()}
    return json.dumps(plain | ({"not_finite": said} if said else {}), indent=2, allow_nan=False)


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
