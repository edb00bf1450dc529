"""Benchmarks of NAFEMS: the values that were printed, and a model of coefficients around them."""

import pytest
import torch

import pddlvm
from problems import nafems, poisson

# LE10 converges from above, to 5.4; two digits are what the source prints of T4.
PRINTED = {
    "T4": (nafems.make_t4, 20, 18.3, 0.06),
    "LE1": (nafems.make_le1, 8, 92.7, 0.2),
    "LE10": (nafems.make_le10, 8, -5.38, 0.12),
}


@pytest.mark.parametrize(("make", "n", "printed", "tolerance"), PRINTED.values(), ids=PRINTED)
def test_printed_values(make, n, printed, tolerance):
    problem = make(n)
    z = nafems.nominal(problem)
    found = nafems.quantity(problem)(problem.solve(z), z)
    assert float(found) == pytest.approx(printed, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("make", [nafems.make_t4, nafems.make_le1], ids=["T4", "LE1"])
def test_a_model_answers_for_uncertain_coefficients(make):
    problem = make(5)
    quantity = nafems.quantity(problem)
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_steps=60)
    z = problem.prior.sample((60,), seed=1)
    found = model.forward(z, corrections=1).of(quantity)
    exact = quantity(problem.solve(z), z)
    torch.testing.assert_close(found.mean, exact, rtol=1e-4, atol=0)
    lower, upper = found.interval(0.95)
    assert ((lower <= exact) & (exact <= upper)).double().mean() > 0.85


def test_misuse_is_named():
    with pytest.raises(pddlvm.InputError, match="multiple of 4"):
        nafems.make_le10(6)
    with pytest.raises(pddlvm.InputError, match="one of nafems-le1"):
        nafems.quantity(poisson.make(4, 2))
    with pytest.raises(pddlvm.InputError, match="one of nafems-le1"):
        nafems.nominal(poisson.make(4, 2))
