"""The page of a session over HTTP: its files, and questions.

    GET    /  and the files of the page             POST   /api/scene, draw, load, answer, bound,
                                                           posterior, solve      JSON -> `Message`

Who may ask: a browser that was given the token, where there is one; by the name of this machine, so
that no other page's name leads here (DNS rebinding); and with a header that forms and other pages
cannot send. The files are read once, when the server starts: a path of a browser never reaches the
disk. What the page may load and run is its own files alone (Content-Security-Policy).
"""

import hmac
import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pddlvm.basics.errors import ConvergenceError, InputError, NonFiniteError
from pddlvm.basics.http_server import Request, Response
from pddlvm.explorer.message import Message
from pddlvm.explorer.session import Session

__all__ = ["Site"]

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "page.js": "text/javascript; charset=utf-8",
    "picture.js": "text/javascript; charset=utf-8",
    "curve.js": "text/javascript; charset=utf-8",
    "surface.js": "text/javascript; charset=utf-8",
    "colours.js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MARK = "x-pddlvm"
_FAILURES = (InputError, ConvergenceError, NonFiniteError)


class Site:
    """What a browser is answered.

    Args:
        session: answers.
        token: that each question needs, or none.
        hosts: names by which this machine may be asked; any where there is none.
    """

    def __init__(self, session: Session, token: str = "", hosts: tuple[str, ...] = ()) -> None:
        self._token, self._hosts = token, hosts
        self._files = {f"/{name}": (_content(name), kind) for name, kind in _TYPES.items()}
        self._files["/"] = self._files["/index.html"]
        read = session.read
        self._questions: dict[str, Callable[[Any], Message]] = {
            "/api/scene": lambda given: session.scene(),
            "/api/draw": session.draw,
            "/api/load": session.load,
            "/api/answer": lambda given: session.answer(read(given)),
            "/api/bound": lambda given: session.bound(read(given)),
            "/api/posterior": lambda given: session.posterior(read(given)),
            "/api/solve": lambda given: session.solve(read(given)),
        }

    def respond(self, request: Request) -> Response:
        """The answer to a request."""
        if self._hosts and _name(request.headers.get("host", "")) not in self._hosts:
            return _text(403, "ask by the address that the program has written")
        url = urlsplit(request.path)
        if request.method == "GET":
            return self._file(url.path, parse_qs(url.query).get("token", [""])[0])
        return self._question(url.path, request)

    def _file(self, path: str, token: str) -> Response:
        if path == "/" and not self._is_allowed(token):
            return _text(403, "this page needs the token that the program has written")
        if path not in self._files:
            return _text(404, "there is no such page")
        content, kind = self._files[path]
        return Response(200, content, kind, _HEADERS)

    def _question(self, path: str, request: Request) -> Response:
        if _MARK not in request.headers or not self._is_allowed(request.headers[_MARK]):
            return _text(403, "only the page itself may ask")
        if path not in self._questions:
            return _text(404, "there is no such question")
        try:
            given = json.loads(request.body)
        except (ValueError, RecursionError):
            return _text(400, "the question is not JSON")
        try:
            found = self._questions[path](given)
        except _FAILURES as error:
            # Shown as a text, and never as HTML.
            return _text(422, str(error))
        return Response(200, found.encode(), "application/octet-stream", _HEADERS)

    def _is_allowed(self, token: str) -> bool:
        return not self._token or hmac.compare_digest(token.encode(), self._token.encode())


def _name(host: str) -> str:
    """Without the port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _text(status: int, said: str) -> Response:
    return Response(status, f"{said}\n".encode(), "text/plain; charset=utf-8", _HEADERS)


@cache
def _content(name: str) -> bytes:
    return files("pddlvm.explorer").joinpath("page", name).read_bytes()
