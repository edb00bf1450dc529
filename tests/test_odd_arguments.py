"""What a hurried user gives: each argument of another kind is refused by its name."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import small
import torch

import pddlvm
from pddlvm import fem, links, plot, supports
from problems import bayesian_poisson, cole_hopf, helmholtz, nonlinear_poisson, pinn, poisson, shell

SPACE = fem.Space(fem.unit_square(2))
PRIOR = pddlvm.Normal()
CORNERS = np.eye(3)
FACES = np.array([[0, 1, 2]])


@pytest.fixture(scope="module")
def problem():
    return poisson.make(2, n_terms=2)


NUMBERS = {
    "mean": lambda v, _: pddlvm.Normal(v),
    "std": lambda v, _: pddlvm.LogNormal(0.0, v),
    "high": lambda v, _: pddlvm.Uniform(0.0, v),
    "low": lambda v, _: pddlvm.Chebyshev(n_terms=2, low=v, high=1.0),
    "length": lambda v, _: pddlvm.KarhunenLoeve.on(SPACE, 2, length=v),
    "nu": lambda v, _: pddlvm.Matern(v),
    "left": lambda v, _: fem.interval(2, v),
    "radius": lambda v, _: fem.sphere(2, radius=v),
    "angle": lambda v, _: fem.roof(2, angle=v),
    "alpha": lambda v, _: fem.ShellSpace(fem.roof(2), alpha=v),
    "tolerance": lambda v, _: pddlvm.EnergyNorm(v),
    "share": lambda v, _: pddlvm.AdaptivePoints(share=v),
    "rate": lambda v, _: pddlvm.Causal(rate=v),
    "a": lambda v, _: pddlvm.Graded(v),
    "every": lambda v, _: pddlvm.Checkpoints("a", every=v),
    "x needs": lambda v, _: pddlvm.Box(x=(v, 1.0)),
    "log_variance": lambda v, _: pddlvm.NeuralGaussian(2, 2, log_variance=v),
}
COUNTS = {
    "axis": lambda v, _: pddlvm.Chebyshev(n_terms=2, low=0.0, high=1.0, axis=v),
    "n_terms": lambda v, _: pddlvm.KarhunenLoeve.on(SPACE, v, length=0.4),
    "n_parts": lambda v, _: pddlvm.Piecewise(
        prior=PRIOR, labels=torch.zeros(8, dtype=torch.long), n_parts=v
    ),
    "counts": lambda v, _: pddlvm.Piecewise.on_blocks(SPACE, (1, v), prior=PRIOR),
    "n": lambda v, _: fem.unit_square(v),
    "levels": lambda v, _: fem.hare(v),
    "degree": lambda v, _: fem.Space(fem.unit_square(1), v),
    "n_components": lambda v, _: fem.Space(fem.unit_square(1), n_components=v),
    "quadrature": lambda v, _: fem.Space(fem.unit_square(1), quadrature=v),
    "axis of a plane": lambda v, _: fem.plane(v, 0.0, 1.0),
    "axis of symmetry": lambda v, _: supports.symmetry("side", v),
    "n_modes": lambda v, _: pddlvm.EnergyModes(v),
    "n_points": lambda v, _: pddlvm.Sobol(v),
    "keep": lambda v, _: pddlvm.Checkpoints("a", keep=v),
    "width": lambda v, _: pddlvm.NeuralGaussian(2, 2, width=v),
    "seed": lambda v, problem: problem.prior.sample(seed=v),
    "seed of a reduction": lambda v, problem: pddlvm.reduce(problem, seed=v),
}
OBJECTS = {
    "labels": lambda v, _: pddlvm.Piecewise(prior=PRIOR, labels=v, n_parts=2),
    "names": lambda v, _: pddlvm.Piecewise.on_subdomains(SPACE, v, prior=PRIOR),
    "space": lambda v, _: pddlvm.KarhunenLoeve.on(v, 2, length=0.4),
    "covariance": lambda v, _: pddlvm.KarhunenLoeve.on(SPACE, 2, length=0.4, covariance=v),
    "mesh": lambda v, _: fem.Space(v),
    "element": lambda v, _: fem.Space(fem.unit_square(1), element=v),
    "points": lambda v, _: SPACE.evaluation(v),
    "points of a shell": lambda v, _: fem.ShellSpace(fem.roof(2)).evaluation(v),
    "mesh of a shell": lambda v, _: fem.ShellSpace(v),
    "Nodes": lambda v, _: fem.Nodes(v),
    "path": lambda v, _: fem.read_mesh(v),
    "path of a surface": lambda v, _: fem.read_surface(v),
    "points of a surface": lambda v, _: fem.surface(v, FACES),
    "triangles": lambda v, _: fem.surface(CORNERS, v),
    "vertex set": lambda v, _: fem.roof(2).with_sets(side=v),
    "corner of a box": lambda v, _: fem.box(v, (1.0, 1.0, 1.0)),
    "name": lambda v, _: pddlvm.Problem(v, SPACE, [], {}),
    "generator": lambda v, problem: problem.prior.sample(generator=v),
    "shape": lambda v, problem: problem.prior.sample(v),
    "problem": lambda v, _: pddlvm.LatentVariableModel(v),
    "basis": lambda v, problem: pddlvm.LatentVariableModel(problem, basis=v),
    "covariance of r": lambda v, problem: pddlvm.LatentVariableModel(problem, covariance=v),
    "network": lambda v, problem: pddlvm.LatentVariableModel(problem, forward_network=v),
    "reduction": lambda v, problem: pddlvm.LatentVariableModel(problem, reduction=v),
    "dtype": lambda v, problem: pddlvm.LatentVariableModel(problem, dtype=v),
    "folder": lambda v, _: pddlvm.Checkpoints(v),
    "file": lambda v, problem: pddlvm.load(v, problem),
    "problem of a file": lambda v, _: pddlvm.load("a.pt", v),
}
INFINITY = float("inf")


def heat(**changes):
    box = pddlvm.Box(x=(0.0, 1.0))
    fields = {"k": pddlvm.Constant(PRIOR)}
    return pddlvm.CollocationProblem("heat", box, lambda u_xx, k: u_xx - k, fields, **changes)


Z = torch.tensor([0.5, 0.5], dtype=torch.float64)
LINE = poisson.make_1d(4)
MODEL = small.galerkin()
CURVE = pddlvm.Box(x=(0.0, 1.0)).start("x")
ROD = small.in_time()
IN_TIME = ROD.problem
Z_ROD = IN_TIME.prior.sample(seed=0)


def in_time(**changes):
    options = {"stepping": IN_TIME.stepping, "initial": 0.0} | changes
    return pddlvm.TransientProblem(IN_TIME.steady, **options)


NUMBERS |= {
    "end": lambda v, _: pddlvm.Stepping(v, 2),
    "end of Time": lambda v, _: pddlvm.Time(v),
    "ratio": lambda v, _: pddlvm.Stepping.graded(1.0, 10, ratio=v),
    "tolerance": lambda v, _: pddlvm.LatentVariableModel(IN_TIME, tolerance=v),
}
COUNTS |= {
    "n_steps": lambda v, _: pddlvm.Stepping(1.0, v),
    "n_levels": lambda v, _: pddlvm.Stepping.graded(1.0, 10, n_levels=v),
    "n_samples": lambda v, _: IN_TIME.time_error(v),
    "n_shapes of a trajectory": lambda v, _: pddlvm.LatentVariableModel(IN_TIME, n_shapes=v),
    "n_modes of a trajectory": lambda v, _: pddlvm.LatentVariableModel(IN_TIME, n_modes=v),
    "corrections of a trajectory": lambda v, _: ROD.forward(Z_ROD, v),
}
OBJECTS |= {
    "method": lambda v, _: pddlvm.Stepping(1.0, 2, v),
    "steady": lambda v, _: pddlvm.TransientProblem(v, stepping=IN_TIME.stepping),
    "stepping": lambda v, _: in_time(stepping=v),
    "z of a history": lambda v, _: IN_TIME.history(v),
    "u of a residual": lambda v, _: IN_TIME.residual(v, Z_ROD),
    "reduction of trajectories": lambda v, _: pddlvm.LatentVariableModel(IN_TIME, reduction=v),
    "z of a trajectory": lambda v, _: ROD.forward(v),
    "times of a trajectory": lambda v, _: ROD.forward(Z_ROD, times=v),
    "u of a density": lambda v, _: ROD.forward(Z_ROD).log_prob(v),
    "rows": lambda v, _: ROD.forward(Z_ROD).covariance(v),
    "trajectory": lambda v, _: ROD.inverse(v),
    "norm": lambda v, _: ROD.norm(v),
    "z to step": lambda v, _: ROD.refine(v),
    "sensors of a trajectory": lambda v, _: ROD.infer(torch.zeros(2), v),
}
NUMBERS |= {
    "tolerance of a condition": lambda v, _: pddlvm.Condition(CURVE, torch.abs, v),
    "df": lambda v, _: pddlvm.StudentT(0.1, 2, v),
    "scale": lambda v, _: pddlvm.UnknownStd(v, 0.1, 2),
    "std of AR1": lambda v, _: pddlvm.AR1(v, [0.0, 1.0], correlation=0.5),
    "correlation": lambda v, _: pddlvm.AR1(0.1, [0.0, 1.0], correlation=v),
    "correlation_time": lambda v, _: pddlvm.AR1(0.1, [0.0, 1.0], correlation_time=v),
}
COUNTS |= {
    "n of sensors": lambda v, _: pddlvm.StudentT(0.1, v),
    "n of values": lambda v, _: pddlvm.FunctionObservation(LINE, torch.abs, v, 0.1),
    "seed of a training": lambda v, _: pddlvm.train(MODEL, max_steps=1, seed=v),
}
OBJECTS |= {
    "learning_rates": lambda v, _: pddlvm.train(MODEL, max_steps=1, learning_rates=v),
    "noise": lambda v, _: pddlvm.PointObservation(LINE, [0.0], v),
    "observed problem": lambda v, _: pddlvm.PointObservation(v, [0.0], 0.1),
    "places": lambda v, _: pddlvm.PointObservation(LINE, v, 0.1),
    "matrix": lambda v, _: pddlvm.LinearObservation(LINE, v, 0.1),
    "function": lambda v, _: pddlvm.FunctionObservation(LINE, v, 2, 0.1),
    "what is seen": lambda v, _: pddlvm.mask_matrix(LINE, v),
    "patches": lambda v, _: pddlvm.average_matrix(LINE, v),
    "face": lambda v, _: pddlvm.Condition(v, torch.abs),
    "function of a condition": lambda v, _: pddlvm.Condition(CURVE, v),
    "model": lambda v, _: pddlvm.train(v, max_steps=1),
    "checkpoints": lambda v, _: pddlvm.train(MODEL, max_steps=1, checkpoints=v),
    "validated": lambda v, _: pddlvm.validate(v),
    "exported": lambda v, _: pddlvm.export_maps(v, "folder", "torch"),
    "observation": lambda v, _: MODEL.infer([[0.1]], v),
    "written": lambda v, _: MODEL.save(v),
}
SENSORS = pddlvm.PointObservation(MODEL.problem, [[0.3, 0.3]], 0.1)
COUNTS |= {
    "n_samples of a file": lambda v, _: MODEL.to_vtu("a.vtu", Z, n_samples=v),
    "n_samples of a figure": lambda v, _: plot.inverse_figure(MODEL, Z, n_samples=v),
    "n_data": lambda v, _: pddlvm.validate_inference(MODEL, SENSORS, n_data=v),
    "corrections": lambda v, _: MODEL.forward(Z, corrections=v),
    "batch_size": lambda v, _: pddlvm.train(MODEL, max_steps=1, batch_size=v),
    "grid": lambda v, _: pinn.make_burgers((6, v)),
    "n per side": lambda v, _: bayesian_poisson.make(v),
    "up": lambda v, _: shell.make(fem.roof(2), up=v),
}
NUMBERS |= {
    "eta": lambda v, _: helmholtz.make_damped(2, eta=v),
    "peclet": lambda v, _: nonlinear_poisson.make_advection_diffusion(2, 1, peclet=v),
    "diffusion": lambda v, _: pinn.make_reaction_diffusion(v),
    "thickness": lambda v, _: shell.make(fem.roof(2), thickness=v),
    "tolerance must": lambda v, _: MODEL.refine(Z, tolerance=v),
    "centre": lambda v, _: pddlvm.Sinh(v, torch.abs),
}
OBJECTS |= {
    "split": lambda v, problem: problem.prior.split(v),
    "log_prob": lambda v, problem: problem.prior.log_prob(v),
    "standardise": lambda v, problem: problem.prior.standardise(v),
    "z_known": lambda v, _: MODEL.inverse(MODEL.problem.solve(Z), z_known=v),
    "noise_std": lambda v, _: MODEL.inverse(MODEL.problem.solve(Z), noise_std=v),
    "known": lambda v, _: pddlvm.validate(MODEL, 2, known=v),
    "device": lambda v, _: pddlvm.train(MODEL, max_steps=1, device=v),
    "family": lambda v, _: MODEL.amortize(SENSORS, v, max_steps=1),
    "sensors of a density": lambda v, _: MODEL.amortize(v, max_steps=1),
    "sensors of a population": lambda v, _: pddlvm.learn_population(MODEL, v, [[0.1]]),
    "sensors of a validation": lambda v, _: pddlvm.validate_inference(MODEL, v),
    "u of sensors": lambda v, _: SENSORS.apply(v),
    "problem of a file": lambda v, _: pddlvm.write_solution(v, "u.vtu", Z),
    "u of a file": lambda v, _: pddlvm.write_solution(MODEL.problem, "u.vtu", v),
    "stresses": lambda v, _: pddlvm.shell_stresses(v, Z, Z),
    "coordinate": lambda v, _: pddlvm.Box(x=(0.0, 1.0)).start(v),
    "interval": lambda v, _: pddlvm.Box(x=v),
    "path of a density": lambda v, _: MODEL.load_amortized(v, SENSORS),
    "context": lambda v, _: pddlvm.Full(v, 2),
    "grid of a network": lambda v, _: pddlvm.GridGaussian(v, 0, 1),
    "name of a field": lambda v, _: MODEL.problem.parameter_field(Z, v),
    "stretch": lambda v, _: heat(stretch=v),
    "along": lambda v, _: heat(along=v),
    "odd": lambda v, _: heat(odd=v),
    "lift": lambda v, _: heat(lift=v),
    "reference": lambda v, _: heat(reference=v),
    "g": lambda v, _: links.exp(v),
    "boundary values": lambda v, _: poisson.make(2, 1, dirichlet=v),
    "flux": lambda v, _: poisson.make(2, 1, flux=v),
    "both ends": lambda v, _: poisson.both_ends(v),
    "z of Burgers": lambda v, _: cole_hopf.burgers(v, torch.zeros(2), torch.zeros(2)),
    "drawn problem": lambda v, _: plot.field(v, Z, plt.gca()),
    "drawn values": lambda v, _: plot.field(MODEL.problem, v, plt.gca()),
    "axes": lambda v, _: plot.field(MODEL.problem, torch.zeros(25), v),
    "cmap": lambda v, _: plot.field(MODEL.problem, torch.zeros(25), plt.gca(), cmap=v),
    "limits": lambda v, _: plot.field(MODEL.problem, torch.zeros(25), plt.gca(), limits=v),
    "warp": lambda v, _: plot.field(MODEL.problem, torch.zeros(25), plt.gca(), warp=v),
    "drawn z": lambda v, _: plot.forward_figure(MODEL, v),
    "drawn model": lambda v, _: plot.inverse_figure(v, Z),
    "training": lambda v, _: plot.elbo(v, plt.gca()),
    "calibration": lambda v, _: plot.calibration(v, plt.gca()),
    "posterior": lambda v, _: plot.corner(v),
    "posteriors": lambda v, _: plot.marginals(v),
    "ranks": lambda v, _: plot.ranks(v, plt.gca()),
}
FLAGS = {
    "quadrilaterals": lambda v: fem.unit_square(1, quadrilaterals=v),
    "hexahedra": lambda v: fem.unit_cube(1, hexahedra=v),
    "has_secant": lambda v: pddlvm.Flux(SPACE.interior(), torch.abs, has_secant=v),
    "progress": lambda v: pddlvm.train(MODEL, max_steps=1, progress=v),
    "calibrate": lambda v: pddlvm.train(MODEL, max_steps=1, calibrate=v),
    "resume": lambda v: pddlvm.train(MODEL, max_steps=1, resume=v),
    "throw": lambda v: MODEL.refine(Z, throw=v),
    "closed": lambda v: fem.surface(CORNERS, FACES, closed=v),
}
NO_NUMBER = [None, "1", [1.0], 1j, float("nan"), INFINITY, torch.ones(2)]
NO_COUNT = [None, "2", 2.5, -1, True, 10**22, [1], float("nan"), torch.ones(2)]
NO_OBJECT = [0, b"a", {"a": 1.0}, [[1.0], [2.0, 3.0]], torch.ones(2) > 0, np.array([None])]


def refused(call, value, problem):
    with pytest.raises(pddlvm.InputError) as error:
        call(value, problem)
    return str(error.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_refused_by_name(name, problem):
    for value in NO_NUMBER:
        # That is never.
        if not (name == "every" and value is INFINITY):
            assert name in refused(NUMBERS[name], value, problem)


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_no_count_is_refused_by_name(name, problem):
    for value in NO_COUNT:
        # Without a seed every draw is another one.
        may_be_none = ("seed", "quadrature", "batch", "n_shapes", "n_modes of a")
        if not (value is None and name.startswith(may_be_none)):
            assert name.split(" ")[0] in refused(COUNTS[name], value, problem)


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_of_another_kind_is_refused(name, problem):
    for value in NO_OBJECT:
        # A number is a shape.
        if not (name == "shape" and value is NO_OBJECT[0]):
            refused(OBJECTS[name], value, problem)


@pytest.mark.parametrize("component", ["0", 0.0, [0], torch.zeros(2), 1])
def test_a_component_is_one_of_those_of_u(component):
    with pytest.raises(pddlvm.InputError, match="component must be between 0 and 0"):
        SPACE.dofs_on("left", component)


@pytest.mark.parametrize("name", FLAGS)
def test_what_is_neither_true_nor_false_is_refused_by_name(name):
    for value in [None, "yes", 1, torch.ones(2), np.ones(2)]:
        with pytest.raises(pddlvm.InputError, match=f"{name} must be True or False"):
            FLAGS[name](value)


@pytest.mark.parametrize("limits", [{"max_seconds": INFINITY}, {"max_steps": INFINITY}])
def test_a_training_has_an_end(limits):
    with pytest.raises(pddlvm.InputError, match="without an end"):
        pddlvm.train(MODEL, **limits)


def test_what_no_memory_holds_is_refused_by_name(problem):
    with pytest.raises(pddlvm.InputError, match=r"n_terms=10000 makes 1e\+08 products"):
        pddlvm.reduce(problem, pddlvm.ChebyshevBasis(10**4))
    with pytest.raises(pddlvm.InputError, match="1000000 sensors are too many"):
        pddlvm.Gaussian(0.1, 10**6)


@pytest.mark.parametrize("name", ["z", "y"])
def test_batches_that_do_not_fit_are_named(name):
    u = MODEL.problem.solve(Z.expand(2, -1))
    calls = {
        "z": lambda: MODEL.inverse(u).log_prob(Z.expand(3, -1)),
        "y": lambda: SENSORS.log_prob(torch.zeros(3, 1), u),
    }
    with pytest.raises(pddlvm.InputError, match=rf"batch shapes of {name} \(3,\) and"):
        calls[name]()


def test_the_exact_solution_of_burgers_has_its_range():
    with pytest.raises(pddlvm.InputError, match="at least log"):
        cole_hopf.burgers(torch.full((1, 1), -9.0), torch.zeros(2), torch.zeros(2))


def test_a_none_is_told_of_the_default():
    with pytest.raises(pddlvm.InputError, match=r"dtype .* got None; leave it out"):
        pddlvm.LatentVariableModel(LINE, dtype=None)
    with pytest.raises(pddlvm.InputError, match=r"solver .* got None; leave it out"):
        pddlvm.Problem("a", SPACE, [], {"k": pddlvm.Constant(PRIOR)}, solver=None)


def test_a_cell_of_two_subdomains_has_no_parameter_of_its_own():
    halves = {"all": lambda x: x[0] < 2, "right": lambda x: x[0] > 0.5}
    space = fem.Space(fem.unit_square(2).with_subdomains(halves))
    with pytest.raises(pddlvm.InputError, match="4 cells are in the subdomain 'right' and"):
        pddlvm.Piecewise.on_subdomains(space, ["all", "right"], prior=PRIOR)
