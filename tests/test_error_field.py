"""What is uncertain of a field in strong form."""

import pytest
import torch

from pddlvm.collocation.error_field import ErrorField
from tests.small import strong


@pytest.mark.parametrize("unit", [1e-45, 1e45])
def test_error_bars_keep_a_size_of_u_that_float32_cannot_hold(unit):
    model = strong()
    z = model.problem.prior.sample((2,), seed=0)
    modes = torch.ones(model.newton.n_nodes, 3)
    variances = torch.full((2, 3), 0.25), torch.full((2, model.newton.n_nodes), 0.25)
    one, far = (
        ErrorField(model.problem, modes, torch.tensor(size, dtype=torch.float64), z)
        for size in (1.0, unit)
    )
    inside = torch.from_numpy(model.problem.free_dofs)
    # Three modes and the rest, of variance 1/4 each.
    torch.testing.assert_close(one.std(*variances)[:, inside], torch.ones(2, len(inside)).double())
    torch.testing.assert_close(far.std(*variances) / unit, one.std(*variances))
    near, distant = one.spread(*variances), far.spread(*variances)
    torch.testing.assert_close(distant.modes / unit, near.modes)
    torch.testing.assert_close(distant.rest / unit, near.rest)
