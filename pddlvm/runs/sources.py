"""Problems by name: those of installed packages, and functions in a user's own file.

A package offers problems by entry points of the group `pddlvm.problems`; a file is named with its
function, `my_problem.py:make`.
"""

import importlib.util
import inspect
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pddlvm.basics.errors import InputError, ProblemError
from pddlvm.parameters.problem import ParametricProblem, check_problem

__all__ = [
    "file_of",
    "find",
    "installed",
    "is_file",
    "make",
    "parse_settings",
    "settings_of",
]

Make = Callable[..., ParametricProblem]

_GROUP = "pddlvm.problems"


def installed() -> dict[str, str]:
    """Name -> module and function, of all problems that installed packages offer."""
    return {point.name: point.value for point in sorted(entry_points(group=_GROUP))}


def is_file(name: str) -> bool:
    """Is it a function in a file, rather than the name of an installed problem?"""
    return name.partition(":")[0].endswith(".py")


def file_of(name: str) -> Path:
    """The file of file.py:function."""
    return Path(name.partition(":")[0]).resolve()


def find(name: str) -> Make:
    """The function that makes a problem. A file is executed, an installed module is imported.

    Raises:
        ProblemError: there is no such problem, file or function.
    """
    if is_file(name):
        return _in_file(name)
    found = [point for point in entry_points(group=_GROUP) if point.name == name]
    if not found:
        raise ProblemError(
            f"there is no problem {name!r}; installed are {', '.join(installed()) or 'none'}; your "
            "own is named by its file and function, as in my_problem.py:make"
        )
    make: Make = found[0].load()
    return make


def settings_of(make: Make) -> dict[str, str]:
    """Name -> default, as text, of the arguments of a problem."""
    parameters = inspect.signature(make).parameters.values()
    return {p.name: "required" if p.default is p.empty else repr(p.default) for p in parameters}


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """name=value pairs; a value is written as in TOML, and what is none there is a text.

    Raises:
        InputError: a pair without an equals sign, or a name twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        name = name.strip()
        if not sign or not name:
            raise InputError(f"a setting is written name=value, got {pair!r}")
        if name in found:
            raise InputError(f"the setting {name!r} is given twice")
        try:
            found[name] = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            found[name] = text.strip()
    return found


def make(name: str, settings: dict[str, Any]) -> ParametricProblem:
    """Make a problem.

    Raises:
        ProblemError: no such problem, no such argument, or its function fails.
    """
    function = find(name)
    known = settings_of(function)
    unknown = sorted(set(settings) - set(known))
    if unknown:
        text = ", ".join(f"{k}={v}" for k, v in known.items()) or "none"
        raise ProblemError(f"problem {name!r} has no setting {unknown}; its settings are: {text}")
    try:
        problem = function(**settings)
    except InputError:
        raise
    except Exception as error:
        # The function may be anybody's, and be given anything.
        raise ProblemError(
            f"problem {name!r} could not be made with {settings}: {type(error).__name__}: {error}"
        ) from error
    return check_problem(problem, f"what {name!r} returns")


def _in_file(name: str) -> Make:
    file, sign, function = name.partition(":")
    path = file_of(name)
    if not path.is_file():
        raise ProblemError(f"there is no file {str(path)!r}")
    if not sign or not function.isidentifier():
        raise ProblemError(f"name a function of the file, as in {file}:make")
    # Dataclasses and pickle look for a module by its name; the file may be named as another one.
    name = f"problem_in_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    # As for a script, its neighbours can be imported.
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ProblemError(
            f"{str(path)!r} cannot be run: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    found = getattr(module, function, None)
    if not callable(found):
        raise ProblemError(f"{str(path)!r} has no function {function!r}")
    make: Make = found
    return make
