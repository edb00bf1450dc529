"""A change of units, or of an offset, leaves all relative figures as they are."""

import dataclasses
import functools

import pytest
import torch

import pddlvm
from pddlvm import fem, links

ROUNDING = 1e-6
"""Figures were equal to the last bit; libraries may round otherwise on other machines."""


def square(length: float) -> fem.Space:
    mesh = fem.unit_square(4)
    return fem.Space(dataclasses.replace(mesh, doflocs=mesh.doflocs * length))


def linear(load: float = 1.0, length: float = 1.0) -> pddlvm.Problem:
    """Two conductivities: affine. The potential drop grows with the load."""
    space = square(length)
    drop = load * length**2
    return pddlvm.Problem(
        "linear",
        space,
        terms=[
            pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * (du * du).sum()),
            pddlvm.Energy(space.interior(), lambda u, du, x, f: -load * f * u),
        ],
        fields={
            "k": pddlvm.Piecewise.on_blocks(space, (2, 2), prior=pddlvm.LogNormal(0.0, 0.5)),
            "f": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0)),
            "g": pddlvm.Constant(pddlvm.Uniform(0.0, 0.2)),
        },
        dirichlet=[
            pddlvm.Dirichlet("left"),
            pddlvm.Dirichlet("right", lambda x, g: drop * g),
        ],
    )


def nonlinear(load: float = 1.0, length: float = 1.0) -> pddlvm.Problem:
    """-div(k grad u) + u^3 / size^2 = f: cubature."""
    space = square(length)
    size = load * length**2

    def density(u, du, x, k):
        return 0.5 * k * (du * du).sum() + 5 * (u / size) ** 4 * load * size - load * u

    return pddlvm.Problem(
        "nonlinear",
        space,
        terms=[pddlvm.Energy(space.interior(), density)],
        fields={
            "k": pddlvm.Chebyshev(
                prior=pddlvm.Normal(0.0, 0.3), link=links.exp, n_terms=2, low=0, high=length
            )
        },
        dirichlet=[pddlvm.Dirichlet(None)],
    )


def heat(size: float = 1.0, length: float = 1.0, offset: float = 0.0) -> pddlvm.CollocationProblem:
    """u_t = k u_xx from offset + size sin(pi x / length), in strong form."""
    box = pddlvm.Box(x=(0.0, length), t=(0.0, length**2))

    def lift(x):
        return offset + size * torch.sin(torch.pi * x / length)

    def residual(u_t, u_xx, k):
        return u_t - k * u_xx

    return pddlvm.CollocationProblem(
        "heat",
        box,
        residual,
        {"k": pddlvm.Constant(pddlvm.Uniform(0.1, 0.3))},
        lift=lift,
        hard=[box.start("t"), box.start("x"), box.end("x")],
        grid=(9, 7),
        nodes=(8, 6),
    )


def warming(load: float = 1.0, length: float = 1.0) -> pddlvm.TransientProblem:
    """u_t - div(k grad u) = load from rest, on a mesh, in units of time that go with the length."""
    space, end = square(length), 0.5 * length**2
    steady = pddlvm.Problem(
        "warming",
        space,
        terms=[
            pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * (du * du).sum()),
            pddlvm.Energy(space.interior(), lambda u, du, x, f: -load * f * u),
        ],
        fields={
            "k": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0)),
            "f": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0)),
            "g": pddlvm.Constant(pddlvm.Uniform(0.1, 0.2)),
            "t": pddlvm.Time(end),
        },
        dirichlet=[
            pddlvm.Dirichlet("left"),
            pddlvm.Dirichlet("right", lambda x, g, t: load * g * t),
        ],
    )
    return pddlvm.TransientProblem(steady, stepping=pddlvm.Stepping(end, 8))


def trained(problem, calibrate: bool = False) -> pddlvm.LatentVariableModel:
    if isinstance(problem, pddlvm.CollocationProblem):
        model = pddlvm.LatentVariableModel(problem, points=pddlvm.Sobol(32), n_functions=12, seed=0)
    elif isinstance(problem, pddlvm.TransientProblem):
        model = pddlvm.LatentVariableModel(problem, n_shapes=4, n_modes=6, seed=0)
    else:
        model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(3), seed=0)
    pddlvm.train(model, max_steps=4, batch_size=32, calibrate=False)
    if calibrate:
        model.calibrate(64)
    return model


