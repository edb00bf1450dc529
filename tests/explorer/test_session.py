"""What a session answers, without a browser: for each kind of problem, and beside the model."""

import json

import numpy as np
import pytest
import torch
from small import galerkin, in_time, strong

import pddlvm
from pddlvm.basics.errors import InputError
from pddlvm.explorer.session import Session
from problems import elasticity, shell, stokes


def head_of(message):
    return json.loads(json.dumps(message.head, allow_nan=False))


def test_a_scene_has_sliders_and_a_mesh(plane):
    scene = plane.scene()
    head = head_of(scene)
    assert (head["kind"], head["axes"], head["parameterFields"]) == ("plane", ["x", "y"], ["kappa"])
    (block,) = head["blocks"]
    assert block["name"] == "kappa" and len(block["parameters"]) == 4
    assert block["parameters"][0] == {
        "name": "kappa[0]", "low": -3.0, "high": 3.0, "z": 0.0, "log": False,
    }  # fmt: skip
    mesh = plane.model.problem.space.mesh
    assert scene.arrays["points"].shape == (mesh.p.shape[1], 3)
    assert np.array_equal(scene.arrays["cells"], mesh.t.T)


def test_sliders_go_by_factors_where_a_prior_is_wide():
    space = pddlvm.fem.Space(pddlvm.fem.interval(4))
    k = pddlvm.Constant(pddlvm.LogNormal(0.0, 1.0))
    f = pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))
    energy = pddlvm.Energy(
        space.interior(), lambda u, du, x, k, f: 0.5 * k * (du * du).sum() - f * u
    )
    problem = pddlvm.Problem(
        "line", space, [energy], {"k": k, "f": f}, [pddlvm.Dirichlet("left", 0.0)]
    )
    blocks = Session(pddlvm.LatentVariableModel(problem)).scene().head["blocks"]
    (k,), (f,) = (block["parameters"] for block in blocks)
    assert k["log"] and k["low"] == pytest.approx(np.exp(-3)) and k["z"] == pytest.approx(1.0)
    assert (f["low"], f["high"], f["log"]) == (1.0, 2.0, False)


def test_values_are_those_of_the_model(plane, given):
    model, z = plane.model, plane.model.problem.prior.sample(seed=5)
    for corrections in (0, 1):
        asked = given(plane, z=z.tolist(), corrections=corrections)
        found = model.forward(z, corrections=corrections)
        answer = plane.answer(plane.read(asked))
        assert np.allclose(answer.arrays["values"], found.mean.numpy(), rtol=1e-12)
        assert answer.head["residual"] == pytest.approx(float(found.residual_norm), rel=1e-9)
        sigma = plane.answer(plane.read(asked | {"view": "sigma"})).arrays["values"]
        assert np.allclose(sigma, found.std.numpy(), rtol=1e-12)
        bound = float(found.error_bound / model.norm(found.mean))
        assert plane.bound(plane.read(asked)).head["bound"] == pytest.approx(bound, rel=1e-9)
    draw = plane.answer(plane.read(asked | {"view": "draw", "seed": 3})).arrays["values"]
    assert np.allclose(draw, found.sample(seed=3).numpy())
    field = plane.answer(plane.read(asked | {"view": "parameter"})).arrays["values"]
    assert np.allclose(field, model.problem.parameter_field(z).numpy())


def test_the_true_error_is_that_of_the_reference(plane, given):
    z = plane.model.problem.prior.sample(seed=6)
    state = plane.read(given(plane, z=z.tolist(), view="error"))
    u, mean = plane.model.problem.solve(z), plane.model.forward(z).mean
    head = head_of(plane.solve(state))
    assert head["relative"] == pytest.approx(float((u - mean).norm() / u.norm()), rel=1e-9)
    assert 0.3 < head["inside"] <= 1 and head["seconds"] > 0
    assert np.allclose(plane.answer(state).arrays["values"], (mean - u).abs().numpy(), atol=1e-12)


def test_readings_move_the_posterior_to_what_made_them(session, given):
    """The linear problem: a closed form is known, and draws of u pass the readings."""
    problem = session.model.problem
    truth = torch.tensor([1.4, 0.5], dtype=torch.float64)
    u = problem.solve(truth)
    points = [0.2, 0.5, 0.8]
    observation = pddlvm.PointObservation(problem, points, 1e-3)
    y = observation.apply(u).tolist()
    sensors = [{"x": [x], "y": [v]} for x, v in zip(points, y, strict=True)]
    state = session.read(given(session, sensors=sensors, noise=1e-3))
    head = head_of(session.posterior(state))
    expected = session.model.infer(torch.tensor(y, dtype=torch.float64), observation)
    assert head["mean"] == pytest.approx(expected.mean.tolist(), abs=0.05)
    assert np.abs(np.array(head["mean"]) - truth.numpy()).max() < 0.3
    assert head["verdict"].startswith("accept") and head["pValue"] > 0.01
    low, middle, high = head["quantiles"]
    assert (np.array(low) < middle).all() and (np.array(middle) < high).all()
    mean = session.answer(
        session.read(given(session, sensors=sensors, noise=1e-3, view="posterior mean"))
    )
    assert np.abs(mean.arrays["values"] - u.numpy()).max() < 5e-3
    prior = session.answer(session.read(given(session)))
    assert mean.head["high"] != prior.head["high"]


