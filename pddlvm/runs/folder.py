"""A run folder: one training on disk.

config.toml      what was asked
info.json        versions, machine, git revision, times, what came out
metrics.csv      step, seconds, elbo, stage; a row is added while the training runs
checkpoints/     the last few states of the training
model.pt         the trained model, once it is
figures/         PNG
report.html      all of it on one page
"""

import csv
import json
import math
import platform
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pddlvm.basics.errors import InputError, RunFileError
from pddlvm.basics.files import make_folder, write_text
from pddlvm.models import LatentVariableModel, load
from pddlvm.parameters.problem import ParametricProblem
from pddlvm.runs.config import RunConfig
from pddlvm.runs.sources import file_of, is_file, make
from pddlvm.runs.strict_json import strict_json
from pddlvm.training.checkpoints import Checkpoints

__all__ = ["COLUMNS", "METRICS", "Run"]

METRICS = "metrics.csv"
COLUMNS = ("step", "seconds", "elbo", "stage")
_CHECKOUT = Path(__file__).resolve().parents[2]
_PACKAGES = ("pddlvm", "torch", "pyro-ppl", "scikit-fem", "numpy", "scipy", "zuko", "arviz-stats")


class Run:
    """A run folder.

    Args:
        path: of the folder.
        config: what it says.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config
        self.checkpoints = Checkpoints(path / "checkpoints", every=config.checkpoint_seconds)

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "Run":
        """Make the folder, with the configuration in it.

        Raises:
            RunFileError: it holds something already, or cannot be made.
        """
        make_folder(path)
        try:
            # A hidden file may be left of a process that was killed while it wrote.
            is_used = any(not entry.name.startswith(".") for entry in path.iterdir())
        except OSError as error:
            raise RunFileError(
                f"cannot read the folder {str(path)!r} ({error.strerror})"
            ) from error
        if is_used:
            raise RunFileError(
                f"{str(path)!r} is not empty; go on with its run by --resume, or choose another one"
            )
        # First: it makes the folder a run, whatever happens next.
        config.write(path / "config.toml")
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """An existing folder. Nothing in it is executed.

        Raises:
            RunFileError: it is not a run folder.
        """
        if not (path / "config.toml").is_file():
            raise RunFileError(f"{str(path)!r} is not a run folder: it has no config.toml")
        return cls(path, RunConfig.read(path / "config.toml"))

    @property
    def model_file(self) -> Path:
        """The trained model."""
        return self.path / "model.pt"

    @property
    def report_file(self) -> Path:
        """The report, which is written last."""
        return self.path / "report.html"

    @property
    def is_finished(self) -> bool:
        """Was all of it brought to its end?"""
        return self.report_file.is_file()

    def problem(self, source: str | None = None) -> ParametricProblem:
        """The problem, made anew.

        Args:
            source: file.py:function, which has to be given again where the problem is in a file: a
                run folder may come from anybody, and what it names is not executed.

        Raises:
            RunFileError: the problem is in a file, and none is given.
        """
        name = self.config.problem
        if is_file(name) and source is None:
            word = shlex.quote(name)
            raise RunFileError(
                f"the problem of this run is in a file, {name!r}, which is not executed unless you "
                f"say so: pddlvm train {word} --resume ..., or --problem {word} of other commands"
            )
        return make(source or name, self.config.settings)

    def model(self, problem: ParametricProblem) -> LatentVariableModel:
        """The trained model; where there is none yet, that of the newest checkpoint.

        Raises:
            RunFileError: nothing was trained, or the problem is another one.
        """
        if self.model_file.is_file():
            return load(self.model_file, problem)
        found = self.checkpoints.newest()
        if found is None:
            raise RunFileError(f"{str(self.path)!r} has no trained model and no checkpoint")
        return load(found[0], problem)

    @property
    def info(self) -> dict[str, Any]:
        """The content of info.json; empty where no training was started.

        Raises:
            RunFileError: the file is damaged.
        """
        file = self.path / "info.json"
        if not file.is_file():
            return {}
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunFileError(
                f"info.json of {str(self.path)!r} cannot be read ({error})"
            ) from error
        if not isinstance(found, dict):
            raise RunFileError(f"info.json of {str(self.path)!r} is damaged")
        return found

    def describe(self, **values: Any) -> None:
        """Add to info.json."""
        content = {**self.info, **values}
        write_text(strict_json(content) + "\n", self.path / "info.json")

    def start(self, rows: list[dict[str, float]]) -> None:
        """info.json of a first start, and metrics.csv with the rows of what was trained before."""
        if "created" not in self.info:
            git = _revision(_CHECKOUT) if (_CHECKOUT / ".git").exists() else None
            self.describe(created=_now(), versions=_versions(), machine=_machine(), git=git)
            if is_file(self.config.problem):
                self.describe(git_problem=_revision(file_of(self.config.problem).parent))
        write_text(
            "".join(f"{line}\n" for line in [",".join(COLUMNS), *map(_line, rows)]), self._csv
        )

    def add_metrics(self, row: dict[str, float]) -> None:
        """Add a row to metrics.csv.

        Raises:
            RunFileError: it cannot be written.
        """
        try:
            with self._csv.open("a", encoding="utf-8") as file:
                file.write(_line(row) + "\n")
        except OSError as error:
            raise RunFileError(
                f"{str(self._csv)!r} was not written ({error.strerror}); the training can go on "
                "from its newest checkpoint"
            ) from error

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv.

        Raises:
            RunFileError: the file is not what `add_metrics` writes.
        """
        if not self._csv.is_file():
            return []
        try:
            with self._csv.open(encoding="utf-8", newline="") as file:
                rows = [{k: float(row[k]) for k in COLUMNS} for row in csv.DictReader(file)]
            if not all(math.isfinite(value) for row in rows for value in row.values()):
                raise ValueError("values that are not finite")
            return rows
        except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
            raise RunFileError(f"{str(self._csv)!r} is damaged ({error})") from error

    @property
    def _csv(self) -> Path:
        return self.path / METRICS

    def discard(self) -> None:
        """Remove the run if it has no checkpoint: there is nothing to go on with."""
        if self.checkpoints.files:
            return
        for name in (METRICS, "info.json", "config.toml"):
            (self.path / name).unlink(missing_ok=True)
        for name in ("checkpoints", "tensorboard"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def check_open(self) -> None:
        """Before a training goes on here.

        Raises:
            InputError: the training is finished.
            RunFileError: a link in the folder, through which another file would be written.
        """
        links = [entry.name for entry in self.path.iterdir() if entry.is_symlink()]
        if links:
            raise RunFileError(
                f"{str(self.path)!r} has links in it, {links}, and what they point to would be "
                "overwritten; put the files themselves there"
            )
        if self.is_finished:
            raise InputError(f"the training in {str(self.path)!r} is finished; nothing is left")


def _line(row: dict[str, float]) -> str:
    return ",".join(f"{row[name]:.10g}" for name in COLUMNS)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def _machine() -> dict[str, str]:
    return {"system": platform.platform(), "processor": platform.machine(), "command": _command()}


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _revision(folder: Path) -> str | None:
    """That of the repository around a folder; None where there is none, or no git.

    Only a name is looked up: to compare files, or to fetch objects, git would run programs that the
    settings of the repository name, and the repository may be anybody's.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