def figures(model: pddlvm.LatentVariableModel, offset: float = 0.0) -> dict[str, torch.Tensor]:
    """Everything relative that a model says."""
    problem = model.problem
    z = problem.prior.sample((6,), seed=1)
    u = problem.solve(z)
    size = (u - offset).flatten(1).norm(dim=1).mean()
    found = {}
    for corrections in (0, 1):
        forward = model.forward(z, corrections)
        found[f"error {corrections}"] = (forward.mean - u).flatten(1).norm(dim=1) / size
        found[f"std {corrections}"] = forward.std.flatten(1).norm(dim=1) / size
    found["sample"] = (model.forward(z).sample(seed=0) - offset) / size
    found["certificate"] = model.forward(z).residual_norm
    if isinstance(model, pddlvm.GalerkinModel):
        inverse = model.inverse(u)
        found["inverse"], found["inverse std"] = inverse.mean, inverse.std
        refined = model.refine(z)
        found["refined"] = (refined.u - u).norm(dim=1) / size
    std = 0.05 * float((u - offset).abs().max())
    sensors = pddlvm.LinearObservation(problem, torch.eye(u[0].numel())[10:15], std)
    posterior = model.infer(sensors.apply(u[0]), sensors, "laplace")
    found["posterior"], found["posterior std"] = posterior.mean, posterior.std
    return found


@functools.cache
def plain(make, calibrate: bool) -> dict[str, torch.Tensor]:
    return figures(trained(make(), calibrate))


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, value in found.items():
        largest = float(expected[name].abs().max())
        difference = float((value - expected[name]).abs().max())
        # Errors of a corrected or refined solution are rounding themselves.
        assert difference <= ROUNDING * max(largest, 1e-2), (name, largest, difference)


# Powers of two, about 1e9, 1e15 and 1e30: the rounding of float64 is the same then, and so are the
# choices that hang on it, such as the cells of a cubature on a symmetric mesh.
G, P, Q = 2.0**30, 2.0**50, 2.0**100
CASES = [
    *((linear, {"load": size}) for size in (1 / Q, 1 / P, P, Q)),
    *((linear, {"length": size}) for size in (1 / P, 1 / G, P)),
    *((nonlinear, {"load": size}) for size in (1 / Q, Q)),
    *((nonlinear, {"length": size}) for size in (1 / P, P)),
]
IN_TIME = [{"load": 1 / Q}, {"load": Q}, {"length": 1 / P}, {"length": P}]
STRONG = [{"size": 1 / Q}, {"size": Q}, {"length": 1 / P}, {"length": P}]


@pytest.mark.parametrize("make, units", CASES)
def test_a_change_of_units_changes_no_kind_of_problem(make, units):
    assert make(**units).is_linear is (make is linear)


@pytest.mark.parametrize("make, units", [CASES[0], CASES[10]])
def test_a_change_of_units_changes_no_relative_figure(make, units):
    same(figures(trained(make(**units))), plain(make, False))


@pytest.mark.slow
@pytest.mark.parametrize("make, units", CASES)
def test_a_change_of_units_changes_no_calibrated_figure(make, units):
    same(figures(trained(make(**units), True)), plain(make, True))


@pytest.mark.slow
@pytest.mark.parametrize("units", STRONG)
def test_a_change_of_units_changes_no_figure_in_strong_form(units):
    same(figures(trained(heat(**units), True)), plain(heat, True))


@pytest.mark.slow
@pytest.mark.parametrize("units", IN_TIME)
def test_a_change_of_units_changes_no_figure_of_trajectories(units):
    same(figures(trained(warming(**units), True)), plain(warming, True))


