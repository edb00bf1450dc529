"""What the maps return: shapes, dtypes, moments and densities of the two Gaussians."""

import math
import warnings

import pytest
import scipy.stats
import small
import torch
from torch.distributions import LogNormal, MultivariateNormal, Normal

import pddlvm
from pddlvm import fem
from pddlvm.latent.error_shape import ErrorShape
from pddlvm.latent.inverse import Inverse
from pddlvm.parameters.space import Block, ParameterSpace
from problems import poisson


@pytest.fixture(scope="module")
def model() -> pddlvm.LatentVariableModel:
    trained = pddlvm.LatentVariableModel(
        poisson.make(6, n_terms=2), basis=pddlvm.ResidualEnriched(n_modes=6)
    )
    pddlvm.train(trained, max_steps=60, calibrate=False)
    trained.calibrate(64)
    return trained


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("corrections", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes_follow_z(model, batch, corrections, dtype):
    n = model.problem.n_dofs
    forward = model.forward(model.problem.prior.sample(batch, seed=0).to(dtype), corrections)
    assert forward.mean.shape == forward.std.shape == (*batch, n)
    assert forward.sample((4,)).shape == (4, *batch, n)
    assert forward.log_prob(forward.mean).shape == forward.residual_norm.shape == batch
    for value in (forward.mean, forward.std, forward.residual_norm, forward.sample()):
        assert value.dtype == dtype
    inverse = model.inverse(forward.mean)
    assert inverse.mean.shape == inverse.std.shape == (*batch, 2)
    assert inverse.mean.dtype == dtype
    assert inverse.sample((4,)).shape == (4, *batch, 2)
    assert inverse.log_prob(inverse.median).shape == batch


def test_a_batch_equals_its_samples_one_by_one(model):
    z = model.problem.prior.sample((3,), seed=0)
    together = model.forward(z)
    for i in range(3):
        alone = model.forward(z[i])
        # float32 matrix products of other shapes.
        torch.testing.assert_close(alone.mean, together.mean[i], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(alone.std, together.std[i], rtol=1e-3, atol=1e-8)


def test_samples_of_the_solution_have_its_moments(model):
    forward = model.forward(model.problem.prior.sample(seed=0))
    free = torch.from_numpy(model.problem.free_dofs)
    n = 4000
    draws = forward.sample((n,), seed=1)
    mean, std = forward.mean[free], forward.std[free]
    # Five standard errors: 1 / sqrt(n) for the mean, 1 / sqrt(2 n) for the std.
    assert ((draws.mean(0)[free] - mean).abs() < 5 * std / math.sqrt(n)).all()
    assert ((draws.std(0)[free] / std - 1).abs() < 5 / math.sqrt(2 * n)).all()
    assert torch.equal(forward.sample((2,), seed=3), forward.sample((2,), seed=3))


def test_boundary_values_are_certain(model):
    forward = model.forward(model.problem.prior.sample((2,), seed=0))
    fixed = torch.from_numpy(model.problem.fixed_dofs)
    assert (forward.std[:, fixed] == 0).all() and (forward.mean[:, fixed] == 0).all()


def test_density_of_the_solution_is_that_of_a_dense_gaussian(model):
    z = model.problem.prior.sample(seed=0)
    forward = model.forward(z)
    free = torch.from_numpy(model.problem.free_dofs)
    draws = forward.sample((20_000,), seed=0)[:, free]
    u = forward.sample(seed=5)
    var_c, var_rest = forward._both_variances
    v = model.reduced.representation.vectors.double()[free]
    covariance = v @ torch.diag(var_c.double()) @ v.T + torch.diag(var_rest.double()[free])
    unit = model.reduction.units.u
    dense = MultivariateNormal(forward.mean[free], unit**2 * covariance)
    # The float32 mean and a floor of 1e-7 of the solution on the std.
    assert float(forward.log_prob(u)) == pytest.approx(float(dense.log_prob(u[free])), rel=1e-3)
    # And that Gaussian is the one that is sampled: expected log density is minus the entropy.
    scores = dense.log_prob(draws)
    tolerance = 5 * float(scores.std()) / math.sqrt(len(scores))
    assert float(scores.mean()) == pytest.approx(-float(dense.entropy()), abs=tolerance)


def test_intervals_of_parameters_lie_between_quantiles_of_draws():
    inverse = edge()
    draws = inverse.sample((20_000,), seed=1)
    lower, upper = inverse.interval(0.8)
    held = ((lower <= draws) & (draws <= upper)).double().mean(0)
    # Five standard errors of a fraction.
    assert (held - 0.8).abs().max() < 5 * math.sqrt(0.16 / len(draws))
    assert ((draws < lower).double().mean(0) - 0.1).abs().max() < 5 * math.sqrt(0.09 / len(draws))


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 95])
def test_levels_that_are_no_probability_are_refused(model, level):
    with pytest.raises(pddlvm.InputError, match="level"):
        model.forward(torch.zeros(2)).interval(level)
    with pytest.raises(pddlvm.InputError, match="level"):
        edge().interval(level)


