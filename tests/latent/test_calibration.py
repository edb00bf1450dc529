"""Calibrated variances: the variance model recovers known spreads, a calibrated model covers."""

import math

import pytest
import torch

import pddlvm
from pddlvm.latent.uncertainty import Uncertainty
from pddlvm.latent.variance_model import VarianceModel
from problems import poisson


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_variance_model_recovers_a_known_spread():
    torch.manual_seed(0)
    x = torch.randn(2000, 2, generator=generator())
    base = 0.5 * x[:, :1]
    shift = torch.tensor([-2.0, 0.0, 1.0])
    log_variance = base + shift + 2 * torch.tanh(x[:, 1:])
    errors = (0.5 * log_variance).exp() * torch.randn(2000, 3, generator=generator(1))
    model = VarianceModel(2, 3)
    unseen = model.fit(x, base, errors)
    with torch.no_grad():
        difference = model(x, base) - log_variance
    # A log variance estimated from 2000 samples of 3 has a standard error of 0.02, and tanh is no
    # straight line: the best leaves 0.33. Without the features it would miss by its spread, 1.3.
    assert float(difference.square().mean().sqrt()) < 0.4
    assert difference.mean(0).abs().max() < 0.15
    # What each sample was left out of is nearly the same, but not the same.
    with torch.no_grad():
        apart = (unseen - model(x, base)).abs().max()
    assert 0 < float(apart) < 0.3


def test_hundred_features_do_not_hide_that_nothing_depends_on_them():
    # A fit that follows its own 400 samples says too little of others.
    x = torch.randn(800, 100, generator=generator())
    errors = torch.randn(800, 1, generator=generator(1))
    model = VarianceModel(100, 1)
    none = torch.zeros(800, 1)
    unseen = model.fit(x[:400], none[:400], errors[:400])
    with torch.no_grad():
        others = errors[400:].square() / model(x[400:], none[400:]).exp()
    # 400 squares of normal numbers have a mean of 1 within 0.07; with the weakest ridge alone those
    # of others have one of 8, and those left out one of 55.
    assert float(others.mean()) == pytest.approx(1, abs=0.4)
    assert float((errors[:400].square() / unseen.exp()).mean()) == pytest.approx(1, abs=0.4)


def test_a_draw_that_comes_again_is_left_out_with_its_copy():
    x = torch.randn(401, 3, generator=generator()).repeat(2, 1)
    errors = torch.randn(401, 2, generator=generator(1)).repeat(2, 1)
    none = torch.zeros(802, 1)
    once, again = VarianceModel(3, 2).fit(x, none, errors, n_draws=401).split(401)
    torch.testing.assert_close(once, again, rtol=0, atol=0)


def test_a_few_errors_far_above_their_neighbours_do_not_decide():
    """One of a hundred samples is thirty times off, whatever its features are."""
    x = torch.randn(2000, 20, generator=generator())
    log_std = 0.5 * x[:, :1]
    is_off = torch.rand(2000, 1, generator=generator(1)) < 0.01
    scores = torch.where(is_off, 30.0, 1.0) * torch.randn(2000, 4, generator=generator(2))
    errors = log_std.exp() * scores
    model, none = VarianceModel(20, 4), torch.zeros(2000, 1)
    model.fit(x[:1000], none[:1000], errors[:1000])
    with torch.no_grad():
        found = 0.5 * model(x[1000:], none[1000:]).mean(1)
    # With normal errors in the place of the t density it is 0.45.
    assert float((found - log_std[1000:, 0]).std()) < 0.2
    # They count in the mean square: 1 + 0.01 * 900.
    expected = 0.5 * float(scores[:1000].square().mean().log())
    assert float((found - log_std[1000:, 0]).mean()) == pytest.approx(expected, abs=0.2)


def test_errors_that_do_not_count_are_ignored():
    errors = torch.randn(2000, 2, generator=generator())
    counts = (torch.rand(2000, 2, generator=generator(1)) < 0.5).float()
    spoiled = torch.where(counts > 0, errors, 1e6)
    model, x = VarianceModel(1, 2), torch.zeros(2000, 1)
    model.fit(x, torch.zeros(2000, 1), spoiled, counts=counts)
    with torch.no_grad():
        # A log variance from 750 samples has a standard error of 0.05.
        assert model(x, torch.zeros(2000, 1))[0].abs().max() < 0.25


def test_many_small_parts_of_a_field_do_not_say_how_large_it_is():
    """Nineteen parts of a thousandth grow steeply with x, the one that matters does not."""
    x = torch.randn(1000, 1, generator=generator())
    std = torch.cat([torch.ones_like(x), (1e-3 * (1.5 * x).exp()).expand(-1, 19)], dim=1)
    errors = std * torch.randn(1000, 20, generator=generator(1))
    model, none = VarianceModel(1, 20), torch.zeros(1000, 1)
    model.fit(x, none, errors, norms=torch.ones(20))
    with torch.no_grad():
        size = model(x, none).exp().sum(1).sqrt()
    # Each for itself, x would decide: sizes from 0.05 to 8.
    assert float(size.log().std()) < 0.1
    assert float(size.square().mean().sqrt()) == pytest.approx(1, abs=0.1)
    # Parts without any error have no share, and nothing fails.
    model.fit(x, none, torch.zeros_like(errors), norms=torch.ones(20))
    with torch.no_grad():
        assert torch.isfinite(model(x, none)).all()


