"""The model of trajectories: training, answers, files, sensors."""

from functools import partial
from xml.etree import ElementTree

import meshio
import numpy as np
import parabolic
import pytest
import torch
from checks import refuses
from meshio.xdmf import TimeSeriesReader

import pddlvm
from problems import poisson


@pytest.fixture(scope="module")
def problem():
    return parabolic.make("heat")


@pytest.fixture(scope="module")
def model(problem):
    made = pddlvm.LatentVariableModel(problem, n_shapes=12, n_modes=12)
    pddlvm.train(made, max_steps=60)
    return made


def test_it_is_the_model_of_problems_in_time(model):
    assert isinstance(model, pddlvm.TrajectoryModel)


@pytest.mark.parametrize("corrections", [0, 1, 2])
def test_error_bars_hold_the_errors(model, problem, corrections):
    z = problem.prior.sample((40,), seed=9)
    u, found = problem.solve(z), model.forward(z, corrections=corrections)
    free = torch.from_numpy(problem.steady.free_dofs)
    assert found.mean.shape == found.std.shape == u.shape
    assert float((model.norm(found.mean - u) / model.norm(u)).mean()) < 2e-2
    held = ((found.mean - u).abs() <= 2 * found.std)[..., free].double().mean()
    assert 0.9 < held < 0.99
    assert (found.std[..., problem.steady.fixed_dofs] == 0).all()


def test_corrections_and_certificates_lower_the_error(model, problem):
    z = problem.prior.sample((16,), seed=3)
    errors = [model.norm(model.forward(z, k).mean - problem.solve(z)).mean() for k in (0, 1, 2)]
    norms = [model.forward(z, k).residual_norm.mean() for k in (0, 1, 2)]
    assert errors[0] > errors[1] > errors[2]
    assert norms[0] > norms[2]


def test_times_are_between_steps_and_lazy(model, problem):
    z = problem.prior.sample((2,), seed=1)
    times = [0.1, 0.2123, parabolic.END]
    whole, some = model.forward(z), model.forward(z, times=times)
    rows = torch.from_numpy(problem.between(times).toarray())
    torch.testing.assert_close(some.mean, torch.einsum("tk,bkn->btn", rows, whole.mean))
    assert some.std.shape == (2, 3, problem.n_dofs)
    assert "_mean" not in vars(model.forward(z))


def test_times_outside_are_refused(model, problem):
    z = problem.prior.sample(seed=1)
    with pytest.raises(pddlvm.InputError, match="outside of the interval"):
        model.forward(z, times=[2 * parabolic.END])
    with pytest.raises(pddlvm.InputError, match="before the first step"):
        model.forward(z, times=[0.0])


def test_a_report_agrees_with_its_definitions(model, problem):
    report = pddlvm.validate(model, n_samples=20, seed=3)
    z = problem.prior.sample((20,), seed=3)
    u, found = problem.solve(z), model.forward(z)
    relative = (found.mean - u).flatten(1).norm(dim=1) / u.flatten(1).norm(dim=1)
    assert report.relative_l2 == pytest.approx(float(relative.mean()))
    assert report.relative_norm == pytest.approx(
        float((model.norm(found.mean - u) / model.norm(u)).mean())
    )
    free = torch.from_numpy(problem.steady.free_dofs)
    held = ((found.mean - u).abs() <= 2 * found.std)[..., free].double().mean()
    assert report.coverage_u == pytest.approx(float(held), abs=0.03)
    assert report.relative_l2_corrected < report.relative_l2
    assert "coverage of u" in str(report)


def test_files_over_time_have_a_part_for_each_step(model, problem, tmp_path):
    z = problem.prior.sample(seed=1)
    parts = list(model.series_of(z, 1, 0))
    assert [t for t, _ in parts] == problem.times.tolist()
    mean = model.forward(z).mean[-1]
    values = parts[-1][1].point_data
    assert {"u_mean", "u_std", "u_sample_0"} <= set(values)
    torch.testing.assert_close(torch.from_numpy(values["u_mean"]), mean)
    model.to_pvd(tmp_path / "heat.pvd", z)


