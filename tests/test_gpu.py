"""On a CUDA device the maps agree with those on the CPU; skipped where there is none."""

import pytest
import torch

import pddlvm
from problems import pinn, poisson

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def trained() -> pddlvm.LatentVariableModel:
    """A few training steps on the device."""
    problem = poisson.make(8, n_terms=3)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=8))
    result = pddlvm.train(model, max_steps=50)
    assert result.device.type == "cuda"
    return model


def test_residual_follows_the_device_of_u() -> None:
    problem = poisson.make(8, n_terms=3)
    z = problem.prior.sample((4,), seed=0)
    u = torch.randn(4, problem.n_dofs, dtype=torch.float64)
    on_device = problem.residual(u.cuda(), z.cuda())
    assert on_device.is_cuda
    # Both are float64; only the order of summation differs.
    torch.testing.assert_close(on_device.cpu(), problem.residual(u, z), rtol=1e-10, atol=1e-12)


def test_forward_and_inverse_follow_the_device_of_their_input(
    trained: pddlvm.LatentVariableModel,
) -> None:
    problem = trained.problem
    z = problem.prior.sample((4,), seed=0)
    for corrections in (0, 1):
        on_device = trained.forward(z.cuda(), corrections=corrections)
        on_host = trained.forward(z, corrections=corrections)
        assert on_device.mean.is_cuda and on_device.std.is_cuda
        # float32 maps on both.
        torch.testing.assert_close(on_device.mean.cpu(), on_host.mean, rtol=1e-4, atol=1e-5)
    u = problem.solve(z)
    assert trained.inverse(u.cuda()).mean.is_cuda


def test_refinement_reaches_the_reference_solution(trained: pddlvm.LatentVariableModel) -> None:
    z = trained.problem.prior.sample((2,), seed=0)
    # The solver's own accuracy.
    torch.testing.assert_close(
        trained.refine(z.cuda()).u.cpu(), trained.problem.solve(z), rtol=1e-8, atol=1e-8
    )


def test_a_problem_in_strong_form_trains_on_the_device() -> None:
    problem = pinn.make_heat(grid=(12, 10))
    model = pddlvm.LatentVariableModel(problem, points=pddlvm.Sobol(64), n_functions=8)
    result = pddlvm.train(model, max_steps=30)
    assert result.device.type == "cuda"
    z = problem.prior.sample((3,), seed=0)
    for corrections in (0, 1):
        on_device = model.forward(z.cuda(), corrections=corrections)
        on_host = model.forward(z, corrections=corrections)
        assert on_device.mean.is_cuda and on_device.std.is_cuda
        torch.testing.assert_close(on_device.mean.cpu(), on_host.mean, rtol=1e-4, atol=1e-5)
    points = torch.tensor([[1.0, 0.5]])
    assert model.forward(z.cuda(), points=points.cuda()).std.is_cuda
    assert model.inverse(problem.solve(z).cuda()).mean.is_cuda
    before = model.forward(z).mean
    torch.testing.assert_close(model.cpu().forward(z).mean, before, rtol=1e-4, atol=1e-5)
