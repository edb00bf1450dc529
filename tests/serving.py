"""A server of functions in a thread, on a port of its own."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from pddlvm.basics.http_server import Server
from pddlvm.umbridge.protocol import respond
from pddlvm.umbridge.served import Served


@contextmanager
def serving(functions: Sequence[Served]) -> Iterator[str]:
    """Its URL, while it answers."""
    with Server(partial(respond, functions), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()
