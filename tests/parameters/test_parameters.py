"""The parameter space: blocks, names, densities as sums over blocks, draws and checks."""

import pytest
import torch

import pddlvm
from pddlvm.basics.errors import InputError, SupportError
from pddlvm.parameters.space import Block

PRIORS = {"kappa": pddlvm.Normal(1.0, 2.0), "f": pddlvm.Uniform(1.0, 5.0), "e": pddlvm.LogNormal()}
SPACE = pddlvm.ParameterSpace(
    {
        "kappa": Block(3, PRIORS["kappa"]),
        "f": Block(1, PRIORS["f"]),
        "e": Block(2, PRIORS["e"]),
    }
)
BLOCK_OF = ["kappa"] * 3 + ["f"] + ["e"] * 2
batches = pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])


def assert_round_off(a, b):
    # Sums of six numbers of size one to ten.
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


# Layout


def test_size_is_the_sum_of_the_blocks():
    assert SPACE.size == 6


def test_names_count_the_parameters_of_a_block():
    assert SPACE.names == ("kappa[0]", "kappa[1]", "kappa[2]", "f", "e[0]", "e[1]")


@batches
def test_split_gives_each_block_its_part(batch):
    z = SPACE.sample(batch, seed=0)
    parts = SPACE.split(z)
    assert list(parts) == ["kappa", "f", "e"]
    assert torch.equal(parts["kappa"], z[..., :3])
    assert torch.equal(parts["f"], z[..., 3:4])
    assert torch.equal(parts["e"], z[..., 4:])


def test_representation_shows_blocks_and_priors():
    assert "f: 1 x Uniform(low=1.0, high=5.0)" in repr(SPACE)


# Draws


@batches
def test_draws_have_the_batch_and_double_precision(batch):
    z = SPACE.sample(batch, seed=0)
    assert z.shape == (*batch, 6)
    assert z.dtype == torch.float64


def test_draws_without_a_shape_are_one_vector():
    assert SPACE.sample(seed=0).shape == (6,)


def test_equal_seeds_give_equal_draws():
    assert torch.equal(SPACE.sample((5,), seed=7), SPACE.sample((5,), seed=7))


def test_other_seeds_give_other_draws():
    assert not torch.equal(SPACE.sample((5,), seed=7), SPACE.sample((5,), seed=8))


def test_a_seed_is_a_generator_with_that_seed():
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(SPACE.sample((5,), generator=generator), SPACE.sample((5,), seed=7))


def test_draws_with_a_seed_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    SPACE.sample((5,), seed=7)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_are_unstandardised_standard_draws():
    xi = SPACE.sample_standard((5,), generator=torch.Generator().manual_seed(7))
    assert torch.equal(SPACE.unstandardise(xi), SPACE.sample((5,), seed=7))


def test_standard_draws_are_uncorrelated_of_variance_one(generator):
    n = 100_000
    xi = SPACE.sample_standard((n,), generator=generator)
    # z-tests of 21 second moments at five standard deviations; the variance of xi^2 is at most 2.
    deviation = (2 / n) ** 0.5
    torch.testing.assert_close(
        xi.T @ xi / n, torch.eye(6, dtype=torch.float64), rtol=0, atol=5 * deviation
    )


def test_draws_pass_the_check(generator):
    z = SPACE.sample((1000,), generator=generator)
    assert SPACE.check(z) is z


# Coordinates


@batches
def test_standard_coordinates_invert(batch):
    z = SPACE.sample(batch, seed=1)
    assert_round_off(SPACE.unstandardise(SPACE.standardise(z)), z)


def test_standard_coordinates_are_those_of_each_block():
    z = SPACE.sample((4,), seed=1)
    expected = [PRIORS[name].standardise(z[:, i]) for i, name in enumerate(BLOCK_OF)]
    assert torch.equal(SPACE.standardise(z), torch.stack(expected, dim=-1))


def test_clamping_moves_only_what_is_outside():
    xi = torch.full((6,), 9.0, dtype=torch.float64)
    moved = SPACE.clamp_standard(xi)
    assert moved.ne(xi).tolist() == [False, False, False, True, False, False]
    assert SPACE.check(SPACE.unstandardise(moved)) is not None


# Densities


@batches
def test_log_density_is_the_sum_over_parameters(batch):
    z = SPACE.sample(batch, seed=2)
    expected = sum(PRIORS[name].log_prob(z[..., i]) for i, name in enumerate(BLOCK_OF))
    assert SPACE.log_prob(z).shape == batch
    assert_round_off(SPACE.log_prob(z), expected)


@batches
def test_standard_log_density_is_the_sum_over_parameters(batch):
    xi = SPACE.standardise(SPACE.sample(batch, seed=2))
    expected = sum(PRIORS[name].standard_log_prob(xi[..., i]) for i, name in enumerate(BLOCK_OF))
    assert SPACE.standard_log_prob(xi).shape == batch
    assert_round_off(SPACE.standard_log_prob(xi), expected)


def test_standard_log_density_follows_by_change_of_variables():
    xi = SPACE.standardise(SPACE.sample(seed=3))
    jacobian = torch.autograd.functional.jacobian(SPACE.unstandardise, xi)
    assert_round_off(
        SPACE.standard_log_prob(xi),
        SPACE.log_prob(SPACE.unstandardise(xi)) + torch.linalg.slogdet(jacobian).logabsdet,
    )


# Checks

INSIDE = [0.0, 0.0, 0.0, 2.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameters_in_the_support_pass_unchanged(dtype):
    z = torch.tensor([INSIDE, INSIDE], dtype=dtype)
    assert SPACE.check(z) is z


@pytest.mark.parametrize("shape", [(), (5,), (6, 1), (2, 7)])
def test_wrong_length_is_refused(shape):
    with pytest.raises(InputError, match=r"6 parameters.*kappa, f, e"):
        SPACE.check(torch.ones(shape))


@pytest.mark.parametrize("z", ["1", 1.0, None, torch.ones(6, dtype=torch.int64)])
def test_what_is_no_floating_point_tensor_is_refused(z):
    with pytest.raises(InputError, match="floating-point"):
        SPACE.check(z)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    z = torch.tensor(INSIDE)
    z[1] = value
    with pytest.raises(InputError, match="not finite"):
        SPACE.check(z)


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [(3, 0.5, r"'f': 0\.5 .*Uniform"), (3, 6.0, r"'f': 6 .*Uniform"), (5, -1.0, r"'e': -1 .*Log")],
)
def test_numbers_outside_the_support_are_named(index, value, message):
    z = torch.tensor([INSIDE, INSIDE])
    z[1, index] = value
    with pytest.raises(SupportError, match=message):
        SPACE.check(z)


def test_message_has_the_name_of_the_argument():
    with pytest.raises(InputError, match=r"^z_known must have 6 parameters"):
        SPACE.check(torch.ones(2), "z_known")


def test_space_without_parameters_is_refused():
    with pytest.raises(InputError, match="at least one"):
        pddlvm.ParameterSpace({})
