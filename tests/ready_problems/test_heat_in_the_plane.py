"""A ready problem in strong form with two coordinates and time."""

import math

import numpy as np
import pytest
import torch

import pddlvm
from problems import pinn


def series(z, x, y, t, n=150):
    """u = sum_kl q_kl (1 - exp(-D lambda_kl t)) / (D lambda_kl) sin(k pi x) sin(l pi y)."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    s, weights = torch.from_numpy(0.5 + 0.5 * nodes), torch.from_numpy(0.5 * weights)
    k = math.pi * torch.arange(1, n + 1, dtype=torch.float64)

    def part(at):
        near = torch.exp(-((s - at) ** 2) / (2 * pinn.WIDTH**2))
        return 2 * (torch.sin(k[:, None] * s) * near) @ weights

    decay = z[0] * (k[:, None] ** 2 + k**2)
    size = pinn.HEAT * part(z[1])[:, None] * part(z[2])
    grown = (size / decay) * (1 - torch.exp(-decay * t[:, None, None]))
    return torch.einsum(
        "tkl,kx,ly->xyt", grown, torch.sin(k[:, None] * x), torch.sin(k[:, None] * y)
    )


def test_the_plate_is_that_of_its_series():
    z = torch.tensor([[0.05, 0.3, 0.6], [0.2, 0.7, 0.45]], dtype=torch.float64)
    errors = []
    for nodes in ((8, 8, 6), (12, 12, 9), (16, 16, 12)):
        problem = pinn.make_heat_2d(grid=(9, 7, 5), nodes=nodes)
        expected = torch.stack([series(one, *problem.axes).flatten() for one in z])
        errors.append(float((problem.solve(z) - expected).abs().max() / expected.abs().max()))
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5
    assert errors[2] < 1e-4


@pytest.mark.slow
def test_a_model_of_the_plate():
    problem = pinn.make_heat_2d(grid=(15, 15, 11), nodes=(14, 14, 10))
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_steps=500, calibrate=False)
    model.calibrate(256)
    z = problem.prior.sample((60,), seed=5)
    u, forward = problem.solve(z), model.forward(z)
    error = forward.mean - u
    assert (error.norm(dim=1) / u.norm(dim=1)).mean() < 5e-3
    held = (error.abs() <= 2 * forward.std)[forward.std > 0].double().mean()
    assert 0.9 < held < 0.99
    corrected = model.forward(z[:4], corrections=1).mean
    assert (corrected - u[:4]).abs().max() < 1e-9
