"""A function that another program serves by UM-Bridge, wherever that runs."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from torch import Tensor

from pddlvm.basics.checks import check_kind, check_real
from pddlvm.basics.errors import ConvergenceError, InputError

__all__ = ["RemoteModel"]

_MAX_BYTES = 2**28


class RemoteModel:
    """F: R^d -> R^m of a server.

    Args:
        url: of the server, `http://localhost:4242`.
        name: of the model there.
        config: that is sent with each request.
        timeout: seconds that an answer may take.

    Attributes:
        n_inputs: lengths of the vectors that make z, one after the other.
        n_outputs: m, of all output vectors together.
        has_gradient: does it offer Gradient? Only asked for where there is one output vector.

    Raises:
        InputError: nobody answers there, or it has no such model.
    """

    def __init__(
        self, url: str, name: str, config: Mapping[str, Any] | None = None, timeout: float = 3600.0
    ) -> None:
        check_kind(str, url=url, name=name)
        check_kind(Mapping | None, config=config)
        check_real(0, timeout=timeout)
        if urlsplit(url).scheme not in ("http", "https"):
            raise InputError(f"url must begin with http:// or https://, got {url!r}")
        self.url, self.name, self.timeout = url.rstrip("/"), name, timeout
        self.config = dict(config or {})
        known = self._ask("/Info", None).get("models")
        if not isinstance(known, list) or name not in known:
            raise InputError(f"{self.url} has no model {name!r}; it has {known}")
        of_model = {"name": name, "config": self.config}
        support = self._ask("/ModelInfo", {"name": name}).get("support")
        if not isinstance(support, dict) or not support.get("Evaluate"):
            raise InputError(f"the model {name!r} of {self.url} cannot be evaluated")
        self.n_inputs = self._sizes("/InputSizes", "inputSizes", of_model)
        outputs = self._sizes("/OutputSizes", "outputSizes", of_model)
        self.n_outputs = sum(outputs)
        self.has_gradient = bool(support.get("Gradient")) and len(outputs) == 1

    def evaluate(self, z: Tensor) -> Tensor:
        """F(z), (d,) -> (m,), float64.

        Raises:
            ConvergenceError: the server says that it failed, or answers something else.
        """
        found = self._ask("/Evaluate", self._asked(z)).get("output")
        if not isinstance(found, list) or not all(isinstance(row, list) for row in found):
            raise self._strange("/Evaluate")
        return self._numbers([x for row in found for x in row], self.n_outputs, "/Evaluate")

    def gradient(self, z: Tensor, weights: Tensor) -> Tensor:
        """s^T dF/dz, (d,), of weights s (m,), float64.

        Raises:
            ConvergenceError: the server says that it failed, or answers something else.
        """
        parts = []
        for k, size in enumerate(self.n_inputs):
            asked = {**self._asked(z), "outWrt": 0, "inWrt": k, "sens": weights.tolist()}
            found = self._ask("/Gradient", asked).get("output")
            parts.append(self._numbers(found, size, "/Gradient"))
        return torch.cat(parts)

    def _asked(self, z: Tensor) -> dict[str, Any]:
        parts = [part.tolist() for part in z.detach().double().cpu().split(self.n_inputs)]
        return {"name": self.name, "config": self.config, "input": parts}

    def _sizes(self, path: str, key: str, asked: dict[str, Any]) -> list[int]:
        found = self._ask(path, asked).get(key)
        if not isinstance(found, list) or not all(type(n) is int and n >= 0 for n in found):
            raise self._strange(path)
        return found

    def _numbers(self, found: Any, n: int, path: str) -> Tensor:
        try:
            values = torch.tensor(found, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._strange(path) from error
        if values.shape != (n,):
            raise self._strange(path)
        return values

    def _ask(self, path: str, asked: dict[str, Any] | None) -> dict[str, Any]:
        """What the server answers: by POST, or by GET where nothing is told."""
        body = None if asked is None else json.dumps(asked).encode()
        request = Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=self.timeout) as answer:
                text = answer.read(_MAX_BYTES)
        except HTTPError as error:
            text = error.read(_MAX_BYTES)
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise InputError(f"nobody answers at {self.url} ({reason}); is it running?") from error
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._strange(path) from error
        if not isinstance(found, dict):
            raise self._strange(path)
        if "error" in found:
            said = found["error"]
            said = said.get("message", said) if isinstance(said, dict) else said
            raise ConvergenceError(f"{self.url}{path} refused: {str(said)[:500]}")
        return found

    def _strange(self, path: str) -> ConvergenceError:
        return ConvergenceError(f"{self.url}{path} answered what is not of UM-Bridge")
