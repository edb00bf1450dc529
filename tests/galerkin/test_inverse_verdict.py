"""The inverse map says where it cannot explain a field, and takes noise into account."""

import pytest
import torch

import pddlvm
from problems import nonlinear_poisson, pinn, poisson

N = 100


@pytest.fixture(scope="module")
def model() -> pddlvm.GalerkinModel:
    trained = pddlvm.LatentVariableModel(poisson.make(6, n_terms=3))
    pddlvm.train(trained, max_steps=60, calibrate=False)
    trained.calibrate(512)
    return trained


def noisy(u: torch.Tensor, relative: float) -> tuple[torch.Tensor, float]:
    std = relative * float(u.square().mean().sqrt())
    generator = torch.Generator().manual_seed(1)
    return u + std * torch.randn(u.shape, generator=generator, dtype=u.dtype), std


def inside(model: pddlvm.GalerkinModel, u: torch.Tensor, perturbed: torch.Tensor) -> torch.Tensor:
    """The perturbed field with the boundary values of u."""
    fixed = torch.from_numpy(model.problem.fixed_dofs)
    return perturbed.index_copy(1, fixed, u[:, fixed])


@pytest.mark.parametrize("corrections", [0, 8])
def test_p_values_of_true_solutions_are_about_uniform(model, corrections):
    u = model.problem.solve(model.problem.prior.sample((N,), seed=3))
    inverse = model.inverse(u, corrections=corrections)
    p = inverse.p_value.sort().values
    expected = (torch.arange(N) + 0.5) / N
    # Kolmogorov's distance of 100 draws is 0.16 at 1 %; the 64 of the calibration add theirs.
    assert (p - expected).abs().max() < 0.28
    assert sum(text == "accept" for text in inverse.verdict) >= N - 1


@pytest.mark.parametrize("relative", [1e-3, 1e-2])
def test_a_noisy_field_is_rejected_with_advice(model, relative):
    u = model.problem.solve(model.problem.prior.sample((20,), seed=4))
    verdict = model.inverse(inside(model, u, noisy(u, relative)[0])).verdict
    assert all(text.startswith("reject") and "give noise_std" in text for text in verdict)


def test_a_solution_of_another_mesh_is_rejected(model):
    fine = poisson.make(12, n_terms=3)
    z = fine.prior.sample((20,), seed=5)
    points = model.problem.space.dof_points
    u = fine.solve(z) @ torch.from_numpy(fine.evaluation(points).toarray().T)
    verdict = model.inverse(inside(model, 0 * u, u)).verdict
    assert all(text.startswith("reject") for text in verdict)


def test_a_search_from_a_map_that_was_hardly_trained_is_rejected_where_it_fails():
    hard = pddlvm.LatentVariableModel(poisson.make(6, n_terms=8), seed=1)
    pddlvm.train(hard, max_steps=2, calibrate=False)
    hard.calibrate(64)
    z = hard.problem.prior.sample((N,), seed=6)
    found = hard.inverse(hard.problem.solve(z), corrections=2)
    wrong = ((found.xi_mean - z).abs() > 5 * found.xi_std + 0.5).any(-1)
    accepted = torch.tensor([text == "accept" for text in found.verdict])
    assert not (wrong & accepted).any()
    assert not accepted.all()


def test_one_solution_has_one_verdict_and_no_calibration_no_trust(model):
    u = model.problem.solve(model.problem.prior.sample(seed=7))
    assert model.inverse(u).verdict == "accept"
    fresh = pddlvm.LatentVariableModel(model.problem)
    assert "model.calibrate()" in fresh.inverse(u).verdict
    assert len(fresh.inverse(u.expand(2, 3, -1)).verdict) == 6


@pytest.mark.parametrize("relative", [1e-3, 1e-2])
def test_error_bars_under_noise_are_right(model, relative):
    z = model.problem.prior.sample((N,), seed=8)
    u, std = noisy(model.problem.solve(z), relative)
    found = model.inverse(u, noise_std=std)
    score = (found.xi_mean - z) / found.xi_std
    # 300 scores: their root mean square has a standard error of 4 %.
    assert 0.8 < float(score.square().mean().sqrt()) < 1.25
    assert sum(text == "accept" for text in found.verdict) >= N - 1
    assert found.misfit.shape == found.p_value.shape == (N,)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_wrong_noise_level_is_rejected(model, factor):
    u, std = noisy(model.problem.solve(model.problem.prior.sample((20,), seed=9)), 1e-2)
    found = model.inverse(u, noise_std=factor * std)
    if factor < 1:
        assert all("noise_std" in text for text in found.verdict)
    else:
        # Fields that are better than was said contradict nothing.
        assert all(text == "accept" for text in found.verdict)


def test_each_value_may_have_its_own_noise(model):
    u, std = noisy(model.problem.solve(model.problem.prior.sample((3,), seed=10)), 1e-2)
    each = torch.full((model.problem.n_dofs,), std, dtype=torch.float64)
    one, many = model.inverse(u, noise_std=std), model.inverse(u, noise_std=each)
    # The same numbers in another order, and a search that ends within 1 % of a deviation.
    torch.testing.assert_close(many.xi_mean, one.xi_mean, rtol=1e-3, atol=1e-5)
    each[::2] *= 1e6
    assert (model.inverse(u, noise_std=each).xi_std > one.xi_std).all()


@pytest.mark.parametrize("std", [0.0, -1.0, torch.nan, torch.ones(3)])
def test_noise_that_cannot_be_is_refused(model, std):
    with pytest.raises(pddlvm.InputError, match="noise_std must be"):
        model.inverse(torch.zeros(model.problem.n_dofs), noise_std=std)


def test_known_blocks_and_noise_do_not_go_together():
    problem = nonlinear_poisson.make_1d(10)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.Nodal())
    known = {name: torch.tensor(1.0) for name in list(problem.prior.blocks)[1:2]}
    with pytest.raises(pddlvm.InputError, match="together"):
        model.inverse(torch.zeros(problem.n_dofs), known, noise_std=1.0)


def test_no_fields_get_no_answers(model):
    none = model.inverse(torch.zeros(0, model.problem.n_dofs), noise_std=1.0)
    assert none.mean.shape == (0, 3) and none.verdict == []


def test_a_saved_model_keeps_its_verdicts(model, tmp_path):
    model.save(tmp_path / "model.pt")
    loaded = pddlvm.load(tmp_path / "model.pt", model.problem)
    u = model.problem.solve(model.problem.prior.sample((3,), seed=12))
    assert torch.equal(loaded.inverse(u).p_value, model.inverse(u).p_value)


@pytest.mark.slow
def test_problems_in_strong_form_have_verdicts_and_noise_too():
    problem = pinn.make_heat(grid=(20, 20))
    model = pddlvm.LatentVariableModel(problem)
    pddlvm.train(model, max_steps=600)
    z = problem.prior.sample((N,), seed=8)
    u = problem.solve(z)
    assert sum(text == "accept" for text in model.inverse(u).verdict) >= N - 5
    # The map itself is right to some 6e-4: smaller noise is hidden by it.
    for relative in (1e-2, 3e-2):
        field, std = noisy(u, relative)
        assert all(text.startswith("reject") for text in model.inverse(field).verdict)
        found = model.inverse(field, noise_std=std)
        score = (found.xi_mean - problem.prior.standardise(z)) / found.xi_std
        # 200 scores: their root mean square has a standard error of 5 %.
        assert 0.8 < float(score.square().mean().sqrt()) < 1.25
        assert sum(text == "accept" for text in found.verdict) >= 0.9 * N
