"""Linear operators: equality with the dense matrix, adjoint, batches, dtypes and derivatives."""

import pytest
import scipy.sparse as sp
import torch
from checks import dot_test

from pddlvm import fem
from pddlvm.linalg.operators import DenseOperator, SparseOperator, to_torch_csr

N_ROWS, N_COLUMNS = 7, 5


def matrix(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    full = torch.randn(N_ROWS, N_COLUMNS, generator=generator, dtype=torch.float64)
    keep = torch.rand(N_ROWS, N_COLUMNS, generator=generator) < 0.5
    keep[3] = False  # a row without entries
    return (full * keep).to(dtype)


def sparse(dtype):
    return SparseOperator(sp.csr_matrix(matrix().numpy()), dtype)


def dense(dtype):
    return DenseOperator(matrix(dtype))


operators = pytest.mark.parametrize("make", [sparse, dense])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
batches = pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (2, 1, 4), (0,), (3, 0)])


def draw(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def assert_close(a, b):
    # Sums of seven products of numbers of size one, in either order.
    torch.testing.assert_close(a, b, rtol=0, atol=50 * torch.finfo(b.dtype).eps)


@operators
@dtypes
@batches
def test_forward_equals_dense_product(make, dtype, batch):
    u = draw(*batch, N_COLUMNS, dtype=dtype)
    assert_close(make(dtype)(u), torch.einsum("ij,...j->...i", matrix(dtype), u))


@operators
@dtypes
@batches
def test_adjoint_equals_dense_product(make, dtype, batch):
    q = draw(*batch, N_ROWS, dtype=dtype)
    assert_close(make(dtype).adjoint(q), torch.einsum("ij,...i->...j", matrix(dtype), q))


@operators
@dtypes
def test_forward_and_adjoint_are_transposed(make, dtype):
    dot_test(make(dtype), N_COLUMNS, N_ROWS)


@pytest.mark.parametrize("name", ["interior", "boundary"])
def test_operator_of_a_space_passes_the_dot_test(name):
    region = getattr(fem.Space(fem.unit_square(4), 2, n_components=2), name)()
    dot_test(SparseOperator(region.matrix), region.n_dofs, region.matrix.shape[0])


@operators
def test_input_may_be_strided(make):
    u = draw(N_COLUMNS, 2, 3).permute(2, 1, 0)
    assert not u.is_contiguous()
    assert_close(make(torch.float64)(u), make(torch.float64)(u.contiguous()))


@operators
def test_input_may_be_expanded(make):
    u = draw(N_COLUMNS)
    result = make(torch.float64)(u.expand(4, -1))
    assert_close(result, make(torch.float64)(u).expand(4, -1))


@operators
@pytest.mark.parametrize(("direction", "n"), [("forward", N_COLUMNS), ("adjoint", N_ROWS)])
def test_first_and_second_derivatives(make, direction, n):
    function = getattr(make(torch.float64), direction)
    x = draw(2, 3, n).requires_grad_()
    # The defaults of gradcheck are made for central differences in float64.
    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(function, (x,))


@operators
def test_gradient_of_a_product_is_the_adjoint(make):
    operator = make(torch.float64)
    u, q = draw(N_COLUMNS).requires_grad_(), draw(N_ROWS)
    (gradient,) = torch.autograd.grad(operator(u) @ q, u)
    assert_close(gradient, operator.adjoint(q))


@operators
def test_matrix_has_no_parameters_to_train(make):
    assert not list(make(torch.float64).parameters())


@operators
def test_conversion_of_the_module_converts_the_matrix(make):
    u = draw(N_COLUMNS, dtype=torch.float32)
    assert_close(make(torch.float64).float()(u), matrix(torch.float32) @ u)


@dtypes
def test_csr_has_the_dtype_and_short_indices(dtype):
    csr = to_torch_csr(sp.csr_matrix(matrix().numpy()), dtype)
    assert csr.dtype == dtype
    assert csr.crow_indices().dtype == csr.col_indices().dtype == torch.int32


def test_csr_holds_the_same_matrix():
    csr = to_torch_csr(sp.csr_matrix(matrix().numpy()), torch.float64)
    assert torch.equal(csr.to_dense(), matrix())
