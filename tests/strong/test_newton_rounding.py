"""What nodes do not resolve is never said to be less than what rounding leaves."""

import torch

from pddlvm.strong.newton import SpaceTimeNewton
from problems import pinn


def test_a_tail_is_no_smaller_than_rounding():
    problem = pinn.make_burgers((20, 20))
    newton, unit = SpaceTimeNewton(problem.form), torch.tensor(2.0)
    one = torch.ones(1, newton.n_values, dtype=torch.float64)
    noise = 1e-3 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0)).double()
    # A constant has no tail; second derivatives on n nodes make n^4 of the last digit.
    rounding = torch.finfo(torch.float64).eps * max(problem.nodes) ** 4
    least = newton.log_tail(one, unit).exp()
    torch.testing.assert_close(least, torch.full_like(least, rounding), rtol=1e-3, atol=0)
    # Where more is left it is that.
    once, twice = (newton.log_tail(one + k * noise, unit).exp() for k in (1, 2))
    torch.testing.assert_close(2 * once, twice, rtol=1e-4, atol=0)
