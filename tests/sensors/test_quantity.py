"""Quantities are linear functionals of solutions, in any form in which rows may be given."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import pddlvm
from problems import nonlinear_poisson


def test_rows_may_be_given_in_any_form(poisson_2d):
    rows = np.random.default_rng(0).standard_normal((2, poisson_2d.n_dofs))
    u = torch.randn(3, poisson_2d.n_dofs, dtype=torch.float64)
    observation = pddlvm.LinearObservation(poisson_2d, rows, 1.0)
    for given in (rows, sp.csr_matrix(rows), torch.from_numpy(rows), observation):
        quantity = pddlvm.Quantity(poisson_2d, given, "some")
        assert quantity.n == 2 and quantity.name == "some"
        assert torch.allclose(quantity.apply(u), u @ torch.from_numpy(rows).T)
    assert pddlvm.Quantity(poisson_2d, rows[0]).apply(u).shape == (3, 1)
    assert quantity.apply(u.float()).dtype == torch.float32
    assert repr(quantity) == f"Quantity('some', 2 of {poisson_2d.name!r})"


def test_what_is_wrong_is_named(poisson_2d):
    n = poisson_2d.n_dofs
    for rows, message in [
        (np.ones(n - 1), f"{n} columns"),
        (np.full(n, np.nan), "not finite"),
        (np.zeros((0, n)), "'some' has no row"),
        (np.ones(n) * 1j, "matrix"),
    ]:
        with pytest.raises(pddlvm.InputError, match=message):
            pddlvm.Quantity(poisson_2d, rows, "some")
    other = nonlinear_poisson.make_1d(8)
    observation = pddlvm.LinearObservation(other, np.ones(other.n_dofs), 1.0)
    with pytest.raises(pddlvm.InputError, match="observation is of problem"):
        pddlvm.Quantity(poisson_2d, observation, "some")
    with pytest.raises(pddlvm.InputError, match="name"):
        pddlvm.Quantity(poisson_2d, np.ones(n), 3)
    with pytest.raises(pddlvm.InputError, match="problem"):
        pddlvm.Quantity("poisson", np.ones(n))