def test_a_prior_of_ones_own_gets_its_moments():
    class Shifted(pddlvm.Prior):
        """log z ~ N(0, 0.8^2), by an own class."""

        standardise = pddlvm.LogNormal(0.0, 0.8).standardise
        unstandardise = pddlvm.LogNormal(0.0, 0.8).unstandardise
        contains = pddlvm.LogNormal(0.0, 0.8).contains
        log_prob = pddlvm.LogNormal(0.0, 0.8).log_prob
        standard_log_prob = pddlvm.LogNormal(0.0, 0.8).standard_log_prob
        sample_standard = pddlvm.LogNormal(0.0, 0.8).sample_standard

    inverse = Inverse(
        torch.tensor([0.9], dtype=torch.float64),
        torch.tensor([0.7], dtype=torch.float64),
        ParameterSpace({"a": Block(1, Shifted())}),
    )
    exact = LogNormal(0.8 * 0.9, 0.8 * 0.7)
    # What lies farther out than the prior reaches is not counted.
    assert float(inverse.mean) == pytest.approx(float(exact.mean), rel=1e-5)
    assert float(inverse.std) == pytest.approx(float(exact.stddev), rel=1e-5)


def test_inverse_densities_have_closed_forms():
    prior = ParameterSpace(
        {
            "a": Block(1, pddlvm.Normal(1.0, 2.0)),
            "b": Block(1, pddlvm.Uniform(-1.0, 3.0)),
            "c": Block(1, pddlvm.LogNormal(0.5, 0.4)),
        }
    )
    xi_mean = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    xi_std = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    inverse = Inverse(xi_mean, xi_std, prior)
    half = 2.0 / math.sqrt(3.0)
    a = Normal(1 + 2 * xi_mean[0], 2 * xi_std[0])
    # The edges of b are seven deviations away, so its Gaussian is hardly truncated.
    b = Normal(1 + half * xi_mean[1], half * xi_std[1])
    c = LogNormal(0.5 + 0.4 * xi_mean[2], 0.4 * xi_std[2])
    z = torch.tensor([1.5, 0.7, 1.6], dtype=torch.float64)
    expected = a.log_prob(z[0]) + b.log_prob(z[1]) + c.log_prob(z[2])
    torch.testing.assert_close(inverse.log_prob(z), expected)
    torch.testing.assert_close(inverse.mean, torch.stack([a.mean, b.mean, c.mean]))
    torch.testing.assert_close(inverse.std, torch.stack([a.stddev, b.stddev, c.stddev]))
    draws = inverse.sample((20_000,), seed=0)
    # Five standard errors of a mean.
    assert ((draws.mean(0) - inverse.mean).abs() < 5 * inverse.std / math.sqrt(20_000)).all()


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(3), "2 parameters"),
        (torch.tensor([0.0, torch.nan]), "not finite"),
        (torch.zeros(2, dtype=torch.int64), "floating-point"),
        ("0, 0", "floating-point"),
    ],
)
def test_bad_parameters_are_refused(model, z, message):
    for call in (model.forward, model.refine, model.problem.solve):
        with pytest.raises(pddlvm.InputError, match=message):
            call(z)
    with pytest.raises(pddlvm.InputError, match="corrections"):
        model.forward(torch.zeros(2), corrections=-1)


def edge() -> Inverse:
    """A parameter between -1 and 3 that is most likely close to 3, and a positive one."""
    prior = ParameterSpace(
        {"b": Block(1, pddlvm.Uniform(-1.0, 3.0)), "c": Block(1, pddlvm.LogNormal(0.0, 1.0))}
    )
    mean = torch.tensor([1.6, -0.5], dtype=torch.float64)  # the edge is at sqrt(3)
    return Inverse(mean, torch.tensor([0.4, 0.8], dtype=torch.float64), prior)


def truncated() -> scipy.stats.rv_continuous:
    """The distribution of b of `edge`, by SciPy."""
    half = 2.0 / math.sqrt(3.0)
    mean, std = 1 + half * 1.6, half * 0.4
    return scipy.stats.truncnorm((-1 - mean) / std, (3 - mean) / std, mean, std)


