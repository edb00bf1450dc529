"""The watch of the tests of hostile files sees what it is there for."""

import os
import subprocess
import sys

import pytest
from watch import watched


def opens(path):
    with open(path, "w") as file:
        file.write("read me")
    with open(path) as file:
        file.read()


def opens_in_a_child(path):
    path.write_text("read me")
    code = f"open({str(path)!r}).read()"
    modules = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": modules})


def notes(tmp_path, programs, do):
    """What is noted of `do(path)`, for a path outside of the folder that may be read."""
    folders = [tmp_path / name for name in ("own", "watch", "outside")]
    for folder in folders:
        folder.mkdir()
    own, watch, outside = folders
    with watched(own, watch / "log", programs, watch):
        do(outside / "secret")
    return (watch / "log").read_text().splitlines(), f"opened {outside / 'secret'}"


@pytest.mark.parametrize("do", [opens, opens_in_a_child])
def test_files_outside_are_seen(tmp_path, do):
    seen, expected = notes(tmp_path, (sys.executable,), do)
    assert expected in seen


def test_programs_are_seen(tmp_path):
    seen, _ = notes(tmp_path, (), lambda path: subprocess.run([sys.executable, "-c", ""]))
    assert any(sys.executable in line for line in seen)


def test_what_is_allowed_is_not_noted(tmp_path):
    seen, _ = notes(
        tmp_path,
        (sys.executable,),
        lambda path: (
            opens(path.parents[1] / "own" / "mine"),
            subprocess.run([sys.executable, "-c", ""]),
        ),
    )
    assert seen == []
