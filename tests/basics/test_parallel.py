"""Loops on engines of joblib: order, errors, progress, and what of torch goes with them."""

import os
import threading
import time

import joblib
import pytest
import torch
from joblib.parallel import get_active_backend

from pddlvm import InputError
from pddlvm.basics.parallel import _sent, _with_one_thread, each, in_turn

ENGINES = [
    pytest.param(lambda: joblib.parallel_config(), id="default"),
    pytest.param(lambda: joblib.parallel_config("threading", n_jobs=2), id="threads"),
    pytest.param(lambda: joblib.parallel_config("threading", n_jobs=1), id="one thread"),
    pytest.param(lambda: joblib.parallel_config("sequential", n_jobs=2), id="sequential"),
]
each_engine = pytest.mark.parametrize("engine", ENGINES)


def times(factor, item, watch):
    # Those that begin first end last.
    time.sleep(0.01 * (8 - item))
    return factor * item


def number(item):
    return f"number {item}"


@each_engine
def test_answers_are_in_order(engine):
    with engine():
        assert each(times, 3, range(8), what=number) == [3 * item for item in range(8)]
        assert each(times, 3, [], what=number) == []


def where(shared, item, watch):
    return os.getpid(), threading.get_ident()


def test_without_an_engine_all_is_in_this_thread():
    assert set(each(where, None, range(3), what=number)) == {(os.getpid(), threading.get_ident())}


def test_on_threads_it_is_in_others():
    with joblib.parallel_config("threading", n_jobs=2):
        found = each(where, None, range(3), what=number)
        with in_turn():
            assert each(where, None, [0, 1], what=number) == [where(None, 0, None)] * 2
    assert (os.getpid(), threading.get_ident()) not in found


@each_engine
def test_progress_goes_up_to_one(engine):
    shares = []
    with engine():
        each(times, 3, range(4), what=number, watch=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert len(shares) >= 4 or engine is ENGINES[-1].values[0]


def half(shared, item, watch):
    watch(0.5)


def test_a_part_tells_its_share_in_turn():
    shares = []
    each(half, None, range(2), what=number, watch=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]


class OwnError(Exception):
    pass


def fails_from_the_end(started, item, watch):
    started.append(item)
    time.sleep(0.02 * (6 - item))
    if item >= 2:
        raise OwnError(f"of {item}")


@each_engine
def test_the_error_is_the_first_one_in_order(engine):
    with engine(), pytest.raises(OwnError, match="of 2"):
        each(fails_from_the_end, [], range(6), what=number)


def test_an_error_stops_what_has_not_begun():
    started = []
    with joblib.parallel_config("threading", n_jobs=2), pytest.raises(OwnError):
        each(fails_from_the_end, started, [5] * 500, what=number)
    assert len(started) < 500


def inner(shared, item, watch):
    return type(get_active_backend()[0]).__name__


def test_loops_within_a_part_are_in_turn():
    with joblib.parallel_config("threading", n_jobs=2):
        assert each(inner, None, range(4), what=number) == ["SequentialBackend"] * 4


def grad_mode(shared, item, watch):
    return torch.is_grad_enabled()


@each_engine
@pytest.mark.parametrize("is_graph", [True, False])
def test_parts_have_the_grad_mode_of_the_caller(engine, is_graph):
    with engine(), torch.set_grad_enabled(is_graph):
        assert each(grad_mode, None, range(3), what=number) == [is_graph] * 3


def test_what_cannot_be_pickled_is_refused():
    with joblib.parallel_config("loky", n_jobs=2), pytest.raises(InputError, match="top of a mod"):
        each(times, threading.Lock(), range(3), what=number)


def test_results_refer_to_what_the_caller_has():
    shared = {"large": torch.zeros(10**6)}
    with joblib.parallel_config("loky", n_jobs=2):
        backend, _ = get_active_backend()
    run, unpacked = _sent(backend, within, shared, [shared["large"]])
    packed = run(7)
    assert len(packed) < 10**4
    found = unpacked(packed)
    assert found["item"] == 7 and found["large"] is shared["large"]


def within(shared, item, watch):
    return {"item": item, "large": shared["large"]}


@pytest.mark.parametrize(
    ("variable", "chosen", "wanted"), [(None, None, 1), ("3", None, None), (None, 4, 4)]
)
def test_a_worker_has_one_thread_unless_the_user_says_so(variable, chosen, wanted, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=chosen):
        backend, _ = get_active_backend()
        assert _with_one_thread(backend).inner_max_num_threads == wanted
        assert backend.inner_max_num_threads == chosen
