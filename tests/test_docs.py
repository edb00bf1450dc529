"""The pages of the documentation: their code runs, the reference is complete, the site builds."""

import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import typer

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import pddlvm
from pddlvm import fem, linalg, plot
from pddlvm.cli.app import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SLOW = {
    "how_to/checkpoints.md",
    "how_to/diagnostics.md",
    "how_to/elements.md",
    "how_to/observation.md",
    "how_to/output.md",
    "how_to/own_network.md",
    "how_to/parallel.md",
    "how_to/place_sensors.md",
    "how_to/propagate.md",
    "how_to/quantities.md",
    "how_to/several_fields.md",
    "how_to/time.md",
    "index.md",
    "inference.md",
    "new_problem.md",
    "strong_form.md",
    "tutorial.md",
}
STEPS = 40
SECONDS = 2.0

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SAID = re.compile(r"^print\((.*)\)  # (True|False)\b.*$", re.MULTILINE)
LISTED = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)

Variables = dict[str, Any]

CHECKS: dict[str, Callable[[Variables], bool]] = {
    # The known load is certain.
    "new_problem.md": lambda v: bool(v["inverse"].std[-1] == 0),
    "inference.md": lambda v: v["posterior"].mean.shape == (4,) and v["new"].z.shape == (50, 4),
}


def code_of(page: Path) -> str:
    """All Python of a page, on the lines where it stands there; `# True` becomes an assertion."""
    text = page.read_text(encoding="utf-8")
    code = ""
    for block in BLOCK.finditer(text):
        code += "\n" * (text.count("\n", 0, block.start(1)) - code.count("\n")) + block[1]
    return SAID.sub(r"assert (\1) is \2", code)


def named(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


PAGES = [
    pytest.param(path, id=named(path), marks=pytest.mark.slow if named(path) in SLOW else ())
    for path in sorted(DOCS.rglob("*.md"))
    if BLOCK.search(path.read_text(encoding="utf-8"))
]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is cut to a few steps; all else runs as it is written."""
    train, learn = pddlvm.train, pddlvm.learn_population

    def few_steps(model, *, max_seconds=None, max_steps=STEPS, **options):
        return train(model, max_steps=min(max_steps, STEPS), **options)

    def few_seconds(*arguments, max_seconds, **options):
        return learn(*arguments, max_seconds=min(max_seconds, SECONDS), **options)

    monkeypatch.setattr(pddlvm, "train", few_steps)
    monkeypatch.setattr(pddlvm, "learn_population", few_seconds)
    monkeypatch.setattr("pddlvm.galerkin.calibration.default_n_samples", lambda n_dofs: 128)
    monkeypatch.setattr("pddlvm.galerkin.solved_draws._N_DRAWS", 1024)
    monkeypatch.setattr("pddlvm.trajectory.reduction._N_SNAPSHOTS", 256)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("short")
def test_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    variables: Variables = {"__name__": "page"}
    exec(compile(code_of(page), str(page), "exec"), variables)
    plt.close("all")
    assert CHECKS.get(named(page), lambda v: True)(variables)


def test_code_keeps_its_lines_and_its_claims():
    page = DOCS / "how_to" / "checkpoints.md"
    code, lines = code_of(page).splitlines(), page.read_text(encoding="utf-8").splitlines()
    at = lines.index("import pddlvm")
    assert code[at] == lines[at]
    assert any(line.startswith("assert (torch.equal(") for line in code)


def reference() -> list[str]:
    """Names that the pages of the reference document."""
    pages = sorted((DOCS / "reference").glob("*.md"))
    return [name for page in pages for name in LISTED.findall(page.read_text(encoding="utf-8"))]


def test_every_public_name_is_in_the_reference():
    public = {f"pddlvm.{name}" for name in pddlvm.__all__ if name not in ("fem", "linalg", "plot")}
    public |= {f"pddlvm.fem.{name}" for name in fem.__all__}
    public |= {f"pddlvm.linalg.{name}" for name in linalg.__all__}
    public |= {f"pddlvm.plot.{name}" for name in plot.__all__}
    assert sorted(public - set(reference())) == []


def test_what_is_in_the_reference_exists_and_stands_there_once():
    names = reference()
    assert len(names) == len(set(names))
    for name in names:
        assert pkgutil.resolve_name(name) is not None


@pytest.mark.parametrize("page", ["how_to/command_line.md", "tutorial.md"])
def test_commands_of_a_page_exist_with_their_options(page: str):
    commands = typer.main.get_command(app).commands
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = re.findall(r"^\$ pddlvm (\w+) ?([^#\n]*)", text, re.MULTILINE)
    assert len(lines) >= 3
    for name, rest in lines:
        known = {option for p in commands[name].params for option in p.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known, name


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path: Path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list(DOCS.rglob("*.md")))
    fetched = re.compile(r'<(?:script|img)[^>]*\ssrc="https?:|<link rel="stylesheet" href="https?:')
    for page in pages:
        assert not fetched.search(page.read_text(encoding="utf-8")), page.name
