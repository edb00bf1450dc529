"""Precisions and covariances by few numbers against dense matrices."""

import pytest
import scipy.sparse as sp
import torch

from pddlvm.linalg import precision as precision_module
from pddlvm.linalg.banded_root import BandedRoot
from pddlvm.linalg.low_rank import LowRank
from pddlvm.linalg.precision import Precision

N, BATCH = 40, 3


@pytest.fixture(params=["few values", "many values", "crowded values"])
def size(request, monkeypatch):
    """All ways to widen a precision, on a matrix that is small enough for dense formulas."""
    monkeypatch.setattr(precision_module, "_FEW", N if request.param == "few values" else N - 1)
    monkeypatch.setattr(precision_module, "_CROWDED", 2 if "crowded" in request.param else 0.25)


def error(scale: float = 1.0) -> LowRank:
    """Of 5 modes, and of dofs that each value shares with two neighbours."""
    generator = torch.Generator().manual_seed(0)
    factor = scale * torch.randn(BATCH, N, 5, generator=generator).double()
    rows = sp.csr_matrix(sp.diags([0.5, 1.0, 0.3], [0, 1, 2], shape=(N, N + 2)))
    variances = scale**2 * torch.rand(BATCH, N + 2, generator=generator).double()
    return LowRank(factor, rows, variances)


def weights() -> torch.Tensor:
    """Of values of which some are missing."""
    found = 1 + torch.rand(BATCH, N, generator=torch.Generator().manual_seed(1)).double()
    return found.index_fill(1, torch.tensor([0, 7]), 0.0).index_fill(0, torch.tensor(2), 1.5)


def dense(i: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Covariance of noise and error of the values that are seen, and which these are."""
    seen = weights()[i] > 0
    covariance = (1 / weights()[i]).nan_to_num(posinf=0).diag() + error(scale).dense()[i]
    return covariance[seen][:, seen], seen


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("i", range(BATCH))
def test_a_widened_precision_is_the_inverse_of_the_sum(i):
    found = Precision.of_weights(weights()).widened(error())
    covariance, seen = dense(i)
    # Rounding, times a condition number of 100.
    expected = torch.linalg.inv(covariance)
    torch.testing.assert_close(found.dense()[i][seen][:, seen], expected, rtol=1e-10, atol=1e-12)
    assert (found.dense()[i][~seen] == 0).all()
    expected = -torch.linalg.slogdet(covariance).logabsdet
    torch.testing.assert_close(found.log_det[i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("size")
def test_errors_that_outweigh_the_noise_by_far_leave_a_square(monkeypatch):
    scale = 1e5
    found, (covariance, seen) = (
        Precision.of_weights(weights()).widened(error(scale)),
        dense(2, scale),
    )
    along = covariance @ torch.randn(N, generator=torch.Generator().manual_seed(2)).double()
    square = found.white(along.expand(BATCH, -1))[2].square().sum()
    # Rounding, times the square root of the condition number.
    torch.testing.assert_close(
        square, along @ torch.linalg.solve(covariance, along), rtol=1e-8, atol=0
    )
    assert seen.all()


@pytest.mark.usefixtures("size")
def test_whitening_has_the_gradient_of_its_matrix():
    found = Precision.of_weights(weights()[:1]).widened(error().at(torch.tensor([0])))
    x = torch.randn(4, N, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    assert torch.autograd.gradcheck(found.white, x)


def test_neighbours_need_a_band_only():
    order = torch.randperm(N, generator=torch.Generator().manual_seed(4))
    one = error().at(torch.tensor([0]))
    rows = sp.csr_matrix(one.rows[order.numpy()])
    root = BandedRoot.of(torch.ones(1, N).double(), rows, one.variances)
    # Each shares something with two to either side, however they are numbered.
    assert root.factors[0].shape == (3, N)


def test_a_dense_noise_takes_an_error_too():
    covariance = 0.1 * torch.ones(N, N).double() + torch.eye(N).double()
    root = torch.linalg.inv(torch.linalg.cholesky(covariance))
    found = Precision(root, False, -torch.linalg.slogdet(covariance).logabsdet).widened(error())
    whole = covariance + error().dense()
    torch.testing.assert_close(found.dense(), torch.linalg.inv(whole), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.log_det, -torch.linalg.slogdet(whole).logabsdet)


def test_the_parts_of_a_covariance_are_those_of_its_matrix():
    covariance = error().dense()
    torch.testing.assert_close(error().diagonal(), covariance.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(error().mean().dense()[0], covariance.mean(0))
    torch.testing.assert_close(error().at(torch.tensor([2])).dense()[0], covariance[2])
    other = torch.ones(BATCH, N, 1).double()
    torch.testing.assert_close(error().plus(other).dense(), covariance + 1.0)