def test_a_parameter_near_its_edge_is_a_truncated_gaussian():
    inverse, b = edge(), truncated()
    # float64; SciPy's own integrals of the tails have about ten digits.
    assert float(inverse.mean[0]) == pytest.approx(b.mean(), rel=1e-9)
    assert float(inverse.std[0]) == pytest.approx(b.std(), rel=1e-9)
    assert float(inverse.median[0]) == pytest.approx(b.median(), rel=1e-9)
    z = torch.tensor([2.7, 0.6], dtype=torch.float64)
    c = LogNormal(-0.5, 0.8)
    expected = b.logpdf(2.7) + float(c.log_prob(z[1]))
    assert float(inverse.log_prob(z)) == pytest.approx(expected, rel=1e-6)


def wild(xi_mean: float) -> Inverse:
    """Of a positive parameter, by errors of which a few are ten times as large as the others."""
    scores = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0)).double()
    scores[:8] *= 10
    shape, _ = ErrorShape.of_scores(scores)
    prior = ParameterSpace({"c": Block(1, pddlvm.LogNormal(0.0, 0.5))})
    mean, std = torch.tensor([xi_mean]).double(), torch.tensor([0.6]).double()
    return Inverse(mean, std, prior, shape)


def test_tails_of_errors_end_where_the_prior_does():
    inverse, farthest = wild(0.2), math.exp(0.5 * 5)
    draws = inverse.sample((100_000,), seed=0)
    assert draws.max() < farthest and draws.min() > 1 / farthest
    assert float(inverse.mean) == pytest.approx(float(draws.mean()), rel=0.01)
    assert float(inverse.std) == pytest.approx(float(draws.std()), rel=0.03)
    assert inverse.interval(1 - 1e-9)[1] < 1.001 * farthest
    assert float(inverse.log_prob(torch.tensor([1.1 * farthest]).double())) == -math.inf
    z = torch.linspace(1e-3, 1.01 * farthest, 200_001).double()[:, None]
    assert float(torch.trapezoid(inverse.log_prob(z).exp(), z[:, 0])) == pytest.approx(1, abs=1e-3)


def test_what_lies_beyond_the_prior_has_a_spread_all_the_same():
    # A centre six deviations out, and one of it on either side.
    low, high = wild(6.0).interval(0.5)
    assert float(low) < math.exp(0.5 * 6) < float(high) < 1.001 * math.exp(0.5 * 6.6)


def test_samples_near_an_edge_stay_inside_and_follow_the_density():
    inverse = edge()
    draws = inverse.sample((5000,), seed=0)
    assert inverse.prior.check(draws) is draws
    # One chance in a thousand of a false alarm, at a fixed seed.
    assert scipy.stats.kstest(draws[:, 0].numpy(), truncated().cdf).pvalue > 1e-3
    assert torch.isfinite(inverse.log_prob(draws)).all()


@pytest.mark.parametrize("z", [(3.1, 0.5), (-1.1, 0.5), (1.0, -0.5), (1.0, 0.0)])
def test_the_density_is_zero_outside_of_the_support(z):
    assert float(edge().log_prob(torch.tensor(z, dtype=torch.float64))) == -math.inf


def test_known_parameters_are_certain():
    known = Inverse(torch.tensor([math.sqrt(3.0), 0.2]), torch.zeros(2), edge().prior)
    draws = known.sample((4,), seed=0)
    torch.testing.assert_close(draws, known.median.expand(4, 2))
    assert (known.std == 0).all()
    assert float(known.log_prob(known.mean)) == 0.0


@pytest.fixture(scope="module")
def bounded() -> pddlvm.LatentVariableModel:
    """A problem whose parameters have an edge."""
    space = fem.Space(fem.interval(6))
    problem = pddlvm.Problem(
        "bounded",
        space,
        [pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * (du * du).sum() - u)],
        {"k": pddlvm.Piecewise.on_blocks(space, (2,), prior=pddlvm.Uniform(1.0, 2.0))},
        [pddlvm.Dirichlet(None)],
    )
    return pddlvm.LatentVariableModel(problem, basis=pddlvm.Nodal())


@pytest.mark.parametrize("call", ["forward", "refine"])
def test_parameters_outside_the_support_are_refused(bounded, call):
    with pytest.raises(pddlvm.SupportError, match=r"2\.5"):
        getattr(bounded, call)(torch.tensor([1.5, 2.5]))


def test_samples_of_the_inverse_map_are_accepted_by_the_forward_map(bounded):
    u = bounded.problem.solve(torch.tensor([1.0, 2.0]))
    inverse = bounded.inverse(u, corrections=0)
    assert bounded.forward(inverse.sample((50,), seed=0)).mean.shape == (50, 7)
    assert bounded.forward(inverse.mean).mean.shape == (7,)


@pytest.mark.parametrize("corrections", [0, 1])
def test_no_queries_get_no_answers(model, corrections):
    n = model.problem.n_dofs
    z, u = torch.zeros(0, 2), torch.zeros(0, n)
    forward = model.forward(z, corrections)
    assert forward.mean.shape == forward.std.shape == (0, n)
    assert forward.residual_norm.shape == (0,)
    inverse = model.inverse(u, corrections=corrections)
    assert inverse.mean.shape == inverse.std.shape == (0, 2)
    assert model.refine(z).u.shape == model.problem.solve(z).shape == (0, n)


