"""Configurations of runs: what was written is read, whatever else is refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from damaged import damaged
from hypothesis import given
from hypothesis import strategies as st

import pddlvm
from pddlvm.runs.config import RunConfig
from pddlvm.runs.sources import parse_settings

POSITIVE = st.floats(min_value=0, exclude_min=True)
PLAIN = st.recursive(
    st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=5,
)
CONFIGS = st.builds(
    RunConfig,
    problem=st.text(),
    settings=st.dictionaries(st.text(), PLAIN, max_size=3),
    seed=st.integers(0, 2**63 - 1),
    max_seconds=st.none() | POSITIVE,
    max_steps=st.none() | st.integers(min_value=1),
    batch_size=st.none() | st.integers(min_value=1),
    device=st.text(),
    checkpoint_seconds=st.floats(min_value=0),
    n_validation=st.integers(min_value=2),
)
ANYTHING = st.none() | st.binary() | st.dates() | st.floats() | PLAIN
FILE = b'problem = "poisson-1d"\nmax_seconds = 6.0\nseed = 7\n\n[settings]\nn = [8, 2]\n'


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("configurations") / "run.toml"


@given(CONFIGS)
def test_a_configuration_is_read_as_it_was_written(path: Path, config: RunConfig):
    config.write(path)
    assert RunConfig.read(path) == config


@given(damaged(FILE))
def test_whatever_a_file_holds_is_read_or_refused(path: Path, content: bytes):
    path.write_bytes(content)
    with suppress(pddlvm.InputError):
        assert isinstance(RunConfig.read(path).seed, int)


NAMES = st.sampled_from(list(RunConfig.__dataclass_fields__))


@given(st.dictionaries(NAMES | st.text(), ANYTHING, max_size=4))
def test_what_is_accepted_can_be_written(path: Path, values: dict[str, Any]):
    with suppress(pddlvm.InputError):
        config = RunConfig.of({"problem": "poisson-1d", **values})
        config.write(path)
        assert RunConfig.read(path).problem == config.problem


@given(st.lists(st.text()))
def test_settings_are_pairs_or_refused(pairs: list[str]):
    with suppress(pddlvm.InputError):
        assert len(parse_settings(pairs)) == len(pairs)
