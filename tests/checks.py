"""Checks that several test files share."""

import torch


def dot_test(operator, n_columns, n_rows):
    """Assert that forward and adjoint belong together: <B u, q> = <u, B^T q>, u and q random."""
    dtype = next(operator.buffers()).dtype
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(n_columns, generator=generator, dtype=torch.float64).to(dtype)
    q = torch.randn(n_rows, generator=generator, dtype=torch.float64).to(dtype)
    e, adjoint = operator(u), operator.adjoint(q)
    assert e.shape == (n_rows,)
    assert adjoint.shape == (n_columns,)
    # Two orders of the same sum: equal to some units of round-off of its largest possible value.
    scale = e.norm() * q.norm() + u.norm() * adjoint.norm()
    assert abs(e @ q - u @ adjoint) <= 10 * torch.finfo(dtype).eps * scale