@pytest.mark.parametrize("times", [None, [0.1, 0.33, 0.4]])
def test_a_time_series_in_one_file_reads_back(model, problem, tmp_path, times):
    z = problem.prior.sample(seed=1)
    model.to_xdmf(tmp_path / "u.xdmf", z, times=times, n_samples=1)
    expected = model.forward(z, times=times)
    with TimeSeriesReader(tmp_path / "u.xdmf") as file:
        points, cells = file.read_points_cells()
        parts = [file.read_data(k) for k in range(file.num_steps)]
    np.testing.assert_allclose(points[:, :2], problem.space.mesh.p.T, rtol=0, atol=1e-15)
    assert len(cells[0].data) == problem.space.mesh.nelements
    assert [t for t, *_ in parts] == expected.times.tolist()
    for k, (_, at_points, in_cells) in enumerate(parts):
        np.testing.assert_array_equal(at_points["u_mean"], expected.mean[k])
        np.testing.assert_array_equal(at_points["u_std"], expected.std[k])
        assert at_points["u_sample_0"].shape == (problem.n_dofs,)
        np.testing.assert_array_equal(in_cells["kappa"][0], problem.parameter_field(z))


def test_a_collection_has_the_times_that_are_asked_for(model, problem, tmp_path):
    z = problem.prior.sample(seed=1)
    model.to_pvd(tmp_path / "u.pvd", z, times=[0.1, 0.33])
    entries = ElementTree.parse(tmp_path / "u.pvd").getroot().findall("./Collection/DataSet")
    assert [float(entry.attrib["timestep"]) for entry in entries] == [0.1, 0.33]
    last = meshio.read(tmp_path / entries[-1].attrib["file"])
    expected = model.forward(z, times=[0.1, 0.33]).mean[1]
    np.testing.assert_array_equal(last.point_data["u_mean"], expected)


def test_series_that_there_are_not_are_refused(model, problem, tmp_path):
    z = problem.prior.sample((2,), seed=1)
    refused = partial(refuses, error=pddlvm.InputError)
    refused("end in .xdmf", model.to_xdmf, tmp_path / "u.pvd", z[0])
    refused("times of one z, got 2", model.to_xdmf, tmp_path / "u.xdmf", z)
    refused("a sweep has 2", model.to_pvd, tmp_path / "u.pvd", z, times=[0.1])
    refused("outside", model.to_pvd, tmp_path / "u.pvd", z[0], times=[9.0])
    refused("before the first step", model.to_xdmf, tmp_path / "u.xdmf", z[0], times=[0.0])
    refused("no time", model.to_xdmf, tmp_path / "u.xdmf", z[0], times=[])
    steady = pddlvm.LatentVariableModel(poisson.make(4, 2), basis=pddlvm.EnergyModes(2))
    zero = torch.zeros(2)
    refused("no steps in time", steady.to_xdmf, tmp_path / "u.xdmf", zero, times=[0.1])
    assert not list(tmp_path.iterdir())
    steady.to_xdmf(tmp_path / "u.xdmf", zero)
    with TimeSeriesReader(tmp_path / "u.xdmf") as file:
        assert file.num_steps == 1


def test_draws_and_densities_are_those_of_the_gaussian(model, problem):
    found = model.forward(problem.prior.sample(seed=4), times=[0.1, 0.3])
    draws = found.sample((2000,), seed=0)
    free = torch.from_numpy(problem.steady.free_dofs)
    spread = draws.std(0)[..., free] / found.std[..., free]
    assert (spread - 1).abs().max() < 0.15
    variance = found.std[..., free].square()
    rows = torch.eye(2 * problem.n_dofs, dtype=torch.float64)
    covariance = found.covariance(rows)
    inside = (torch.arange(2)[:, None] * problem.n_dofs + free).flatten()
    own = covariance[inside][:, inside]
    torch.testing.assert_close(own.diagonal(), variance.flatten())
    normal = torch.distributions.MultivariateNormal(
        found.mean[..., free].flatten(), own + 1e-14 * torch.eye(len(own)).double()
    )
    expected = normal.log_prob(draws[:1][..., free].flatten(1))
    assert abs(float(found.log_prob(draws[0]) - expected)) < 1e-2 * abs(float(expected))


def test_densities_take_any_batch_of_trajectories(model, problem):
    z = problem.prior.sample((3,), seed=4)
    u, found = problem.solve(z), model.forward(z)
    whole = found.log_prob(u[:, None])
    assert whole.shape == (3, 3)
    torch.testing.assert_close(whole.diagonal(), found.log_prob(u))
    # The map rounds to float32, of one z otherwise than of three; these densities are large.
    torch.testing.assert_close(model.forward(z[1]).log_prob(u), whole[:, 1], rtol=1e-3, atol=0)


