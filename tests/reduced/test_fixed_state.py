"""The residual of given states as a function of z, against the model itself and autograd."""

import pytest
import torch

import pddlvm
from pddlvm import fem
from pddlvm.linalg.derivatives import linearise
from pddlvm.reduced.fixed_state import FixedState
from problems import nonlinear_poisson, poisson


def cubic(u, du, x, k, c):
    """Affine in both coefficients."""
    return 0.5 * k * (du * du).sum() + 0.25 * c * u**4


def product(u, du, x, k, c):
    """Affine in each of them alone."""
    return 0.5 * k * c * (du * du).sum() + 0.25 * u**4


def quotient(u, du, x, k, c):
    """Not affine."""
    return 0.5 * (du * du).sum() / k + 0.25 * c * u**4


def unread(u, du, x, k, c):
    """Reads a field, and does not depend on it."""
    return 0.5 * k * (du * du).sum() + 0.25 * u**4 + 0 * c


def make(density):
    space = fem.Space(fem.unit_square(6))
    return pddlvm.Problem(
        density.__name__,
        space,
        terms=[
            pddlvm.Energy(space.interior(), density),
            pddlvm.Energy(space.interior(), lambda u, du, x: -u),
        ],
        fields={
            "k": pddlvm.KarhunenLoeve.on(space, 3, length=0.5, std=0.5),
            "c": pddlvm.Constant(pddlvm.LogUniform(0.5, 2.0)),
        },
        dirichlet=[pddlvm.Dirichlet(None)],
    )


CASES = {
    "cubic": lambda: (make(cubic), True),
    "unread": lambda: (make(unread), True),
    "product": lambda: (make(product), False),
    "quotient": lambda: (make(quotient), False),
    "linear": lambda: (poisson.make(6, 3), None),
    "random boundary values": lambda: (nonlinear_poisson.make(6, 3), None),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    problem, is_affine = CASES[request.param]()
    reduced = pddlvm.LatentVariableModel(problem, seed=0).exact
    generator = torch.Generator().manual_seed(0)
    xi = problem.prior.sample_standard((5,), generator=generator)
    c = torch.randn(5, reduced.n_modes, generator=generator, dtype=torch.float64)
    a = reduced.augment(c, problem.prior.unstandardise(xi))
    # Not the z of the state.
    return reduced, a, problem.prior.unstandardise(xi.flip(0)), is_affine


def test_what_is_affine_is_seen(case):
    reduced, _, _, is_affine = case
    if is_affine is not None:
        assert any(reduced.affine_in_fields) == is_affine


def test_residuals_are_those_of_the_model(case):
    reduced, a, z, _ = case
    state, expected = FixedState.of(reduced, a), reduced.residual_of(a, z)
    torch.testing.assert_close(state.residual(z), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.linearise(z)[0], expected, rtol=1e-10, atol=1e-12)


def test_derivatives_are_those_of_autograd(case):
    reduced, a, z, _ = case
    _, expected = linearise(lambda at: reduced.residual_of(a, at), z)
    found = FixedState.of(reduced, a).linearise(z)[1]
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_some_of_a_batch_are_these(case):
    reduced, a, z, _ = case
    state, rows = FixedState.of(reduced, a), torch.tensor([3, 0])
    some = state.take(rows)
    for found, all_ in zip(some.linearise(z[rows]), state.linearise(z), strict=True):
        torch.testing.assert_close(found, all_[rows], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(some.residual(z[rows]), state.residual(z)[rows])


def test_the_room_that_a_state_takes_is_that_of_its_pulled_fluxes(case):
    reduced, a, _, _ = case
    held = [getattr(term, "by_value", {}) for term in FixedState.of(reduced, a[:1]).terms]
    numbers = sum(t.numel() for by_value in held for t in by_value.values())
    assert FixedState.size_of(reduced) == numbers