@pytest.fixture(scope="module")
def model() -> pddlvm.LatentVariableModel:
    trained = pddlvm.LatentVariableModel(
        poisson.make(8, n_terms=3),
        basis=pddlvm.ResidualEnriched(n_modes=8),
        # Wide, as by default: an error is to be added that is large beside its own.
        forward_network=pddlvm.NeuralGaussian(3, 8, width=192, log_variance=-9.0),
    )
    pddlvm.train(trained, max_steps=100, calibrate=False)
    trained.calibrate(768)
    return trained


def held(interval, true, level: float) -> float:
    lower, upper = interval(level)
    return float(((lower <= true) & (true <= upper)).double().mean())


@pytest.mark.parametrize("corrections", [0, 1])
@pytest.mark.slow
def test_intervals_of_the_forward_map_hold(model, corrections):
    z = model.problem.prior.sample((1000,), seed=11)
    u = model.problem.solve(z)
    free = torch.from_numpy(model.problem.free_dofs)
    forward = model.forward(z, corrections=corrections)
    for level in (0.5, 0.8, 0.95, 0.99):
        lower, upper = (end[:, free] for end in forward.interval(level))
        inside = ((lower <= u[:, free]) & (u[:, free] <= upper)).double().mean()
        # Errors of a sample are worth some three independent ones: a standard error of at most 1 %.
        assert float(inside) == pytest.approx(level, abs=0.03 if level < 0.99 else 0.01)
    error, std = (forward.mean - u)[:, free], forward.std[:, free]
    assert float((error / std).square().mean().sqrt()) == pytest.approx(1, abs=0.1)
    # Means over all samples are those of a few far out; the median sees the others.
    per_sample = std.square().mean(1).sqrt() / error.square().mean(1).sqrt()
    assert 0.8 <= float(per_sample.median()) <= 1.25
    logs = torch.stack([error.norm(dim=1), std.norm(dim=1)]).log()
    assert float(torch.corrcoef(logs)[0, 1]) > 0.7


@pytest.mark.parametrize("level", [0, 1])
def test_far_from_the_prior_variances_are_huge_and_numbers(level):
    problem = poisson.make(4, n_terms=2)
    found = Uncertainty(problem.prior, 3, problem.n_dofs, problem.fixed_dofs, torch.float32)
    xi, log_size = torch.zeros(2, 2), torch.tensor([[1.0], [60.0]])
    var_c, var_rest = found.forward_variances(xi, log_size, torch.zeros(2, 1), level)
    # exp(120) is no number of single precision; times a zero it would be none at all.
    assert torch.isfinite(var_c).all() and torch.isfinite(var_rest).all()
    assert (var_rest[:, problem.fixed_dofs] == 0).all()
    free = torch.from_numpy(problem.free_dofs)
    torch.testing.assert_close(var_rest[0, free], torch.full((len(free),), math.exp(2.0)))
    assert (var_c[1] > 1e25).all() and (var_rest[1, free] > 1e25).all()


@pytest.fixture(scope="module")
def line() -> pddlvm.LatentVariableModel:
    """Its one mode is the solution: corrected, it is right to all digits."""
    trained = pddlvm.LatentVariableModel(poisson.make_1d())
    pddlvm.train(trained, max_steps=60, calibrate=False)
    trained.calibrate(512)
    return trained


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_error_bars_reach_down_to_rounding(line, dtype):
    z = line.problem.prior.sample((300,), seed=11).to(dtype)
    free = torch.from_numpy(line.problem.free_dofs)
    forward = line.forward(z, corrections=1)
    error = (forward.mean.double() - line.problem.solve(z.double()))[:, free]
    ratio = forward.std[:, free].double().square().mean().sqrt() / error.square().mean().sqrt()
    digits = error.norm() / forward.mean.norm()
    assert 0.1 * torch.finfo(dtype).eps < digits < (1e-13 if dtype == torch.float64 else 1e-7)
    if dtype == torch.float32:
        # A handful of draws far out decide means of squares.
        assert float(ratio) == pytest.approx(1, abs=0.25)
    else:
        # What is right to all digits of the truth has the rounding of its last one, no more.
        assert 0 < float(ratio) < 1.25


def test_intervals_of_the_inverse_map_hold(model):
    z = model.problem.prior.sample((1000,), seed=12)
    inverse = model.inverse(model.problem.solve(z))
    for level in (0.5, 0.8, 0.95, 0.99):
        # 3000 values: a standard error of 1 %, and what the calibration's own 256 draws add.
        wanted = pytest.approx(level, abs=0.04 if level < 0.99 else 0.01)
        assert held(inverse.interval, z, level) == wanted
    error = (inverse.mean - z) / inverse.std
    assert float(error.square().mean().sqrt()) == pytest.approx(1, abs=0.2)


def test_predicted_std_grows_where_the_map_is_wrong(model):
    z = model.problem.prior.sample((100,), seed=13)
    with torch.no_grad():
        model.forward_map.network.head.bias += 0.2
        worse = model.forward(z).std.norm(dim=1).median()
        model.forward_map.network.head.bias -= 0.2
    # The std reads the residual of each query, so a map that got worse says so unasked.
    # Thirty times as wrong.
    assert worse > 4 * model.forward(z).std.norm(dim=1).median()


def test_too_few_samples_are_refused(model):
    with pytest.raises(pddlvm.InputError, match="at least"):
        model.calibrate(5)


@pytest.mark.parametrize("n", [0, -1, 31])
def test_zero_samples_are_no_default(model, n):
    with pytest.raises(pddlvm.InputError, match="at least"):
        model.calibrate(n)


def test_calibration_leaves_the_global_random_state_alone(model):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model.calibrate(64)
    assert torch.equal(torch.rand(1), expected)
