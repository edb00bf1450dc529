"""Every example runs with a few steps, and the README's own code runs as written."""

import re
from pathlib import Path

import matplotlib
import meshio
import pytest

matplotlib.use("Agg")

from examples import (
    bracket,
    cook_membrane,
    digital_twin,
    generative_poisson,
    inverse_poisson,
    inverse_real_data,
    optimal_roof,
    pinn_heat,
    place_sensors,
    poisson_linear,
    poisson_mesh_file,
    poisson_nonlinear,
    shell_hare,
    stokes_channel,
    thermal_block,
)
from pddlvm import fem

ROOT = Path(__file__).parent.parent


def test_linear_poisson(tmp_path: Path):
    arguments = ["--seconds", "20", "--steps", "60", "--n", "6", "--out", str(tmp_path / "demo")]
    report = poisson_linear.main(arguments)
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert names >= {"forward.png", "inverse.png", "training.png", "solution.vtu", "model.pt"}
    # 60 steps bring the error from 1 to some ten per cent; the correction takes it to the basis's.
    assert report.relative_l2_corrected < 0.05 < 1.0


@pytest.mark.slow
def test_thermal_block(tmp_path: Path):
    arguments = ["--blocks", "2", "--n", "6", "--seconds", "20", "--steps", "40", "--samples", "10"]
    report = thermal_block.main([*arguments, "--out", str(tmp_path)])
    assert {p.name for p in tmp_path.iterdir()} == {"bounds.png", "report.txt"}
    assert all(found.violations == 0 for found in report.effectivity.values())


@pytest.mark.slow
def test_places_of_sensors(tmp_path: Path):
    small = ["--n", "8", "--terms", "3", "--side", "2", "--data", "6", "--chain-steps", "60"]
    medians = place_sensors.main([*small, "--steps", "40", "--out", str(tmp_path)])
    assert {p.name for p in tmp_path.iterdir()} == {"sensors.png", "report.txt"}
    # Three parameters and four sensors: all beat the prior, whose log volume is 0.
    assert all(volume < -0.5 for volume, _ in medians.values())