def test_an_offset_of_the_prior_changes_nothing():
    """z ~ N(1e8, 1) in the place of N(0, 1): float32 would not tell its values apart."""

    def make(mean):
        space = square(1.0)
        return pddlvm.Problem(
            "offset",
            space,
            terms=[
                pddlvm.Energy(space.interior(), lambda u, du, x: 0.5 * (du * du).sum()),
                pddlvm.Energy(space.interior(), lambda u, du, x, f: -(f - mean + 3) * u),
            ],
            fields={"f": pddlvm.Constant(pddlvm.Normal(mean, 1.0))},
            dirichlet=[pddlvm.Dirichlet(None)],
        )

    near, far = (trained(make(mean)) for mean in (0.0, 1e8))
    z = near.problem.prior.sample((5,), seed=0)
    for corrections in (0, 1):
        expected, found = near.forward(z, corrections), far.forward(z + 1e8, corrections)
        # 1e8 leaves eight digits of z; the certificate of a corrected mean is rounding.
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(
            found.residual_norm, expected.residual_norm, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("offset", [293.0, 1e6])
def test_an_offset_of_u_changes_nothing(offset):
    def make(offset):
        space = square(1.0)
        return pddlvm.Problem(
            "offset",
            space,
            terms=[
                pddlvm.Energy(
                    space.interior(), lambda u, du, x, k: 0.5 * k * (du * du).sum() - 0.01 * u
                )
            ],
            fields={
                "k": pddlvm.Chebyshev(
                    prior=pddlvm.Normal(0.0, 0.3), link=links.exp, n_terms=2, low=0, high=1
                )
            },
            dirichlet=[pddlvm.Dirichlet(None, offset)],
        )

    near, far = (trained(make(value)) for value in (0.0, offset))
    z = near.problem.prior.sample((5,), seed=0)
    expected, found = near.forward(z, 1).mean, far.forward(z, 1).mean - offset
    # Nine digits are left where the offset takes seven, and K^-1 of the residual takes some more:
    # 8e-4 was measured. In float32 an offset of 1e6 would leave nothing.
    assert (found - expected).abs().max() < 5e-3 * expected.abs().max()
    torch.testing.assert_close(
        far.inverse(far.problem.solve(z)).mean,
        near.inverse(near.problem.solve(z)).mean,
        rtol=1e-2,
        atol=1e-2,
    )


@pytest.mark.parametrize("load", [1e39, 1e-42])
def test_a_solution_out_of_the_range_of_float32_is_refused_in_words(load):
    model = pddlvm.LatentVariableModel(linear(load), basis=pddlvm.ResidualEnriched(3))
    z = model.problem.prior.sample((2,), seed=0)
    assert torch.isfinite(model.forward(z).mean).all()
    with pytest.raises(pddlvm.InputError, match=r"range of torch.float32: ask in float64"):
        model.forward(z.float())


def test_a_prediction_that_is_not_finite_is_an_error_in_words():
    model = pddlvm.LatentVariableModel(nonlinear(), basis=pddlvm.ResidualEnriched(3))
    model.forward_map.amplitude.coefficients[3:] = 1.0
    with pytest.raises(pddlvm.ConvergenceError, match="60 standard deviations from the centre"):
        model.forward(torch.full((1, 2), 60 * 0.3, dtype=torch.float64))


def test_the_certificate_is_not_capped():
    """|r| / |mean| in the norms of K0^-1 and K0, also where the error is larger than the mean."""
    model = pddlvm.LatentVariableModel(nonlinear(), basis=pddlvm.ResidualEnriched(3))
    with torch.no_grad():
        # A map that says about nothing.
        model.forward_map.network.head.weight.mul_(1e-3)
    assert float(model.forward(torch.zeros(1, 2)).residual_norm) > 10


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_data_are_refused_relative_to_their_noise(size):
    problem = linear(size)
    sensors = pddlvm.LinearObservation(problem, torch.eye(problem.n_dofs)[10:12], 0.01 * size)
    sensors.check(torch.tensor([1e10, -1.0]).double() * size)
    with pytest.raises(pddlvm.InputError, match="standard deviations of the noise"):
        sensors.check(torch.tensor([1e16, -1.0]).double() * size)


@pytest.mark.parametrize("make", [linear, nonlinear])
def test_a_saved_model_of_other_units_is_the_same(make, tmp_path):
    model = pddlvm.LatentVariableModel(make(1e30), basis=pddlvm.ResidualEnriched(3))
    model.save(tmp_path / "model.pt")
    z = model.problem.prior.sample((2,), seed=0)
    loaded = pddlvm.load(tmp_path / "model.pt", make(1e30))
    assert torch.equal(loaded.forward(z, 1).mean, model.forward(z, 1).mean)
