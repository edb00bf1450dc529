"""How far something is: a bar on a terminal, and in a file a line for each percent."""

import sys
from typing import Any, Self

from tqdm import tqdm

from pddlvm.basics.checks import check_flag

__all__ = ["ProgressBar"]

_BAR = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"


class ProgressBar:
    """Percents with elapsed and remaining time, on stderr.

    Args:
        is_shown: at all?
    """

    def __init__(self, is_shown: bool) -> None:
        check_flag(progress=is_shown)
        self._is_bar = sys.stderr.isatty()
        file = sys.stderr if self._is_bar else _Lines()
        self._bar: Any = tqdm(
            total=100,
            unit="%",
            disable=not is_shown,
            bar_format=_BAR,
            file=file,
            leave=self._is_bar,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def say(self, words: str) -> None:
        """Show what is done now."""
        self._bar.set_postfix_str(words)

    def show(self, fraction: float, **values: Any) -> None:
        """Show the fraction that is done, and values."""
        percent = round(100 * min(1.0, fraction))
        if self._is_bar or percent > self._bar.n:
            self._bar.n = percent
            self._bar.set_postfix(**values)


class _Lines:
    """Where tqdm overwrites its bar, a new line."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(f"{text.strip()}\n")

    def flush(self) -> None:
        sys.stderr.flush()
