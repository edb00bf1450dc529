"""What reading a file does besides: files opened, programs started, connections made.

Python's audit hooks tell (PEP 578); one that is added stays, so it looks only inside `watched`. A
child process is watched by the `sitecustomize` that it finds on its path.
"""

import os
import sys
import zoneinfo
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STARTED = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn", "socket.connect"}
_LIBRARIES = tuple(
    os.path.realpath(folder)
    for folder in {
        *filter(os.path.isdir, sys.path),
        *(sys.prefix, sys.base_prefix, "/proc", "/sys"),
        *zoneinfo.TZPATH,
    }
)
_looking: list["Watch"] = []

_CHILD = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
from pathlib import Path
import watch
watch.begin(Path({{own!r}}), Path({{log!r}}), ())
"""


class Watch:
    """Notes of what is not allowed.

    Args:
        own: the folder that may be read and written.
        log: where the notes go, a line each.
        programs: what may be started.
    """

    def __init__(self, own: Path, log: Path, programs: tuple[str, ...]) -> None:
        self.allowed = (os.path.realpath(own), *_LIBRARIES)
        self.file = log.open("a", buffering=1)
        # Python itself asks uname for the processor.
        self.programs = {*programs, "uname"}

    def note(self, event: str, arguments: tuple[object, ...]) -> None:
        """An audit hook."""
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if path.startswith(self.allowed) or path == os.devnull:
                return
            self.file.write(f"opened {path}\n")
        elif event in _STARTED:
            self.file.write(f"{event} {arguments}\n")
        elif event == "subprocess.Popen" and self.programs.isdisjoint(map(str, arguments[1])):
            self.file.write(f"{event} {arguments}\n")


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _looking:
        looking = _looking.pop()
        # What the note itself opens is no matter.
        try:
            looking.note(event, arguments)
        finally:
            _looking.append(looking)


sys.addaudithook(_hook)


def begin(own: Path, log: Path, programs: tuple[str, ...]) -> None:
    """Look from now on."""
    _looking.append(Watch(own, log, programs))


@contextmanager
def watched(own: Path, log: Path, programs: tuple[str, ...], customs: Path) -> Iterator[None]:
    """Inside, this process and its children are watched.

    Args:
        own, log, programs: see `Watch`.
        customs: an empty folder, for the module that watches children.
    """
    (customs / "sitecustomize.py").write_text(_CHILD.format(own=str(own), log=str(log)))
    sys.path.insert(0, str(customs))
    begin(own, log, programs)
    try:
        yield
    finally:
        _looking.pop().file.close()
        sys.path.remove(str(customs))