def test_readings_that_contradict_the_model_are_rejected(session, given):
    sensors = [{"x": [0.4], "y": [3.0]}, {"x": [0.5], "y": [-3.0]}]
    head = session.posterior(session.read(given(session, sensors=sensors, noise=1e-3))).head
    assert head["verdict"].startswith("reject: the data contradict")


def test_sensors_say_what_they_would_read(session, given):
    z = session.model.problem.prior.sample(seed=2)
    asked = given(session, z=z.tolist(), sensors=[{"x": [0.25]}, {"x": [0.75], "y": [1.0]}])
    observation = pddlvm.PointObservation(session.model.problem, [0.25, 0.75], 1.0)
    expected = observation.apply(session.model.forward(z).mean)
    found = session.answer(session.read(asked)).head["sensors"]
    assert np.allclose(np.array(found)[:, 0], expected.numpy())
    with pytest.raises(InputError, match="outside"):
        session.answer(session.read(given(session, sensors=[{"x": [7.0]}])))
    with pytest.raises(InputError, match="no sensor has a reading"):
        session.posterior(session.read(given(session, sensors=[{"x": [0.25]}])))
    with pytest.raises(InputError, match="there is no sensor"):
        session.answer(session.read(given(session, view="posterior sigma")))


def test_readings_are_loaded_from_a_table(session):
    found = session.load("x,value\n0.25,1.5\n0.5,\n").head["sensors"]
    assert found == [{"x": [0.25], "y": [1.5]}, {"x": [0.5], "y": [None]}]
    for text in (
        "",
        "a,b\n1,2\n",
        "x,value\n" + "0.5,1\n" * 201,
        "x,value\n<b>,1\n",
        "\x00" * 10**6,
    ):
        with pytest.raises(InputError):
            session.load(text)
    with pytest.raises(InputError, match="a table is a text"):
        session.load({"path": "/etc/passwd"})


def test_random_parameters_are_those_of_the_prior(plane):
    z = plane.draw(7).head["z"]
    assert z == plane.model.problem.prior.sample(seed=7).tolist()
    for seed in (-1, "7", 2**40, None, 1.5):
        with pytest.raises(InputError, match="seed"):
            plane.draw(seed)


@pytest.mark.parametrize(
    ("make", "kind", "n_times"),
    [
        (galerkin, "plane", 0),
        (in_time, "plane", 6),
        (strong, "line", 6),
        (lambda: pddlvm.LatentVariableModel(shell.make_roof(4, n_terms=2)), "solid", 0),
        (lambda: pddlvm.LatentVariableModel(elasticity.make_bracket(4)), "solid", 0),
        pytest.param(
            lambda: pddlvm.LatentVariableModel(stokes.make_channel()),
            "plane",
            0,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["plane", "time", "strong", "shell", "solid", "mixed"],
)
@pytest.mark.slow
def test_all_views_of_all_kinds_of_problems(make, kind, n_times, given):
    session = Session(make())
    scene = session.scene()
    assert (scene.head["kind"], len(scene.head["times"])) == (kind, n_times)
    n_points, n_cells = len(scene.arrays["points"]), int(scene.arrays["owners"].max()) + 1
    assert scene.arrays["cells"].max() < n_points
    middle = scene.arrays["points"][scene.arrays["cells"][len(scene.arrays["cells"]) // 2]].mean(0)
    n = next(iter(scene.head["fields"].values()))
    place = {"x": middle[: len(scene.head["axes"])].tolist()}
    z = session.model.problem.prior.sample(seed=1).tolist()
    answers = {}
    for view in ("mean", "sigma", "draw", "error"):
        for field, size in scene.head["fields"].items():
            for component in range(-1, size if size > 1 else 0):
                asked = given(session, z=z, view=view, field=field, component=component)
                answer = session.answer(session.read(asked | {"sensors": [place]}))
                assert answer.arrays["values"].shape == (n_points,)
                assert np.isfinite(answer.arrays["values"]).all()
                assert np.array(answer.head["sensors"]).shape == (1, n)
                assert len(answer.encode()) % 4 == 0
                answers[view] = answer
    assert (answers["sigma"].arrays["values"] >= 0).all()
    assert (
        "displacement" in session.answer(session.read(given(session, z=z))).arrays
    ) == scene.head["isShell"]
    for name in scene.head["parameterFields"]:
        shown = session.answer(session.read(given(session, z=z, view="parameter", field=name)))
        assert shown.arrays["values"].shape[0] in (
            n_points,
            n_cells,
            len(session.model.problem.field_points(name)),
        )
    readings = answers["mean"].head["sensors"][0]
    asked = given(
        session, z=z, sensors=[place | {"y": readings}], noise=max(map(abs, readings)) or 1.0
    )
    assert len(session.posterior(session.read(asked)).head["mean"]) == len(z)
    for view in ("posterior mean", "posterior sigma"):
        shown = session.answer(session.read(asked | {"view": view}))
        assert np.isfinite(shown.arrays["values"]).all()
    assert session.solve(session.read(asked)).head["relative"] is not None
    session.bound(session.read(asked)).encode()
    session.prepare()
