"""`pddlvm explore`: a run as a page, where it listens, and who may ask."""

import re
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from line_run import line_run
from until_ctrl_c import until_ctrl_c


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return line_run(tmp_path_factory.mktemp("run") / "line")


@contextmanager
def exploring(run: Path, *options: str):
    with until_ctrl_c("explore", run, "--no-browser", "--port", "0", *options) as process:
        assert process.stdout is not None
        found = re.fullmatch(r"(http://\S+) \(Ctrl-C ends it\)\n", process.stdout.readline())
        assert found
        yield found[1]


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_a_run_is_a_page_of_this_machine(run: Path):
    with exploring(run) as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        assert status(url) == 200


@pytest.mark.slow
def test_other_machines_need_a_token(run: Path):
    with exploring(run, "--host", "0.0.0.0") as url:
        page, token = url.split("?token=")
        assert len(token) > 20
        assert status(page) == 403 and status(url) == 200
