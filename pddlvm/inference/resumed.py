"""Jobs that are interrupted and go on: what was found is read, and what is missing is computed.

A job is a list of parts that know nothing of each other, each with a seed of its own. Answers of
parts are written to files beside `job.pt`, which says whose they are; each file is written to a
temporary name and renamed, and none is written again: whenever a process ends, all of them are
whole. Numbers are kept bit by bit, NaN and infinities among them.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pddlvm.basics.checks import check_flag, check_kind
from pddlvm.basics.errors import InputError, RunFileError
from pddlvm.basics.files import decoding, digest_of, make_folder, read_content, write_content
from pddlvm.basics.locks import owned
from pddlvm.basics.parallel import Watch, each, nobody
from pddlvm.latent.core import LatentModel
from pddlvm.latent.signature import agrees, checksum, signature
from pddlvm.parameters.identity import mark_of
from pddlvm.sensors.observation import Observation
from pddlvm.training.checkpoints import Checkpoints

__all__ = ["Kept", "Record", "job", "parts_of", "unpacked"]

S = TypeVar("S")
I = TypeVar("I")  # noqa: E741 (an item)
R = TypeVar("R")


@dataclass(frozen=True)
class Kept:
    """Where the answers of a job are kept.

    Attributes:
        checkpoints: its folder, and the seconds between two files.
        name: of the job, by all that it is made of.
    """

    checkpoints: Checkpoints
    name: str

    def within(self, folder: str) -> "Checkpoints":
        """For a job that is a part of this one."""
        return Checkpoints(self.checkpoints.folder / folder, self.checkpoints.every)

    @contextmanager
    def record(self, kind: str) -> Iterator["Record"]:
        """The answers of one kind; what was added is written in the end, whatever the end is."""
        found = Record(self, kind)
        try:
            yield found
        finally:
            found.flush()


class Record:
    """Answers by number: read when it is made, written as time goes by.

    Args:
        kept: the job.
        kind: of the answers.
    """

    def __init__(self, kept: Kept, kind: str) -> None:
        self._kept, self._kind, self._written = kept, kind, time.monotonic()
        self._new: dict[int, list[Any]] = {}
        self.known: dict[int, list[Any]] = {}
        files = self._files()
        for path in files:
            try:
                content = read_content(path)
                with decoding(f"{str(path)!r} is damaged"):
                    if content["job"] == kept.name:
                        self.known |= {int(k): list(v) for k, v in content["answers"].items()}
            except RunFileError as error:
                warnings.warn(f"left out what was found before: {error}", stacklevel=2)
        self._next = 1 + max((int(path.stem.rpartition("-")[2]) for path in files), default=-1)

    def add(self, number: int, answer: Sequence[Any]) -> None:
        """Keep tensors and plain values; written now, if it is time."""
        self._new[number] = [_packed(x) for x in answer]
        if time.monotonic() - self._written >= self._kept.checkpoints.every:
            self.flush()

    def flush(self) -> None:
        """Write what was added."""
        if self._new:
            folder = self._kept.checkpoints.folder
            make_folder(folder)
            path = folder / f"{self._kind}-{self._next:06d}.pt"
            write_content({"job": self._kept.name, "answers": self._new}, path)
            self._next, self._new = self._next + 1, {}
        self._written = time.monotonic()

    def _files(self) -> list[Path]:
        return sorted(self._kept.checkpoints.folder.glob(f"{self._kind}-[0-9]*.pt"))


@contextmanager
def job(
    checkpoints: Checkpoints | None,
    resume: bool,
    model: LatentModel,
    observation: Observation,
    asked: Mapping[str, Any],
) -> Iterator[Kept | None]:
    """The job in a folder, which nobody else writes to inside; None without checkpoints.

    Args:
        checkpoints: its folder.
        resume: may it be there already?
        model: that is asked,
        observation: about data of these sensors,
        asked: and all else that answers depend on, by name.

    Raises:
        InputError: there is a job without `resume`, or it is another one.
        RunFileError: somebody else is in the folder, or `job.pt` is damaged.
    """
    check_kind(Checkpoints | None, checkpoints=checkpoints)
    check_flag(resume=resume)
    if checkpoints is None:
        if resume:
            raise InputError("resume=True needs checkpoints=pddlvm.Checkpoints(folder)")
        yield None
        return
    with owned(checkpoints.folder):
        path = checkpoints.folder / "job.pt"
        if checkpoints.files or (path.exists() and not resume):
            what = "a training" if checkpoints.files else "an earlier job"
            raise InputError(
                f"{str(checkpoints)!r} has checkpoints of {what}; go on with an earlier job with "
                "resume=True, or choose another folder"
            )
        made = {"problem": mark_of(model.problem)["fingerprint"], "model": checksum(model), **asked}
        digests = {name: digest_of(part) for name, part in made.items()}
        sensors = signature(model.surrogate(observation, corrections=1))
        if path.exists():
            before = read_content(path)
            with decoding(f"{str(path)!r} is damaged"):
                other = [name for name in digests if before["made"][name] != digests[name]]
                if not agrees(before["sensors"], sensors):
                    other.append("observation")
            if other:
                raise InputError(
                    f"{str(path)!r} is of a job with another {', another '.join(other)}; give "
                    "the same, or choose another folder for a new one"
                )
        else:
            write_content({"made": digests, "sensors": sensors}, path)
        yield Kept(checkpoints, digest_of(digests))


def parts_of(
    record: tuple[Kept | None, str],
    function: Callable[[S, I, Watch], R],
    shared: S,
    items: Sequence[I],
    *,
    pack: Callable[[R], Sequence[Any]],
    unpack: Callable[..., R],
    what: Callable[[I], str],
    watch: Watch = nobody,
    same: Sequence[object] = (),
) -> list[R]:
    """`each`, but for the items whose answers are known.

    Args:
        record: the job, if there is one, and the kind of the answers.
        function: see `each`, as for what is not explained here.
        shared: what all items need.
        items: small.
        pack: an answer as tensors and plain values.
        unpack: the answer of these.
        what: an item in words.
        watch: is told the share of what is left.
        same: parts of `shared` that results refer to.
    """
    kept, kind = record
    if kept is None:
        return each(function, shared, items, what=what, watch=watch, same=same)
    with kept.record(kind) as found:
        with decoding(f"answers in {str(kept.checkpoints)!r} are damaged"):
            known = {k: unpack(*map(unpacked, answer)) for k, answer in found.known.items()}
        left = [k for k in range(len(items)) if k not in known]

        def done(k: int, answer: R) -> None:
            found.add(left[k], pack(answer))

        some = [items[k] for k in left]
        new = each(function, shared, some, what=what, watch=watch, same=same, done=done)
        known |= dict(zip(left, new, strict=True))
        return [known[k] for k in range(len(items))]


def _packed(x: Any) -> Any:
    """Files refuse numbers that are not finite."""
    if isinstance(x, Tensor) and x.dtype == torch.float64:
        # One of a batch that was expanded has no stride of its own.
        return {"bits": x.detach().clone(memory_format=torch.contiguous_format).view(torch.int64)}
    return x


def unpacked(x: Any) -> Any:
    """What `Record.add` was given."""
    return x["bits"].view(torch.float64) if isinstance(x, dict) else x
