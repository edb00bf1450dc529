"""What is given: arrays and lists for tensors, counts and shapes, and the mode of torch around."""

import numpy as np
import pytest
import small
import torch

import pddlvm
from pddlvm import fem
from pddlvm.basics.grad_mode import with_gradients
from problems import poisson

POINTS = [[0.25, 0.25], [0.5, 0.5]]


@pytest.fixture(scope="module", params=[small.galerkin, small.strong, small.in_time])
def model(request):
    made = request.param()
    pddlvm.train(made, max_steps=1, calibrate=False)
    return made


@pytest.fixture(scope="module")
def z(model):
    return model.problem.prior.sample((2,), seed=0)


@pytest.fixture(scope="module")
def u(model, z):
    return model.problem.solve(z)


@pytest.fixture(scope="module")
def observation(model):
    return pddlvm.PointObservation(model.problem, POINTS, noise_std=1.0)


@pytest.fixture(scope="module")
def posterior(model, u, observation):
    return model.infer(observation.simulate(u, seed=0), observation, method="laplace")


# --- arrays and lists ----------------------------------------------------------------------------

converted = pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.tolist])


@converted
def test_maps_take_arrays_and_lists(model, z, u, convert):
    assert torch.equal(model.forward(convert(z)).mean, model.forward(z).mean)
    assert torch.equal(model.inverse(convert(u)).mean, model.inverse(u).mean)
    assert torch.equal(model.problem.solve(convert(z)), u)
    assert torch.equal(model.forward(z).log_prob(convert(u)), model.forward(z).log_prob(u))
    assert torch.equal(model.inverse(u).log_prob(convert(z)), model.inverse(u).log_prob(z))


@converted
def test_data_may_be_arrays_and_lists(model, z, u, observation, posterior, convert):
    y = observation.simulate(convert(u), seed=0)
    found = model.infer(convert(y), observation, method="laplace")
    assert torch.equal(found.mean, posterior.mean)
    assert torch.equal(found.log_prob(convert(z)), posterior.log_prob(z))


@converted
def test_points_of_a_box_may_be_arrays_and_lists(convert):
    box, points = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0)), torch.tensor(POINTS)
    torch.testing.assert_close(box.check(convert(points)).float(), points)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (np.zeros(2, dtype=np.float32), torch.float32),
        (np.zeros(2), torch.float64),
        (np.zeros(2, dtype=np.int32), torch.float64),
        ([0, 0], torch.float64),
        ((0.0, 0.0), torch.float64),
    ],
)
def test_an_array_keeps_its_floating_point_type(given, dtype):
    prior = poisson.make(4, 2).prior
    assert prior.check(given).dtype == dtype


@pytest.mark.parametrize(
    "given", [["0", "0"], [[0.0], [0.0, 0.0]], [True, False], [1j, 0], [None, 0]]
)
def test_lists_of_other_things_are_refused(model, given):
    with pytest.raises(pddlvm.InputError, match=r"z (must be|is no array of) numbers"):
        model.forward(given)


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda x: x.to("meta")])
def test_tensors_without_dense_values_are_refused(model, z, u, observation, change):
    for name, call, value in (
        ("z", model.forward, z),
        ("z", model.problem.solve, z),
        ("u", model.inverse, u),
        ("y", lambda y: model.infer(y, observation, method="nuts"), observation.apply(u)),
    ):
        with pytest.raises(pddlvm.InputError, match=rf"^{name} (is a sparse|has no values)"):
            call(change(value))


# --- counts and shapes ---------------------------------------------------------------------------


@pytest.mark.parametrize("corrections", [1.5, "1", -1, None])
def test_corrections_are_a_count(model, z, corrections):
    with pytest.raises(pddlvm.InputError, match="corrections must be an integer"):
        model.forward(z, corrections=corrections)


@pytest.mark.parametrize("wrong", ["3", -1, 1j])
def test_limits_of_a_training_are_numbers(model, wrong):
    for name in ("max_steps", "max_seconds"):
        with pytest.raises(pddlvm.InputError, match=f"{name} must be a positive number"):
            pddlvm.train(model, **{name: wrong})
    with pytest.raises(pddlvm.InputError, match="batch_size must be an integer"):
        pddlvm.train(model, max_steps=1, batch_size=wrong)
    with pytest.raises(pddlvm.InputError, match="n_samples must be an integer"):
        pddlvm.validate(model, wrong)


def test_steps_are_a_count(model):
    with pytest.raises(pddlvm.InputError, match=r"max_steps must be an integer, got 3\.5"):
        pddlvm.train(model, max_steps=3.5)