OF_NO_QUERIES = {
    "mean": lambda answer, n: answer.mean,
    "std": lambda answer, n: answer.std,
    "interval": lambda answer, n: answer.interval(0.9)[0],
    "sample": lambda answer, n: answer.sample(),
    "log_prob": lambda answer, n: answer.log_prob(torch.zeros(0, *n)),
    "residual_norm": lambda answer, n: answer.residual_norm,
}
OF_NO_QUERIES_ON_A_MESH = {
    "error_bound": lambda answer, n: answer.error_bound,
    "error_interval": lambda answer, n: answer.error_interval[1],
    "stability": lambda answer, n: answer.stability,
}
ONE_NUMBER = ("log_prob", "residual_norm", *OF_NO_QUERIES_ON_A_MESH)


@pytest.mark.parametrize(
    ("make", "corrections"),
    [
        (small.galerkin, 0),
        (small.galerkin, 1),
        (small.strong, 0),
        (small.in_time, 0),
        (small.in_time, 1),
    ],
)
def test_no_queries_get_no_answers_of_any_kind(make, corrections):
    model = make()
    z = model.problem.prior.sample((1,), seed=0)
    n = tuple(model.forward(z).mean.shape[1:])
    on_a_mesh = OF_NO_QUERIES_ON_A_MESH if make is small.galerkin else {}
    answer = model.forward(z[:0], corrections)
    shapes = {name: ask(answer, n).shape for name, ask in (OF_NO_QUERIES | on_a_mesh).items()}
    assert shapes == {name: (0,) if name in ONE_NUMBER else (0, *n) for name in shapes}
    assert answer.log_prob(torch.zeros(n)).shape == (0,)


@pytest.mark.parametrize(
    ("make", "of"),
    [(small.galerkin, torch.mean), (small.galerkin, torch.amax), (small.in_time, torch.amax)],
)
def test_no_queries_get_no_quantities(make, of):
    model = make()

    def function(u):
        return of(u.flatten(1), -1, keepdim=True)

    quantity = pddlvm.Quantity(model.problem, function, "of a field")
    z = model.problem.prior.sample((1,), seed=0)
    one, none = (model.forward(z[:k]).of(quantity) for k in (1, 0))
    assert none.mean.shape == none.std.shape == (0, *one.mean.shape[1:])
    assert none.interval(0.9)[0].shape == none.mean.shape


# Models that were never calibrated

ERROR_BARS = {
    "std": lambda model, z: model.forward(z).std,
    "interval": lambda model, z: model.forward(z, corrections=1).interval(0.9),
    "sample": lambda model, z: model.forward(z).sample(),
    "inverse": lambda model, z: model.inverse(model.forward(z).mean),
}


@pytest.mark.parametrize("answer", ERROR_BARS.values(), ids=ERROR_BARS)
@pytest.mark.parametrize("make", [small.galerkin, small.strong])
def test_error_bars_of_a_model_that_was_never_calibrated_are_warned_about(make, answer):
    model = make()
    with pytest.warns(pddlvm.UncalibratedWarning, match="never calibrated"):
        answer(model, model.problem.prior.sample((2,), seed=0))


@pytest.mark.parametrize("make", [small.galerkin, small.strong])
def test_a_training_and_the_answers_after_it_warn_of_nothing(make):
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pddlvm.train(model, max_steps=4, progress=False)
        for answer in ERROR_BARS.values():
            answer(model, model.problem.prior.sample((2,), seed=0))


def moving(x, a):
    return a * x[1]


@pytest.mark.parametrize("corrections", [0, 1])
def test_held_values_that_follow_z_are_exact(corrections):
    space = fem.Space(fem.unit_square(4))
    problem = pddlvm.Problem(
        "held",
        space,
        [pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * (du * du).sum() - u)],
        {
            "k": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0)),
            "a": pddlvm.Constant(pddlvm.Normal()),
        },
        [pddlvm.Dirichlet("left", moving)],
    )
    model = pddlvm.LatentVariableModel(problem)
    model.calibrate()
    z = problem.prior.sample((2, 5), seed=1)
    found = model.forward(z, corrections=corrections)
    held = torch.from_numpy(space.dofs_on("left"))
    x = torch.from_numpy(space.dof_points)[held]
    assert torch.equal(found.mean[..., held], z[..., 1:] * x[:, 1])
    lower, upper = found.interval(0.95)
    assert ((lower <= problem.solve(z)) & (problem.solve(z) <= upper))[..., held].all()
    assert model.forward(z.float(), corrections=corrections).mean.dtype == torch.float32
