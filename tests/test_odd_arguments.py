"""What a hurried user gives: each argument of another kind is refused by its name."""

import numpy as np
import pytest
import small
import torch

import pddlvm
from pddlvm import fem, supports
from problems import poisson

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
LINE = poisson.make_1d(4)
CURVE = pddlvm.Box(x=(0.0, 1.0)).start("x")
NUMBERS |= {
    "tolerance of a condition": lambda v, _: pddlvm.Condition(CURVE, torch.abs, v),
    "df": lambda v, _: pddlvm.StudentT(0.1, 2, v),
    "scale": lambda v, _: pddlvm.UnknownStd(v, 0.1, 2),
}
COUNTS |= {
    "n of sensors": lambda v, _: pddlvm.StudentT(0.1, v),
    "n of values": lambda v, _: pddlvm.FunctionObservation(LINE, torch.abs, v, 0.1),
    "seed of a training": lambda v, _: pddlvm.train(small.galerkin(), max_steps=1, seed=v),
}
OBJECTS |= {
    "learning_rates": lambda v, _: pddlvm.train(small.galerkin(), max_steps=1, learning_rates=v),
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
    "checkpoints": lambda v, _: pddlvm.train(small.galerkin(), max_steps=1, checkpoints=v),
    "validated": lambda v, _: pddlvm.validate(v),
    "exported": lambda v, _: pddlvm.export_maps(v, "folder", "torch"),
    "observation": lambda v, _: small.galerkin().infer([[0.1]], v),
    "written": lambda v, _: small.galerkin().save(v),
}
NO_NUMBER = [None, "1", [1.0], 1j, float("nan"), INFINITY, torch.ones(2)]
NO_COUNT = [None, "2", 2.5, -1, [1], float("nan"), torch.ones(2)]
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
        if not (value is None and name.startswith(("seed", "quadrature"))):
            assert name.split(" ")[0] in refused(COUNTS[name], value, problem)


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_of_another_kind_is_refused(name, problem):
    for value in NO_OBJECT:
        # A number is a shape.
        if not (name == "shape" and value is NO_OBJECT[0]):
            refused(OBJECTS[name], value, problem)


def test_a_cell_of_two_subdomains_has_no_parameter_of_its_own():
    halves = {"all": lambda x: x[0] < 2, "right": lambda x: x[0] > 0.5}
    space = fem.Space(fem.unit_square(2).with_subdomains(halves))
    with pytest.raises(pddlvm.InputError, match="4 cells are in the subdomain 'right' and"):
        pddlvm.Piecewise.on_subdomains(space, ["all", "right"], prior=PRIOR)
