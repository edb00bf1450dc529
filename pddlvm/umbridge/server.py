"""An HTTP server of functions for any number of clients at once, each in a thread of its own.

It is a few lines of the standard library, where the server of the package `umbridge` always listens
to all networks and answers what is not of the protocol by a traceback.
"""

import errno
import json
import socketserver
import sys
import traceback
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

from pddlvm.basics.errors import InputError
from pddlvm.umbridge.protocol import Answer, answer
from pddlvm.umbridge.served import Served

__all__ = ["MAX_BYTES", "Server"]

MAX_BYTES = 2**26
"""Of a request."""
_SECONDS = 120.0
"""That a client may be silent."""


class Server(socketserver.ThreadingMixIn, HTTPServer):
    """Listens from when it is made; `serve_forever` answers.

    Args:
        functions: what is served.
        host: name or address to listen at.
        port: of the host; 0 for one that is free.

    Attributes:
        functions: what is served.

    Raises:
        InputError: the port is in use, or not allowed; there is no such host.
    """

    daemon_threads = True

    def __init__(self, functions: Sequence[Served], host: str, port: int) -> None:
        self.functions = tuple(functions)
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


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = _SECONDS
    # Head and body of an answer leave together: apart, the second waits for a client's word.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._write(answer(self.server.functions, "GET", self.path, b""))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        is_number = length.isascii() and length.isdigit() and len(length) < 20
        if not (is_number and int(length) <= MAX_BYTES):
            self.close_connection = True
            message = f"a request needs its length, at most {MAX_BYTES} bytes"
            self._write(Answer(411, {"error": {"type": "InvalidInput", "message": message}}))
            return
        body = self.rfile.read(int(length))
        try:
            found = answer(self.server.functions, "POST", self.path, body)
        except Exception:
            # The fault is ours: it is for who runs the server to read.
            traceback.print_exc(file=sys.stderr)
            found = Answer(500, {"error": {"type": "InternalError", "message": "see the server"}})
        self._write(found)

    def _write(self, found: Answer) -> None:
        content = json.dumps(found.content, allow_nan=False).encode()
        self.send_response(found.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None:
        """Nothing is said of each request: there are thousands."""
