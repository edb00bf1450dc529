"""A small HTTP server: requests in, answers out, each client in a thread of its own.

It is the standard library's, made to listen where it is told and nowhere else, to answer what is
not HTTP in words, and never by a traceback.
"""

import errno
import socketserver
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

from pddlvm.basics.errors import InputError

__all__ = ["MAX_BYTES", "Request", "Response", "Server"]

MAX_BYTES = 2**26
"""Of a request."""
_SECONDS = 120.0
"""That a client may be silent."""


@dataclass(frozen=True)
class Request:
    """What a client asks.

    Attributes:
        method: GET or POST.
        path: with what follows a question mark.
        headers: by their names in lower case.
        body: of a POST.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    """What it is answered."""

    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Server(socketserver.ThreadingMixIn, HTTPServer):
    """Listens from when it is made; `serve_forever` answers.

    Args:
        respond: what clients are answered.
        host: name or address to listen at.
        port: of the host; 0 for one that is free.

    Attributes:
        respond: what clients are answered.

    Raises:
        InputError: the port is in use, or not allowed; there is no such host.
    """

    daemon_threads = True

    def __init__(self, respond: Callable[[Request], Response], host: str, port: int) -> None:
        self.respond = respond
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise InputError(
                    f"port {port} of {host} is in use by another program; choose another one by "
                    "--port, 0 for any that is free"
                ) from error
            raise InputError(
                f"cannot listen at port {port} of {host!r} ({error.strerror or error})"
            ) from error

    def server_bind(self) -> None:
        """As of any server; that of HTTP asks the network for its own name, and may wait for it."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.port

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """What clients are given."""
        return f"http://{self.server_address[0]!s}:{self.port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves before it is answered is nobody's fault."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            traceback.print_exc(file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "pddlvm", ""
    timeout = _SECONDS
    # Head and body of an answer leave together: apart, the second waits for a client's word.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        is_number = length.isascii() and length.isdigit() and len(length) < 20
        if not (is_number and int(length) <= MAX_BYTES):
            self.close_connection = True
            said = f"a request needs its length, at most {MAX_BYTES} bytes\n"
            self._write(Response(411, said.encode(), "text/plain; charset=utf-8"))
            return
        self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            found = self.server.respond(Request(str(self.command), self.path, headers, body))
        except Exception:
            # The fault is ours: it is for who runs the server to read.
            traceback.print_exc(file=sys.stderr)
            found = Response(500, b"the server failed; it says why\n", "text/plain; charset=utf-8")
        self._write(found)

    def _write(self, found: Response) -> None:
        self.send_response(found.status)
        self.send_header("Content-Type", found.content_type)
        self.send_header("Content-Length", str(len(found.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in found.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(found.body)

    def log_message(self, format: str, *values: object) -> None:
        """Nothing is said of each request: there are thousands."""
