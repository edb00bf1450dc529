"""`pddlvm explore`: a run as a page in the browser of this machine."""

import ipaddress
import secrets
import webbrowser
from typing import Annotated
from urllib.parse import quote

import typer

from pddlvm.basics.http_server import Server
from pddlvm.cli.common import OwnProblem, RunFolder
from pddlvm.explorer.session import Session
from pddlvm.explorer.site import Site
from pddlvm.runs.folder import Run

__all__ = ["explore_command"]

_PORT = 8050
_N_BYTES = 16


def explore_command(
    run: RunFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = _PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than this machine need a token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(help="That a browser must know; made where --host lets in other machines."),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    problem: OwnProblem = None,
) -> None:
    """Explore a run in the browser: parameters, fields, error bars, sensors.

    pddlvm explore runs/poisson
    """
    opened = Run.open(run)
    model = opened.model(opened.problem(problem))
    session = Session(model, opened.config.problem, str(opened.info.get("verdict", "")))
    session.prepare()
    is_here = _is_loopback(host)
    if token is None:
        token = "" if is_here else secrets.token_urlsafe(_N_BYTES)
    site = Site(session, token, ("127.0.0.1", "localhost", "[::1]", host) if is_here else ())
    with Server(site.respond, host, port) as server:
        url = f"{server.url}/" + (f"?token={quote(token)}" if token else "")
        typer.echo(f"{url} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(url)
        server.serve_forever()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
