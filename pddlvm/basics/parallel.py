"""Loops whose parts know nothing of each other, on the engine that the user of joblib chose.

    each(f, x, (a_1, ..., a_n))  =  [f(x, a_1), ..., f(x, a_n)]

in this process and in turn, unless somebody says `with joblib.parallel_config(backend=...)`: then
on threads, on processes of this machine (loky), or on those of a cluster (dask, ray).

The numbers are the same, bit by bit, whatever the engine and the number of workers, where their
processors are alike and each has as many threads: who calls `each` makes parts a_i by what is
asked, never by how many workers there are, and gives each part that draws a seed of its own. The
error is that of the first part that has one, as in turn.

What all parts share is pickled once, and unpacked once in each worker, which keeps the last one;
a part is what travels beside it. Loops within a part are in turn. Nothing of this process is set.
"""

import copy
import io
import os
import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

import cloudpickle
import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from joblib.parallel import get_active_backend
from numpy.typing import NDArray

from pddlvm.basics.errors import InputError, WorkerError

__all__ = ["Watch", "each", "in_turn", "nobody"]

S = TypeVar("S")
I = TypeVar("I")  # noqa: E741 (an item)
R = TypeVar("R")

Watch = Callable[[float], None]
"""Is told the share that is done."""

_DEAD = {"KilledWorker", "FutureCancelledError", "WorkerCrashedError"}
"""Names of what dask and ray raise, neither of which is needed here, where a worker has died."""


def nobody(share: float) -> None:
    """Watches nothing."""


def each(
    function: Callable[[S, I, Watch], R],
    shared: S,
    items: Sequence[I],
    *,
    what: Callable[[I], str],
    watch: Watch = nobody,
    same: Sequence[object] = (),
    done: Callable[[int, R], None] | None = None,
) -> list[R]:
    """function(shared, item, watch) for each item, in their order.

    Args:
        function: of a module, of what it is given alone; its `watch` is told the share of the item.
        shared: what all items need.
        items: small.
        what: an item in words, for messages.
        watch: is told the share of all items.
        same: parts of `shared` that results refer to: they are not sent back, but those here.
        done: is given the number and the answer of an item as soon as those before have theirs.

    Raises:
        InputError: the work cannot be pickled.
        WorkerError: a worker process died.
    """
    backend, n_jobs = get_active_backend()
    n_jobs = backend.default_n_jobs if n_jobs is None else n_jobs
    n = len(items)
    if n_jobs == 1 or n < 2:
        steps = (partial(_show, watch, k, n) for k in range(n))
        found = []
        for item, step in zip(items, steps, strict=True):
            found.append(function(shared, item, step))
            if done is not None:
                done(len(found) - 1, found[-1])
            step(1.0)
        return found
    run, unpacked = _sent(backend, function, shared, same)
    answers: list[R] = []
    error: Exception | None = None

    def parts() -> Iterator[Any]:
        for item in items:
            if error is not None:
                return  # The parts that have begun come to their end.
            yield delayed(run)(item)

    engine = Parallel(
        n_jobs=n_jobs,
        backend=_with_one_thread(backend),
        return_as="generator" if backend.supports_return_generator else "list",
    )
    try:
        for packed in engine(parts()):
            answer = unpacked(packed)
            if error is not None:
                continue
            if isinstance(answer, _Raised):
                error = answer.error
                continue
            answers.append(answer)
            if done is not None:
                done(len(answers) - 1, answer)
            _show(watch, len(answers) - 1, n, 1.0)
    except Exception as death:
        if not isinstance(death, BrokenExecutor) and type(death).__name__ not in _DEAD:
            raise
        raise WorkerError(
            f"a worker process died, at {what(items[len(answers)])} or at what was computed beside "
            f"it ({type(death).__name__}): killed, as where memory is short, or crashed in "
            "compiled code. Try fewer jobs, parallel_config(n_jobs=...), or more memory; without "
            "parallel_config the same is computed in this process"
        ) from death
    if error is not None:
        raise error
    return answers


def in_turn() -> parallel_config:
    """Inside, all is computed in this process and in turn, whatever the user chose."""
    return parallel_config(backend="sequential", n_jobs=1)


def _show(watch: Watch, k: int, n: int, share: float) -> None:
    watch((k + share) / n)


@dataclass(frozen=True)
class _Raised:
    """What a part raised."""

    error: Exception


def _run(function: Callable[[S, I, Watch], R], shared: S, is_graph: bool, item: I) -> R | _Raised:
    # Other threads and processes have the modes of torch by default.
    with torch.set_grad_enabled(is_graph), in_turn():
        try:
            return function(shared, item, nobody)
        except Exception as error:
            return _Raised(error)


# --- processes ---------------------------------------------------------------------------------


def _sent(
    backend: Any, function: Callable[..., Any], shared: Any, same: Sequence[object]
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """What a worker does with an item, and what is done here with its answer."""
    is_graph = torch.is_grad_enabled()
    if getattr(backend, "supports_sharedmem", False):
        return partial(_run, function, shared, is_graph), _as_it_is
    try:
        content = cloudpickle.dumps((function, shared, tuple(same)))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(
            f"the work cannot be sent to other processes ({error}); use functions and classes at "
            "the top of a module, or parallel_config(backend='threading')"
        ) from error
    # An array, for loky maps large ones into all workers; no argument, for dask would leave it with
    # one worker, and without it when that dies.
    array = np.frombuffer(content, dtype=np.uint8)
    mode = (is_graph, torch.get_default_dtype())
    run = partial(_in_worker, sha256(content).hexdigest(), array, mode)
    return run, partial(_unpacked, same)


def _as_it_is(answer: Any) -> Any:
    return answer


_kept: tuple[str, Any] = ("", None)
"""Of a worker: what it unpacked last, by its checksum."""


def _in_worker(
    key: str, content: NDArray[np.uint8], mode: tuple[bool, torch.dtype], item: Any
) -> bytes:
    global _kept
    is_graph, dtype = mode
    # Constants in functions of the user have it.
    if torch.get_default_dtype() != dtype:
        torch.set_default_dtype(dtype)
    kept = _kept
    if kept[0] != key:
        kept = _kept = (key, pickle.loads(content.data))
    function, shared, same = kept[1]
    answer = _run(function, shared, is_graph, item)
    if isinstance(answer, _Raised):
        # The traceback does not travel.
        answer.error.add_note("".join(traceback.format_exception(answer.error)))
    file = io.BytesIO()
    _Pickler(file, same).dump(answer)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Sends the number of an object that the other side has."""

    def __init__(self, file: io.BytesIO, same: Sequence[object]) -> None:
        super().__init__(file)
        self._numbers = {id(part): i for i, part in enumerate(same)}

    def persistent_id(self, part: object) -> int | None:
        return self._numbers.get(id(part))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, same: Sequence[object]) -> None:
        super().__init__(file)
        self._same = same

    def persistent_load(self, number: int) -> object:
        return self._same[number]


def _unpacked(same: Sequence[object], packed: bytes) -> Any:
    return _Unpickler(io.BytesIO(packed), same).load()


def _with_one_thread(backend: Any) -> Any:
    """The engine, with a thread for each process of it unless the user chose a number."""
    is_chosen = "OMP_NUM_THREADS" in os.environ or backend.inner_max_num_threads is not None
    if is_chosen or not backend.supports_inner_max_num_threads:
        return backend
    backend = copy.copy(backend)
    backend.inner_max_num_threads = 1
    return backend
