"""The page over HTTP: who may ask, what leaves the disk, and what hostile requests come to."""

import json
import re
import struct
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import pddlvm.explorer
from pddlvm.basics.http_server import Request, Server
from pddlvm.explorer.site import Site

PAGE = Path(pddlvm.explorer.__file__).parent / "page"
HERE = {"host": "127.0.0.1:8050", "x-pddlvm": ""}


@pytest.fixture(scope="module")
def site(plane):
    return Site(plane, hosts=("127.0.0.1", "localhost"))


def post(site, question, given, **headers):
    body = given if isinstance(given, bytes) else json.dumps(given).encode()
    return site.respond(Request("POST", f"/api/{question}", {**HERE, **headers}, body))


def get(site, path, **headers):
    return site.respond(Request("GET", path, {**HERE, **headers}, b""))


def decoded(body):
    (n,) = struct.unpack("<I", body[:4])
    head, at, arrays = json.loads(body[4 : 4 + n]), 4 + n, {}
    for name, size in head["arrays"]:
        arrays[name] = np.frombuffer(body, "<f4", size, at)
        at += 4 * size
    assert at == len(body)
    return head, arrays


def test_files_of_the_page_are_all_that_is_served(site):
    names = {path.name for path in PAGE.iterdir()}
    assert names == {name[1:] for name in site._files if name != "/"}
    for name in names:
        assert get(site, f"/{name}").body == (PAGE / name).read_bytes()
    assert get(site, "/?token=x#y").body == (PAGE / "index.html").read_bytes()


def test_the_page_asks_nobody_else():
    """All it loads are its own files; addresses of others are names of formats alone."""
    for path in PAGE.iterdir():
        found = set(re.findall(r"https?://[\w./-]+", path.read_text(encoding="utf-8")))
        assert found <= {"http://www.w3.org/2000/svg"}, path.name


def test_nothing_of_a_model_becomes_html_and_nothing_is_evaluated():
    code = "".join(path.read_text(encoding="utf-8") for path in PAGE.glob("*.js"))
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function("):
        assert way not in code, way
    assert "onclick" not in (PAGE / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path",
    [
        "/../session.py", "/page/../../../x.toml", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
        "/index.html/../../site.py", "/file:///etc/passwd", "/api/scene", "/" + "a" * 10**6,
        "/\x00",
    ],
)  # fmt: skip
def test_paths_reach_no_other_file(site, path):
    assert get(site, path).status == 404


def test_answers_are_what_the_session_says(site, plane, given):
    head, arrays = decoded(post(site, "answer", given(plane)).body)
    expected = plane.answer(plane.read(given(plane)))
    assert np.array_equal(arrays["values"], expected.arrays["values"].astype("<f4"))
    assert head["verdict"] == expected.head["verdict"]
    head, arrays = decoded(post(site, "scene", None).body)
    assert head["title"] == "<img src=x onerror=alert(1)>" and set(arrays) == {
        "points", "cells", "owners",
    }  # fmt: skip
    assert decoded(post(site, "draw", 7).body)[0]["z"] == plane.draw(7).head["z"]


@pytest.mark.parametrize("question", ["answer", "bound", "posterior", "solve", "draw", "load"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 200_000,
        b"\xff\xfe",
        b'"' + b"x" * 10**6 + b'"',
        b'{"view": "' + b"<b>" * 10**6 + b'"}',
        b"1" * 10**6,
        b'{"z": 1e999}',
        b'{"__proto__": {"x": 1}}',
    ],
)
def test_hostile_questions_are_refused_in_plain_words(site, question, body):
    found = post(site, question, body)
    assert found.status in (400, 422)
    assert found.content_type.startswith("text/plain") and len(found.body) < 3000


def test_other_pages_cannot_ask(site, given, plane):
    body = json.dumps(given(plane)).encode()
    without = {"host": "127.0.0.1:8050", "content-type": "text/plain"}
    assert site.respond(Request("POST", "/api/answer", without, body)).status == 403
    for host in ("evil.example", "evil.example:8050", "", "127.0.0.1.evil.example:8050"):
        assert post(site, "answer", given(plane), host=host).status == 403
        assert get(site, "/", host=host).status == 403
    assert post(site, "answer", given(plane), host="localhost").status == 200
    policy = get(site, "/").headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy and "unsafe" not in policy


def test_a_token_is_needed_where_there_is_one(plane, given):
    site = Site(plane, token="secret")
    assert get(site, "/").status == 403 and get(site, "/?token=Secret").status == 403
    assert get(site, "/?token=secret", host="any:1").status == 200
    assert post(site, "answer", given(plane)).status == 403
    assert post(site, "answer", given(plane), **{"x-pddlvm": "wrong"}).status == 403
    assert post(site, "answer", given(plane), **{"x-pddlvm": "secret"}).status == 200


def test_there_is_no_other_question(site):
    for name in ("", "respond", "__class__", "answer/", "../scene"):
        assert post(site, name, {}).status == 404


def test_by_the_network(site):
    with Server(site.respond, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with urllib.request.urlopen(f"{server.url}/page.js", timeout=30) as answer:
                assert answer.headers["Content-Type"].startswith("text/javascript")
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
            asked = urllib.request.Request(
                f"{server.url}/api/draw", b"7", {"X-Pddlvm": "", "Origin": "http://evil.example"}
            )
            with urllib.request.urlopen(asked, timeout=30) as answer:
                assert "Access-Control-Allow-Origin" not in answer.headers
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{server.url}/nothing", timeout=30)
        finally:
            server.shutdown()
            thread.join()