def test_trajectories_and_rows_are_checked(model, problem):
    found = model.forward(problem.prior.sample((3,), seed=4), times=[0.1, 0.3])
    u = found.mean
    for wrong, said in {
        "2 times and 49 degrees": u[..., 0, :],
        "2 times and 49 degrees ": u[..., :3],
        "do not broadcast": u[:2],
        "not finite": u / 0,
    }.items():
        with pytest.raises(pddlvm.InputError, match=wrong.strip()):
            found.log_prob(said)
    with pytest.raises(pddlvm.InputError, match="rows must have 98 values"):
        found.covariance(torch.ones(2, problem.n_dofs, dtype=torch.float64))


@pytest.mark.parametrize("corrections", [0, 1, 2])
def test_no_parameters_have_no_trajectories(model, problem, corrections):
    found = model.forward(problem.prior.sample((0,), seed=0), corrections)
    shape = (0, problem.n_times, problem.n_dofs)
    assert found.mean.shape == found.std.shape == found.interval()[0].shape == shape
    assert found.residual_norm.shape == found.log_prob(found.mean).shape == (0,)
    assert found.sample((2,)).shape == (2, *shape)


def test_intervals_hold_the_mean(model, problem):
    found = model.forward(problem.prior.sample(seed=4))
    lower, upper = found.interval(0.8)
    assert ((lower <= found.mean) & (found.mean <= upper)).all()


def test_inverse_finds_parameters(model, problem):
    z = problem.prior.sample((40,), seed=11)
    found = model.inverse(problem.solve(z))
    assert 0.85 < ((found.mean - z).abs() <= 2 * found.std).double().mean() <= 1
    assert found.mean.shape == z.shape


def test_noise_of_whole_trajectories_is_refused(model, problem):
    with pytest.raises(pddlvm.InputError, match="PointObservation"):
        model.inverse(problem.solve(problem.prior.sample(seed=0)), noise_std=0.1)


def test_maps_are_not_written_for_other_programs(model, tmp_path):
    with pytest.raises(pddlvm.InputError, match=r"^maps of trajectories cannot be written.*to_pvd"):
        pddlvm.export_maps(model, tmp_path, "torch")
    assert not list(tmp_path.iterdir())


def test_a_reduction_is_that_of_the_problem_and_has_its_sizes(model, problem):
    with pytest.raises(
        pddlvm.InputError, match=r"the reduction is that of .*'heat'.*not of .*'wave'"
    ):
        pddlvm.LatentVariableModel(parabolic.make("wave"), reduction=model.reduction)
    with pytest.raises(pddlvm.InputError, match="has shapes and modes already"):
        pddlvm.LatentVariableModel(problem, n_modes=3, reduction=model.reduction)
    shared = pddlvm.LatentVariableModel(parabolic.make("heat"), reduction=model.reduction)
    assert shared.modes is model.modes


def test_refinement_steps_finite_elements(model, problem):
    z = problem.prior.sample((2,), seed=2)
    assert torch.equal(model.refine(z), problem.solve(z))


def test_a_saved_model_says_the_same(model, problem, tmp_path):
    model.save(tmp_path / "model.pt")
    again = pddlvm.load(tmp_path / "model.pt", problem)
    z = problem.prior.sample((3,), seed=8)
    for corrections in (0, 1, 2):
        before, after = (one.forward(z, corrections=corrections) for one in (model, again))
        assert torch.equal(before.mean, after.mean)
        assert torch.equal(before.std, after.std)


SLOW = [
    pytest.param(kind, marks=pytest.mark.slow)
    for kind in ("boundary", "hot", "moving", "wave", "advection", "reaction", "spring")
]


@pytest.mark.parametrize("kind", SLOW)
def test_other_kinds_train_and_answer(kind, tmp_path):
    problem = parabolic.make(kind)
    model = pddlvm.LatentVariableModel(problem, n_shapes=12, n_modes=16)
    pddlvm.train(model, max_steps=20)
    z = problem.prior.sample((12,), seed=3)
    u = problem.solve(z)
    for corrections in (0, 1, 2):
        found = model.forward(z, corrections=corrections)
        assert float((model.norm(found.mean - u) / model.norm(u)).mean()) < 2e-2
    inverse = model.inverse(u)
    assert ((inverse.mean - z).abs() <= 3 * inverse.std).double().mean() > 0.8
    model.save(tmp_path / "model.pt")
    again = pddlvm.load(tmp_path / "model.pt", problem)
    assert torch.equal(again.forward(z).mean, model.forward(z).mean)
