"""UM-Bridge, version 1.0: what a client asks of functions by HTTP, and what it is answered.

    GET   /Info                                        {"protocolVersion": 1.0, "models": [name]}
    POST  /ModelInfo       name                        {"support": {"Evaluate": true, ...}}
          /InputSizes      name, config                {"inputSizes": [d]}
          /OutputSizes     name, config                {"outputSizes": [m]}
          /Evaluate        name, input, config         {"output": [F(z)]}
          /Gradient        ..., outWrt, inWrt, sens    {"output": s^T dF/dz}
          /ApplyJacobian   ..., outWrt, inWrt, vec     {"output": dF/dz v}

A refusal is {"error": {"type": ..., "message": ...}}. (L. Seelinger et al., J. Open Source Softw.
8, 2023, and the documentation of the protocol.)
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.errors import ConvergenceError, InputError
from pddlvm.basics.http_server import Request, Response
from pddlvm.umbridge.served import Served

__all__ = ["Answer", "answer", "respond"]

_OK, _BAD, _NOT_FOUND, _FAILED = 200, 400, 404, 500
_DERIVATIVES = ("Gradient", "ApplyJacobian")


@dataclass(frozen=True)
class Answer:
    """The status of HTTP, and a JSON object."""

    status: int
    content: dict[str, Any]


class _RefusedError(Exception):
    """What a client asked cannot be answered: status, type and message."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def answer(functions: Sequence[Served], method: str, path: str, body: bytes) -> Answer:
    """What a client is answered.

    Args:
        functions: what is served.
        method: of HTTP, GET or POST.
        path: what is asked.
        body: JSON, of a POST.
    """
    try:
        if (method, path) == ("GET", "/Info"):
            return Answer(_OK, {"protocolVersion": 1.0, "models": [f.name for f in functions]})
        if method != "POST" or path not in _PATHS:
            raise _RefusedError(_NOT_FOUND, "NotFound", "there is no such path")
        asked = _object(body)
        return Answer(_OK, _PATHS[path](_function(functions, asked), asked))
    except _RefusedError as error:
        return _refusal(error.status, error.kind, str(error))
    except InputError as error:
        return _refusal(_BAD, "InvalidInput", str(error))
    except ConvergenceError as error:
        return _refusal(_FAILED, "InvalidOutput", str(error))


def respond(functions: Sequence[Served], request: Request) -> Response:
    """The same as HTTP."""
    found = answer(functions, request.method, request.path, request.body)
    body = json.dumps(found.content, allow_nan=False).encode()
    return Response(found.status, body, "application/json")


def _refusal(status: int, kind: str, message: str) -> Answer:
    return Answer(status, {"error": {"type": kind, "message": message}})


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(_BAD, "InvalidInput", "the request is not JSON") from error
    if not isinstance(found, dict):
        raise _RefusedError(_BAD, "InvalidInput", "the request must be a JSON object")
    return found


def _function(functions: Sequence[Served], asked: dict[str, Any]) -> Served:
    found = [f for f in functions if f.name == asked.get("name")]
    if not found:
        names = ", ".join(f.name for f in functions)
        raise _RefusedError(_BAD, "ModelNotFound", f"there is no such model; there are: {names}")
    return found[0]


def _support(function: Served, asked: dict[str, Any]) -> dict[str, Any]:
    offered = dict.fromkeys(_DERIVATIVES, function.has_derivatives)
    return {"support": {"Evaluate": True, **offered, "ApplyHessian": False}}


def _input_sizes(function: Served, asked: dict[str, Any]) -> dict[str, Any]:
    return {"inputSizes": [function.n_inputs]}


def _output_sizes(function: Served, asked: dict[str, Any]) -> dict[str, Any]:
    return {"outputSizes": [function.n_outputs]}


def _evaluate(function: Served, asked: dict[str, Any]) -> dict[str, Any]:
    return {"output": [_finite(function.evaluate(_z(function, asked), _config(asked)))]}


def _gradient(function: Served, asked: dict[str, Any]) -> dict[str, Any]:
    z = _differentiated(function, asked)
    weights = _numbers(asked.get("sens"), "sens", function.n_outputs)
    return {"output": _finite(function.gradient(z, weights, _config(asked)))}


def _jacobian(function: Served, asked: dict[str, Any]) -> dict[str, Any]:
    z = _differentiated(function, asked)
    vector = _numbers(asked.get("vec"), "vec", function.n_inputs)
    return {"output": _finite(function.apply_jacobian(z, vector, _config(asked)))}


_PATHS: dict[str, Callable[[Served, dict[str, Any]], dict[str, Any]]] = {
    "/ModelInfo": _support,
    "/InputSizes": _input_sizes,
    "/OutputSizes": _output_sizes,
    "/Evaluate": _evaluate,
    "/Gradient": _gradient,
    "/ApplyJacobian": _jacobian,
}


def _z(function: Served, asked: dict[str, Any]) -> Tensor:
    given = asked.get("input")
    if not isinstance(given, list) or len(given) != 1:
        n = len(given) if isinstance(given, list) else "no list"
        raise InputError(f"input must be a list of one vector, [[z_1, ...]], got {n}")
    return _numbers(given[0], "input[0]", function.n_inputs)


def _differentiated(function: Served, asked: dict[str, Any]) -> Tensor:
    if not function.has_derivatives:
        raise _RefusedError(
            _BAD,
            "UnsupportedFeature",
            f"{function.name!r} has no derivatives by z, as marches in time have none",
        )
    for name in ("outWrt", "inWrt"):
        if asked.get(name) != 0 or isinstance(asked[name], bool):
            raise InputError(f"{name} must be 0: there is one vector in, and one out")
    return _z(function, asked)


def _numbers(given: Any, name: str, n: int) -> Tensor:
    is_list = isinstance(given, list)
    if not is_list or len(given) != n:
        found = len(given) if is_list else "no list"
        raise InputError(f"{name} must be a list of {n} numbers, got {found}")
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in given):
        raise InputError(f"{name} must have numbers only")
    try:
        values = torch.tensor([float(x) for x in given], dtype=torch.float64)
    except OverflowError as error:
        raise InputError(f"{name} has a number that is too large") from error
    if not torch.isfinite(values).all():
        raise InputError(f"{name} has values that are not finite")
    return values


def _config(asked: dict[str, Any]) -> dict[str, Any]:
    found = asked.get("config", {})
    if not isinstance(found, dict):
        raise InputError("config must be a JSON object")
    return found


def _finite(values: Tensor) -> list[float]:
    if not torch.isfinite(values).all():
        raise _RefusedError(_FAILED, "InvalidOutput", "the answer is not finite")
    found: list[float] = values.tolist()
    return found