@pytest.mark.slow
def test_bracket(tmp_path: Path):
    arguments = ["--n", "4", "--samples", "10", "--steps", "30", "--out", str(tmp_path)]
    report, n_exceeded = bracket.main(arguments)
    names = {"displacement.png", "deflection.png", "traction.png", "bracket.vtu"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert report.relative_l2_corrected < 1e-4
    assert n_exceeded == 0


@pytest.mark.slow
def test_flow_around_an_obstacle(tmp_path: Path):
    arguments = ["--n", "6", "--samples", "8", "--steps", "20", "--out", str(tmp_path)]
    pressure, report = stokes_channel.main(arguments)
    assert {p.name for p in tmp_path.iterdir()} == {"flow.png", "pressure.png", "model.png"}
    assert report.relative_norm_corrected < 1e-3
    assert pressure.shape == (8,)
    # 24, that of an empty channel of constant viscosity and flow, and more for the obstacle.
    assert 24 < pressure.median() < 200


def test_locking_of_the_membrane(tmp_path: Path):
    found = cook_membrane.main(["--n", "6", "--out", str(tmp_path)])
    assert (tmp_path / "membrane.png").is_file()
    # At nu = 0.4999 the deflection is 0.309 on fine meshes.
    assert found["u alone"][-1] < 0.1 < 0.3 < found["u and p"][-1] < 0.31


@pytest.mark.slow
def test_digital_twin(tmp_path: Path):
    arguments = ["--n", "10", "--steps", "30", "--seconds", "60", "--out", str(tmp_path)]
    last, batch = digital_twin.main(arguments)
    assert {p.name for p in tmp_path.iterdir()} == {"series.png", "conductivity.png", "states.png"}
    # What is known after the last arrival is what all data say at once.
    assert ((last.mean - batch.mean).abs() < 0.05 * batch.std).all()


@pytest.mark.slow
def test_plate_from_its_mesh_file(tmp_path: Path):
    report = poisson_mesh_file.main(["--seconds", "60", "--steps", "60", "--out", str(tmp_path)])
    assert (tmp_path / "plate.vtu").is_file()
    # The basis alone is good to a few parts in ten thousand.
    assert report.relative_l2_corrected < 0.02


@pytest.mark.slow
def test_nonlinear_poisson(tmp_path: Path):
    arguments = ["--seconds", "20", "--steps", "60", "--samples", "20", "--out", str(tmp_path)]
    report = poisson_nonlinear.main(arguments)
    names = {p.name for p in tmp_path.iterdir()}
    assert names >= {"forward.png", "inverse.png", "training.png", "report.txt"}
    # The correction takes the error to that of the basis, which is complete here.
    assert report.relative_l2_corrected < 0.01


@pytest.mark.slow
def test_shell(tmp_path: Path):
    mesh = fem.hare(1)
    meshio.Mesh(mesh.p.T, [("triangle", mesh.t.T)]).write(tmp_path / "hare.obj")
    arguments = ["--mesh", str(tmp_path / "hare.obj"), "--steps", "60", "--seconds", "60"]
    report = shell_hare.main([*arguments, "--samples", "8", "--out", str(tmp_path / "out")])
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names >= {"forward.png", "inverse.png", "shell.vtu", "report.txt"}
    # The basis is good to its tolerance, 1e-5 in energy.
    assert report.relative_l2_corrected < 1e-4


@pytest.mark.slow
def test_optimal_roof(tmp_path: Path):
    arguments = ["--n", "10", "--steps", "100", "--seconds", "60", "--out", str(tmp_path)]
    design, by_map, by_solves = optimal_roof.main(arguments)
    assert {p.name for p in tmp_path.iterdir()} >= {"optimum.png", "report.txt"}
    solve = design.problem.solve
    uniform, there = (float(design.compliance(solve, z)) for z in (design.uniform, by_map.z))
    assert there < 0.95 * uniform
    assert by_map.compliance == pytest.approx(there, rel=1e-3)
    # Nothing that matters is left for an optimiser that solves the PDE.
    assert by_solves.compliance > 0.999 * there
    assert float(design.volume(by_map.z)) <= 0.25 * (1 + 1e-6)


@pytest.mark.slow
def test_heat_without_a_mesh(tmp_path: Path):
    arguments = ["--steps", "400", "--seconds", "60", "--samples", "4", "--plane", "3"]
    report = pinn_heat.main([*arguments, "--out", str(tmp_path)])
    names = {p.name for p in tmp_path.iterdir()}
    assert names >= {"profiles.png", "space_time.png", "plane.png", "heat.vtu", "report.txt"}
    # A correction takes the error to that of the nodes.
    assert report.relative_l2 < 0.2
    assert report.relative_l2_corrected < 0.01


@pytest.mark.slow
def test_inference_from_both_ends(tmp_path: Path):
    arguments = ["--seconds", "10", "--amortize", "10", "--samples", "320", "--data-sets", "40"]
    report = inverse_poisson.main([*arguments, "--out", str(tmp_path)])
    names = {p.name for p in tmp_path.iterdir()}
    assert names >= {"solution.png", "marginals.png", "calibration.png", "report.txt"}
    # A short training gives a wide posterior, but not a wrong one.
    assert report.error < 1.2
    assert report.coverage[0.95] > 0.9


@pytest.mark.slow
def test_inference_from_published_data(tmp_path: Path):
    arguments = ["--steps", "30", "--samples", "160", "--out", str(tmp_path)]
    exact = inverse_real_data.main(arguments)
    assert {p.name for p in tmp_path.iterdir()} >= {"blocks.png", "report.txt"}
    # Every surrogate says that it is wrong here.
    report = (tmp_path / "report.txt").read_text()
    assert all(f"{method:<12}reject" in report for method in inverse_real_data.SURROGATES)
    # The two bodies of the published posterior: one that conducts less, one that conducts more.
    log_theta = exact.sample((200,), seed=0).log().mean(0).reshape(8, 8)
    assert log_theta[1:3, 1:3].mean() < -1
    assert log_theta[5:7, 5:7].mean() > 1


@pytest.mark.slow
def test_a_population_of_two_kinds(tmp_path: Path):
    arguments = ["--steps", "300", "--learn", "12", "--out", str(tmp_path)]
    p_value = generative_poisson.main(arguments)
    assert {p.name for p in tmp_path.iterdir()} >= {"population.png", "report.txt"}
    # A short training: close, if not the same.
    assert p_value > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_code_in_the_readme_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    code = re.sub(r"max_(seconds|steps)=\d+", "max_steps=20", blocks[number])
    monkeypatch.chdir(tmp_path)
    variables: dict[str, object] = {}
    exec(code, variables)
    assert variables["model"].is_calibrated


def test_code_on_shells_in_the_readme_runs():
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[2]
    variables: dict[str, object] = {}
    exec(block, variables)
    assert variables["u"].shape[1] == 6


@pytest.mark.slow
def test_code_without_a_mesh_in_the_readme_runs():
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[4]
    variables: dict = {}
    exec(block.replace("max_seconds=120", "max_steps=10"), variables)
    assert variables["u"].shape == (4, 100, 200)


def test_code_of_an_own_shell_in_the_readme_runs():
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[3]
    variables: dict = {}
    exec(block, variables)
    problem = variables["own"]
    u = problem.solve(problem.prior.sample(seed=0)).reshape(-1, 6)
    # The pressure pushes inwards: work of the load is positive, so something moves.
    assert 0 < u[:, :3].norm(dim=1).max() < 1
