"""What a run is configured by: one small TOML file, or the flags that say the same.

problem = "poisson"
max_seconds = 60.0
seed = 0

[settings]
n = 32
"""

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tomli_w

from pddlvm.basics.checks import check_positive
from pddlvm.basics.errors import InputError
from pddlvm.basics.files import write_text

__all__ = ["RunConfig"]


@dataclass(frozen=True)
class RunConfig:
    """A run, but for its folder.

    Attributes:
        problem: name of an installed problem, or file.py:function.
        settings: arguments of the problem.
        seed: of the model and its training.
        max_seconds: limit of the training.
        max_steps: limit of the training.
        batch_size: prior draws per step; by default what suits the model.
        device: "auto", or a torch device.
        checkpoint_seconds: between two checkpoints.
        n_validation: draws that the trained model is compared with the reference solver on.
    """

    problem: str
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    max_seconds: float | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    checkpoint_seconds: float = 30.0
    n_validation: int = 200

    @classmethod
    def of(cls, values: dict[str, Any]) -> "RunConfig":
        """From names and values; pydantic would not say which options there are.

        Raises:
            InputError: an unknown name, a missing problem, a value of the wrong type or sign.
        """
        names = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise InputError(f"a run has no option {unknown}; its options are {names}")
        if "problem" not in values:
            raise InputError("a run needs a problem: its name, or file.py:function")
        hints = get_type_hints(cls)
        for name, value in values.items():
            wanted = get_args(hints[name]) or (hints[name],)
            if name == "settings":
                wanted = (dict,)
            # TOML tells 60 from 60.0, people do not.
            numbers = (int,) if float in wanted else ()
            if isinstance(value, bool) or not isinstance(value, (*wanted, *numbers)):
                kinds = " or ".join(w.__name__ for w in wanted if w is not type(None))
                raise InputError(f"{name} must be of type {kinds}, got {value!r}")
        found = cls(**values)
        limits = ("max_seconds", "max_steps", "batch_size")
        check_positive(**{name: getattr(found, name) for name in limits})
        if not found.checkpoint_seconds >= 0:
            raise InputError(
                f"checkpoint_seconds must be 0 or more, got {found.checkpoint_seconds}"
            )
        if found.n_validation < 2:
            raise InputError(f"n_validation must be at least 2, got {found.n_validation}")
        if not 0 <= found.seed < 2**63:
            raise InputError(f"seed must be between 0 and 2^63 - 1, got {found.seed}")
        _check_plain(found.settings)
        return found

    @classmethod
    def read(cls, path: Path) -> "RunConfig":
        """From a TOML file.

        Raises:
            InputError: no such file, no TOML, or see `of`.
        """
        return cls.of(read_toml(path))

    def write(self, path: Path) -> None:
        """To a TOML file, in one step."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        # A table has to be the last in TOML.
        settings = given.pop("settings")
        write_text(tomli_w.dumps({**given, "settings": settings}), path)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        InputError: no such file, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not a TOML file: {error}") from error


def _check_plain(value: Any, name: str = "settings") -> None:
    """Refuse what JSON does not have: TOML has dates and times."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            _check_plain(part, f"{name}[{key!r}]")
    elif not isinstance(value, str | int | float | bool):
        raise InputError(
            f"{name} must be a number, a text, a truth value, or lists and tables of them; got a "
            f"{type(value).__name__}"
        )
