"""Small pools: what is tested is small too."""

import pytest

from pddlvm.galerkin import solved_draws


@pytest.fixture(scope="module", autouse=True)
def small_pool():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solved_draws, "_N_DRAWS", 1024)
        yield
