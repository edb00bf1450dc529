"""Parameters from whole trajectories: as sharp as these are, with bars that hold."""

import parabolic
import pytest
import torch

import pddlvm
from pddlvm.galerkin.inverse_calibration import repeats_of

N = 200


@pytest.fixture(scope="module")
def model():
    made = pddlvm.LatentVariableModel(parabolic.make("heat"), n_shapes=12, n_modes=16)
    pddlvm.train(made, max_steps=60)
    return made


@pytest.fixture(scope="module")
def solved(model):
    z = model.problem.prior.sample((N,), seed=21)
    return z, model.problem.solve(z)


@pytest.mark.parametrize("corrections", [0, 20])
@pytest.mark.slow
def test_intervals_hold_their_levels(model, solved, corrections):
    z, u = solved
    found = model.inverse(u, corrections=corrections)
    for level in (0.5, 0.8, 0.95, 0.99):
        lower, upper = found.interval(level)
        assert abs(float(((lower <= z) & (z <= upper)).double().mean()) - level) < 0.05


def test_the_search_sharpens_and_is_as_sharp_as_dense_sensors(model, solved):
    z, u = solved[0][:20], solved[1][:20]
    found, alone = model.inverse(u), model.inverse(u, corrections=0)
    assert (found.std.mean(0) < 0.2 * alone.std.mean(0)).all()
    # Nine sensors at all steps with noise of 0.1 %: a trajectory itself is known better.
    points = [[x, y] for x in (0.2, 0.5, 0.8) for y in (0.2, 0.5, 0.8)]
    noise = 1e-3 * float(u.abs().mean())
    sensors = pddlvm.PointObservation(model.problem, points, noise)
    posterior = model.infer(sensors.simulate(u, seed=0), sensors)
    assert (found.std.mean(0) < 2 * posterior.std.mean(0)).all()
    assert ((found.mean - z).square().mean(0).sqrt() < 3 * found.std.mean(0)).all()


@pytest.mark.parametrize("known", ["start", "kappa"])
def test_known_blocks_are_kept_and_the_bars_of_the_others_hold(model, solved, known):
    z, u = solved
    own = model.problem.prior.slices[known]
    found = model.inverse(u, z_known={known: z[:, own]})
    torch.testing.assert_close(found.mean[:, own], z[:, own], rtol=1e-12, atol=1e-12)
    assert (found.std[:, own] == 0).all()
    rest = [k for k in range(z.shape[1]) if not own.start <= k < own.stop]
    lower, upper = found.interval(0.95)
    held = ((lower <= z) & (z <= upper))[:, rest].double().mean()
    # One number of a few digits' error: its bars may be on the safe side.
    assert held > 0.9


def test_each_draw_of_a_calibration_answers_with_several_sets_of_known_blocks():
    assert repeats_of(256, True) == 4
    assert repeats_of(1024, True) == 2
    assert repeats_of(256, False) == 1


def test_true_trajectories_are_accepted_and_noisy_ones_are_not(model, solved):
    u, free = solved[1], torch.from_numpy(model.problem.steady.free_dofs)
    assert sum(text == "accept" for text in model.inverse(u).verdict) >= 0.95 * N
    noisy = u[:20].clone()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(noisy[..., free].shape, generator=generator, dtype=u.dtype)
    noisy[..., free] += 0.03 * u.abs().mean() * noise
    verdict = model.inverse(noisy).verdict
    assert all(text.startswith("reject") and "noise_std" in text for text in verdict)


def test_a_trajectory_of_another_problem_is_rejected(model):
    other = parabolic.make("moving")
    u = other.solve(other.prior.sample((10,), seed=0))
    assert all(text.startswith("reject") for text in model.inverse(u).verdict)


@pytest.mark.slow
def test_dirichlet_values_are_data():
    problem = parabolic.make("boundary")
    model = pddlvm.LatentVariableModel(problem, n_shapes=12, n_modes=16)
    pddlvm.train(model, max_steps=20)
    z = problem.prior.sample((40,), seed=5)
    found = model.inverse(problem.solve(z))
    left = problem.prior.slices["left"]
    # The value on the left is there to be read.
    assert ((found.mean - z)[:, left].abs() < 1e-3).all()
    lower, upper = found.interval(0.95)
    assert float(((lower <= z) & (z <= upper)).double().mean()) > 0.88


def test_corrections_are_checked_and_saved_models_answer_the_same(model, solved, tmp_path):
    u = solved[1][:3]
    with pytest.raises(pddlvm.InputError, match="corrections"):
        model.inverse(u, corrections=-1)
    model.save(tmp_path / "model.pt")
    again = pddlvm.load(tmp_path / "model.pt", model.problem)
    before, after = model.inverse(u), again.inverse(u)
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.std, after.std)
    assert torch.equal(before.p_value, after.p_value)
