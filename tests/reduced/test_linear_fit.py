"""Estimates from solutions that are known, and what they save of Newton's method."""

import pytest
import torch

import pddlvm
from pddlvm import fem
from pddlvm.reduced.galerkin import Galerkin
from pddlvm.reduced.linear_fit import LinearFit
from pddlvm.reduced.reference import Reference, orthonormalise


def stiff(u, du, x, f):
    return 0.5 * (du * du).sum() + 500 * u**4 - f * u


@pytest.fixture
def known():
    xi = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = torch.arange(8, dtype=torch.float64).reshape(4, 2)
    return xi, torch.cat([torch.ones(20, 1, dtype=torch.float64), xi], dim=1) @ matrix


def test_what_is_linear_is_found_whatever_has_failed(known):
    xi, c = known
    fit = LinearFit(3)
    failed = c.clone()
    failed[4] = torch.nan
    fit.add(xi[:15], failed[:15])
    assert fit.at(xi, 2) is None
    fit.add(xi[15:17], c[15:17])
    torch.testing.assert_close(fit.at(xi, 2), c)


@pytest.mark.parametrize("m", [1, 3])
def test_a_basis_may_grow_and_shrink(known, m):
    xi, c = known
    fit = LinearFit(3)
    fit.add(xi[:8], c[:8, :1])
    fit.add(xi[8:], c[8:, :1])
    expected = torch.cat([c[:, :1], torch.zeros(20, m - 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(fit.at(xi, m), expected)


def test_solutions_on_the_mesh_start_at_those_before(monkeypatch):
    space = fem.Space(fem.unit_square(5))
    problem = pddlvm.Problem(
        "stiff",
        space,
        [pddlvm.Energy(space.interior(), stiff)],
        {"f": pddlvm.Constant(pddlvm.Uniform(50.0, 100.0))},
        [pddlvm.Dirichlet(None)],
    )
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(problem.n_free, 6, generator=generator, dtype=torch.float64).numpy()
    reference = Reference.of(problem)
    v = orthonormalise(v[:, :0], v, reference.matrix)
    z = problem.prior.sample((80,), seed=1)
    galerkin, alone = Galerkin(problem, reference), Galerkin(problem, reference)
    formed, tangents = [], galerkin.operators.tangents

    def counted(u, z):
        formed.append(len(u))
        return tangents(u, z)

    monkeypatch.setattr(galerkin.operators, "tangents", counted)
    assert alone.operators is galerkin.operators
    expected, left = alone.solve(v, z[40:])
    from_zero, _ = sum(formed), galerkin.solve(v[:, :4], z[:40])
    formed.clear()
    c, r = galerkin.solve(v, z[40:])
    assert sum(formed) < 0.6 * from_zero
    assert abs(c - expected).max() < 1e-10 * abs(expected).max()
    torch.testing.assert_close(r, left, rtol=0, atol=1e-9 * float(left.norm()))
    # In another basis nothing is known.
    other = orthonormalise(v[:, :0], v[:, ::-1].copy(), reference.matrix)
    assert galerkin._fit_in(other).at(problem.prior.standardise(z), 6) is None