@pytest.mark.parametrize("shape", [-1, (-1,), 2.5, (2.0,), "2", None])
def test_the_shape_of_a_sample_is_checked(model, z, u, posterior, shape):
    for found in (model.problem.prior, model.forward(z), model.inverse(u), posterior):
        with pytest.raises(pddlvm.InputError, match="the shape of a sample must"):
            found.sample(shape)


def test_a_number_is_a_shape(model, z, u):
    for found in (model.problem.prior, model.forward(z), model.inverse(u)):
        assert torch.equal(found.sample(3, seed=0), found.sample((3,), seed=0))


@pytest.mark.parametrize("method", ["laplace", "variational", "nuts", "exact", "amortized"])
def test_no_data_set_is_refused(model, u, observation, method):
    with pytest.raises(pddlvm.InputError, match=r"no data set, its shape is \(0, \d+\)"):
        model.infer(observation.apply(u)[:0], observation, method=method)


# --- modes ---------------------------------------------------------------------------------------

MODES = torch.no_grad, torch.inference_mode
modes = pytest.mark.parametrize("mode", MODES)


@pytest.mark.parametrize("make", [small.galerkin, small.strong, small.in_time])
def test_training_is_the_same_without_gradients_around(make):
    expected = make()
    pddlvm.train(expected, max_steps=2, calibrate=False)
    for mode in MODES:
        with mode():
            model = make()
            pddlvm.train(model, max_steps=2, calibrate=False)
        for name, value in expected.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), (mode, name)


def test_derivatives_can_be_taken_wherever_we_are_called():
    def slope_of(x):
        at = x.clone().requires_grad_()
        return torch.autograd.grad(at.square(), at)[0]

    with torch.inference_mode():
        assert with_gradients(slope_of)(torch.tensor(3.0)) == 6.0
        assert torch.is_inference_mode_enabled()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "method"),
    [
        *((small.galerkin, method) for method in ("laplace", "variational", "nuts", "exact")),
        *((small.in_time, method) for method in ("laplace", "variational", "nuts")),
    ],
)
def test_inference_is_the_same_in_inference_mode(make, method):
    model = make()
    # Next to nothing is learnt from these data: trajectories are short.
    observation = pddlvm.PointObservation(model.problem, POINTS, noise_std=10.0)
    y = torch.full((observation.n,), 0.5)
    options = {"method": method, "n_samples": 4, "n_chains": 1}
    expected = model.infer(y, observation, **options)
    with torch.inference_mode():
        # A tensor of the mode, too.
        posterior = model.infer(y.clone(), observation, **options)
    assert torch.equal(posterior.mean, expected.mean)


def test_predictions_are_the_same_in_inference_mode(model, z, u):
    with torch.inference_mode():
        inside = model.forward(z.clone(), corrections=1).mean, model.problem.solve(z.clone())
    assert torch.equal(inside[0], model.forward(z, corrections=1).mean)
    assert torch.equal(inside[1], u)


# --- what is said of it --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (
            lambda problem: pddlvm.PointObservation(problem, [[0.5, 0.5]], "0.01"),
            "noise_std must be numbers, got '0.01'",
        ),
        (
            lambda problem: pddlvm.PointObservation(
                problem, [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], 1.0
            ),
            "points must have shape (n_points, 2), got (2, 3); try (3, 2), the transpose",
        ),
        (
            lambda problem: pddlvm.PointObservation(problem, [0.2, 0.5], 1.0),
            "points must have shape (n_points, 2), got (2,); a list of it, [[...]], is one point",
        ),
        (
            lambda problem: pddlvm.LatentVariableModel(problem).infer([0.1], "sensors"),
            "observation must be an Observation, got str: 'sensors'",
        ),
        (
            lambda problem: pddlvm.LatentVariableModel(problem).forward([0.1, "a"]),
            "z must be numbers, got an array of <U32; missing values are NaN",
        ),
    ],
)
def test_a_mistake_is_shown_in_one_line(ask, said):
    with pytest.raises(pddlvm.InputError) as error:
        ask(poisson.make(4, n_terms=2))
    assert str(error.value) == said


def test_a_known_block_is_numbers():
    model = small.galerkin()
    name = next(iter(model.problem.random_fields))
    u = torch.zeros(model.problem.n_dofs, dtype=torch.float64)
    with pytest.raises(pddlvm.InputError, match=rf"z_known\['{name}'\] must be numbers, got '3'"):
        model.inverse(u, z_known={name: "3"})


def test_a_region_is_named_where_a_boundary_is_meant():
    space = fem.Space(fem.unit_square(4))
    with pytest.raises(pddlvm.MeshError, match=r"fem.Nodes, got Region\('left', 4 cells\)"):
        space.boundary(space.boundary("left"))
