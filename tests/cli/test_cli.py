"""The command line: a run from training to inference, and what it answers to misuse."""

import csv
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import meshio
import pytest
import torch
import xarray
from meshio.xdmf import TimeSeriesReader

import pddlvm
from pddlvm.cli.app import main
from pddlvm.runs.config import RunConfig
from pddlvm.runs.folder import Run
from problems import heat, poisson

OWN = """
from __future__ import annotations

from dataclasses import dataclass

import pddlvm
from problems import heat, poisson

@dataclass
class Mesh:
    n: int

def make(n: int = 8):
    return poisson.make_1d(Mesh(n).n)

def fails():
    raise RuntimeError("out of luck")

def number():
    return 3
"""


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


Call = Callable[..., Answer]


@pytest.fixture(scope="session")
def few(tmp_path_factory) -> Path:
    """A file for `--config`: a training is compared with few reference solutions."""
    path = tmp_path_factory.mktemp("config") / "few.toml"
    path.write_text("n_validation = 5\n")
    return path


@pytest.fixture(scope="module", autouse=True)
def coarse_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pddlvm.runs.figures._DPI", 30)
        yield


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def call(monkeypatch, capsys) -> Call:
    """Runs the program in this process."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["pddlvm", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Answer(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, few) -> Path:
    """A finished run of a small problem."""
    path = tmp_path_factory.mktemp("runs") / "line"
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["train", "poisson-1d", "--set", "n=8", "--max-steps", "30", "--seed", "1"]
        arguments += ["--config", str(few)]
        patch.setattr(sys, "argv", ["pddlvm", *arguments, "--out", str(path), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return path


@pytest.fixture
def sensors(run_folder, tmp_path: Path) -> Path:
    """Measurements of a solution of that problem; one value is missing."""
    problem = poisson.make_1d(8)
    points = [-0.5, 0.0, 0.5]
    observation = pddlvm.PointObservation(problem, points, 0.01)
    y = observation.simulate(problem.solve(torch.tensor([0.3], dtype=torch.float64)), seed=0)
    path = tmp_path / "sensors.csv"
    rows = [[x, f"{v:.6f}"] for x, v in zip(points, y.tolist(), strict=True)]
    rows[1][1] = ""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["x", "value"], *rows])
    return path


def test_list_names_the_installed_problems(call: Call):
    answer = call("list", "--json")
    assert answer.code == 0
    assert answer.json["poisson"]["n"] == "32"
    assert "poisson-1d" in call("list").out


def test_a_run_folder_holds_what_it_should(run_folder: Path):
    names = {path.name for path in run_folder.iterdir()}
    assert names == {
        "config.toml", "info.json", "metrics.csv", "checkpoints", "model.pt", "figures",
        "report.html",
    }  # fmt: skip
    assert [row["step"] for row in rows_of(run_folder / "metrics.csv")] == ["0", "10", "20", "30"]
    page = (run_folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list((run_folder / "figures").iterdir()))
    assert "http" not in page.split("</style>")[1]
    info = json.loads((run_folder / "info.json").read_text())
    assert set(info["versions"]) >= {"python", "pddlvm", "torch"} and info["n_steps"] == 30


def test_info_says_what_was_asked(run_folder: Path, call: Call):
    found = call("info", run_folder, "--json").json
    assert found["state"] == "trained"
    assert (found["problem"], found["settings"], found["seed"]) == ("poisson-1d", {"n": 8}, 1)
    assert found["steps"] == 30


def test_the_model_of_a_run_is_that_of_the_library(run_folder: Path, call: Call):
    problem = poisson.make_1d(8)
    model = pddlvm.load(run_folder / "model.pt", problem)
    expected = model.forward(torch.tensor([[0.5]], dtype=torch.float64))
    found = call("forward", run_folder, "--z", "0.5", "--json").json
    assert found["max_abs_mean"][0] == pytest.approx(float(expected.mean.abs().max()), rel=1e-12)
    assert found["residual_norm"][0] == pytest.approx(float(expected.residual_norm), rel=1e-6)


def test_forward_writes_files_for_other_programs(run_folder: Path, call: Call, tmp_path: Path):
    one = call("forward", run_folder, "--z", "0.5", "--samples", "2", "--out", tmp_path / "u.vtu")
    assert one.code == 0, one.err
    data = meshio.read(tmp_path / "u.vtu").point_data
    assert {"u_mean", "u_std", "u_sample_0", "u_sample_1"} <= set(data)
    assert call("forward", run_folder, "--draws", 3, "--out", tmp_path / "sweep.pvd").code == 0
    assert len(list((tmp_path / "sweep" / "1").iterdir())) == 3
    table = tmp_path / "z.csv"
    table.write_text("kappa\n0.1\n-0.2\n")
    done = call("forward", run_folder, "--table", table, "--out", tmp_path / "u.csv")
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "u.csv")
    assert len(rows) == 2 and len(rows[0]) == 2 * 9


def test_infer_takes_the_field_that_was_measured(run_folder, sensors, call: Call):
    asked = "infer", run_folder, "--data", sensors, "--noise-std", 0.01, "--field"
    assert call(*asked, "u").code == 0
    other = call(*asked, "p")
    assert other.code == 1 and "no field 'p'" in other.err


@pytest.mark.parametrize("method", ["laplace", pytest.param("nuts", marks=pytest.mark.slow)])
def test_infer_finds_the_parameter(run_folder, sensors, method, call: Call, tmp_path: Path):
    out = tmp_path / "post.nc"
    done = call(
        "infer", run_folder, "--data", sensors, "--noise-std", 0.01, "--method", method,
        "--samples", 40, "--chains", 2, "--out", out, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = done.json
    assert abs(found["mean"]["kappa"] - 0.3) < 4 * found["std"]["kappa"]
    tree = xarray.open_datatree(out, engine="h5netcdf")
    assert {"posterior", "prior", "posterior_predictive", "observed_data"} <= set(tree)
    assert tree["posterior"]["kappa"].size == 40
    tree.close()


@pytest.mark.slow
def test_a_density_is_kept_for_the_next_data(run_folder, call: Call, tmp_path: Path):
    density, table = tmp_path / "density.pt", tmp_path / "data.csv"
    table.write_text("x,value\n-0.5,0.2\n0.0,0.3\n")
    options = ["infer", run_folder, "--data", table, "--noise-std", 0.01, "--json"]
    first = call(*options, "--method", "amortized", "--max-time", 2, "--density", density)
    assert first.code == 0, first.err
    written = density.stat().st_mtime_ns
    second = call(*options, "--method", "amortized", "--density", density)
    assert second.json["mean"] == first.json["mean"]
    assert density.stat().st_mtime_ns == written
    table.write_text("x,value\n-0.5,0.2\n0.0,\n")
    missing = call(*options, "--method", "amortized", "--density", tmp_path / "other.pt")
    # Before a minute of training.
    assert missing.code == 1 and "NaN" in missing.err and not (tmp_path / "other.pt").exists()


def test_validate_compares_with_the_reference_solver(run_folder, call: Call):
    found = call("validate", run_folder, "--draws", 20, "--json").json
    assert found["n_samples"] == 20
    assert 0 <= found["coverage_u"] <= 1 and found["mnse_u"] > 0


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory, few) -> Path:
    """A finished run of a problem in time on a mesh."""
    path = tmp_path_factory.mktemp("runs") / "plate"
    with pytest.MonkeyPatch.context() as patch:
        settings = ("n=10", "n_terms=2", "n_steps=10")
        options = [x for one in settings for x in ("--set", one)]
        arguments = ["train", f"{heat.__file__}:make", *options, "--max-steps", "20", "--json"]
        arguments += ["--config", str(few), "--out", str(path)]
        patch.setattr(sys, "argv", ["pddlvm", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return path


@pytest.mark.slow
def test_a_run_in_time_has_figures_and_answers(trajectories, call: Call, tmp_path: Path):
    own = ("--problem", f"{heat.__file__}:make")
    assert len(list((trajectories / "figures").iterdir())) == 4
    found = call("forward", trajectories, *own, "--draws", 2, "--json")
    assert found.code == 0, found.err
    assert len(found.json["max_std"]) == 2 and all(x > 0 for x in found.json["max_std"])
    series = call("forward", trajectories, *own, "--draws", 1, "--out", tmp_path / "u.pvd")
    assert series.code == 0 and len(list(tmp_path.rglob("*.vtu"))) == 10
    some = call(
        "forward",
        trajectories,
        *own,
        "--draws",
        1,
        "--times",
        "0.5, 2",
        "--out",
        tmp_path / "u.xdmf",
    )
    assert some.code == 0, some.err
    with TimeSeriesReader(tmp_path / "u.xdmf") as file:
        file.read_points_cells()
        assert [file.read_data(k)[0] for k in range(file.num_steps)] == [0.5, 2.0]
    assert call("validate", trajectories, *own, "--draws", 4).code == 0


@pytest.mark.slow
def test_parameters_of_a_run_in_time_are_inferred(trajectories, call: Call, tmp_path: Path):
    own = ("--problem", f"{heat.__file__}:make")
    data = tmp_path / "data.csv"
    data.write_text("x,y,t,value\n0.9,0.5,0.5,0.9\n1.5,0.5,1.0,0.9\n")
    options = ("--noise-std", 0.1, "--out", tmp_path / "posterior.nc")
    found = call("infer", trajectories, *own, "--data", data, *options)
    assert found.code == 0, found.err
    assert (tmp_path / "posterior.nc").exists()


@pytest.mark.slow
def test_parameters_behind_a_time_series_are_inferred(trajectories, call: Call, tmp_path: Path):
    own = ("--problem", f"{heat.__file__}:make", "--noise-std", 0.1)
    data, places = tmp_path / "series.csv", tmp_path / "places.csv"
    places.write_text("sensor,x,y\nA,0.9,0.5\nB,1.5,0.5\n")
    data.write_text("t,A,B\n0.5,0.9,\n1.0,0.8,0.9\n")
    options = ("--data", data, "--sensors", places)
    found = call("infer", trajectories, *own, *options)
    assert found.code == 0, found.err
    data.write_text("t,A,B\n7.0,0.9,0.9\n")
    outside = call("infer", trajectories, *own, *options)
    assert outside.code == 1 and "outside of the interval" in outside.err


@pytest.mark.slow
def test_what_a_run_in_time_cannot_write_is_said(trajectories, call: Call, tmp_path: Path):
    own = ("--problem", f"{heat.__file__}:make")
    table = call("forward", trajectories, *own, "--draws", 1, "--out", tmp_path / "u.csv")
    assert table.code == 1 and "write a .pvd file" in table.err
    times = ("forward", trajectories, *own, "--draws", 1, "--times")
    one = call(*times, "1", "--out", tmp_path / "u.vtu")
    assert one.code == 2 and "--times is for a .pvd" in one.err
    words = call(*times, "soon", "--out", tmp_path / "u.pvd")
    assert words.code == 2 and "--times takes numbers" in words.err
    late = call(*times, "9", "--out", tmp_path / "u.pvd")
    assert late.code == 1 and "outside of the interval" in late.err
    assert not list(tmp_path.iterdir())
    maps = call("export", trajectories, *own, "--format", "torch")
    assert maps.code == 1 and "maps of trajectories cannot be written" in maps.err


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def test_a_problem_in_a_file_is_executed_only_when_it_is_named(
    own, few, call: Call, tmp_path: Path
):
    out = tmp_path / "run"
    quick = ("--set", "n=6", "--max-steps", 3, "--config", few)
    done = call("train", f"{own}:make", *quick, "--out", out)
    assert done.code == 0, done.err
    refused = call("forward", out, "--draws", 1)
    assert refused.code == 1 and "--problem" in refused.err
    assert call("forward", out, "--draws", 1, "--problem", f"{own}:make").code == 0


def test_a_figure_that_cannot_be_drawn_costs_no_run(few, call: Call, tmp_path: Path, monkeypatch):
    def fails(*arguments: object, **options: object):
        raise RuntimeError("latex could not be found")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fails)
    out = tmp_path / "run"
    quick = ("--set", "n=6", "--max-steps", 3, "--config", few)
    done = call("train", "poisson-1d", *quick, "--out", out)
    assert done.code == 0 and "verdict" in done.out
    assert "'Training: " in done.err and "latex could not be found" in done.err
    page = (out / "report.html").read_text()
    assert "latex could not be found" in page and "data:image/png" not in page


def test_what_is_read_is_not_written_over(call: Call, tmp_path: Path):
    table = tmp_path / "data.csv"
    table.write_text("x,value\n0.5,0.1\n")
    for command in (("infer", "--data"), ("forward", "--table")):
        done = call(command[0], tmp_path, command[1], table, "--out", table)
        assert done.code == 2 and "is read, or of the run" in done.err
    assert table.read_text() == "x,value\n0.5,0.1\n"


def test_what_a_run_has_written_is_not_written_over(call: Call, run_folder: Path):
    metrics = run_folder / "metrics.csv"
    before = metrics.read_text()
    done = call("forward", run_folder, "--draws", 1, "--out", metrics)
    assert done.code == 2 and "is read, or of the run" in done.err
    assert metrics.read_text() == before


@pytest.mark.slow
def test_a_toml_file_says_the_same_as_flags(call: Call, tmp_path: Path):
    config = tmp_path / "run.toml"
    config.write_text(
        'problem = "poisson-1d"\nmax_steps = 50\nseed = 4\nn_validation = 5\n[settings]\nn = 7\n'
    )
    done = call("train", "--config", config, "--max-steps", 3, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    echo = (tmp_path / "run" / "config.toml").read_text()
    assert "max_steps = 3" in echo and "seed = 4" in echo and "n = 7" in echo


@pytest.mark.slow
def test_an_interrupted_run_goes_on(call: Call, tmp_path: Path, monkeypatch):
    options = ["train", "poisson-1d", "--set", "n=8", "--max-steps", 30, "--checkpoint-every", 0]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert call(*options, "--out", whole).code == 0
    add = Run.add_metrics

    def stop(run: Run, row: dict[str, float]) -> None:
        add(run, row)
        if row["step"] == 20:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "add_metrics", stop)
    ended = call(*options, "--out", broken)
    assert ended.code == 130 and f"pddlvm train --resume --out {broken}" in ended.err
    monkeypatch.setattr(Run, "add_metrics", add)
    assert "not finished" in call("info", broken).out
    # The newest checkpoint serves as a model until then.
    assert call("forward", broken, "--draws", 1).code == 0
    assert call("train", "--resume", "--out", broken).code == 0
    problem = poisson.make_1d(8)
    a, b = (pddlvm.load(path / "model.pt", problem).state_dict() for path in (whole, broken))
    assert all(torch.equal(a[name], b[name]) for name in a)
    steps = [[row["step"] for row in rows_of(path / "metrics.csv")] for path in (whole, broken)]
    assert steps[0] == steps[1]
    assert "finished" in call("train", "--resume", "--out", broken).err


def test_a_run_whose_settings_were_edited_is_refused(call: Call, tmp_path: Path):
    settings = {"n": 4, "n_terms": 2, "length": 0.3}
    config = RunConfig(problem="poisson", settings=settings, max_steps=3, n_validation=5)
    run = Run.create(tmp_path / "run", config)
    model = pddlvm.LatentVariableModel(run.problem(), basis=pddlvm.EnergyModes(4))
    pddlvm.train(model, max_steps=3, device="cpu", calibrate=False, checkpoints=run.checkpoints)
    replace(config, settings={**settings, "length": 0.6}).write(run.path / "config.toml")
    done = call("train", "--resume", "--out", run.path)
    assert done.code != 0 and "another problem" in done.err


def test_a_run_that_was_killed_before_its_first_step_goes_on(call: Call, tmp_path: Path):
    config = RunConfig(problem="poisson-1d", settings={"n": 8}, max_steps=3, n_validation=5)
    Run.create(tmp_path / "run", config)
    assert "not finished" in call("info", tmp_path / "run").out
    done = call("train", "--resume", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "versions" in call("info", tmp_path / "run", "--json").json


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing", "--max-steps", "3"], "there is no problem 'nothing'"),
        (["train", "poisson-1d", "--set", "m=3", "--max-steps", "3"], "no setting"),
        (["train", "poisson-1d", "--set", "n", "--max-steps", "3"], "name=value"),
        (
            ["train", "poisson-1d", "--set", "n=text", "--max-steps", "3"],
            "an integer, got n = 'text'",
        ),
        (["train", "nowhere.py:make", "--max-steps", "3"], "no file"),
        (["train", "--max-steps", "3"], "needs a problem"),
        (["train", "--resume"], "not a run folder"),
        (["train", "poisson-1d", "--max-time", "-5"], "max_seconds must be a positive number"),
    ],
)
def test_bad_trainings_are_refused(arguments, message, call: Call, tmp_path: Path):
    done = call(*arguments, "--out", tmp_path / "run")
    assert done.code == 1
    assert message in done.err and "Traceback" not in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "message"),
    [("fails", "out of luck"), ("number", "must be a problem"), ("absent", "no function")],
)
def test_bad_files_of_problems_are_refused(own, function, message, call: Call, tmp_path: Path):
    done = call("train", f"{own}:{function}", "--max-steps", 3, "--out", tmp_path / "run")
    assert done.code == 1 and message in done.err


def test_a_used_folder_is_not_overwritten(run_folder, call: Call):
    before = (run_folder / "model.pt").read_bytes()
    done = call("train", "poisson-1d", "--max-steps", 3, "--out", run_folder)
    assert done.code == 1 and "not empty" in done.err
    assert (run_folder / "model.pt").read_bytes() == before


def test_a_folder_that_cannot_be_read_is_refused(call: Call, tmp_path: Path, monkeypatch):
    def refuse(path: Path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(pddlvm.RunFileError, match="Permission denied"):
        Run.create(tmp_path / "run", RunConfig(problem="poisson-1d", max_steps=3))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_metrics_on_a_full_disk_say_so(tmp_path: Path):
    run = Run.create(tmp_path / "run", RunConfig(problem="poisson-1d", max_steps=3))
    (run.path / "metrics.csv").symlink_to("/dev/full")
    with pytest.raises(pddlvm.RunFileError, match="No space left"):
        run.add_metrics({"step": 0, "seconds": 0.0, "elbo": 0.0, "stage": 0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,value\n0.1,abc\n", "no number"),
        ("x,value\n3.0,0.1\n", "outside"),
        ("y,value\n0.1,0.1\n", "no column x"),
        ("x,temperature\n0.1,0.1\n", "no column value; it needs value, and has x, temperature"),
        ("x,value,colour\n0.1,0.1,2\n", "colour"),
        ("x,value\n0.1\n", "row 1"),
        ("x,value\n", "at least one row"),
        ("x,x\n1,2\n", "twice"),
        ("0.1,0.1\n0.2,0.2\n", "first line must name the columns"),
    ],
)
def test_bad_tables_are_refused(run_folder, text, message, call: Call, tmp_path: Path):
    (tmp_path / "data.csv").write_text(text)
    done = call("infer", run_folder, "--data", tmp_path / "data.csv", "--noise-std", 0.1)
    assert done.code == 1 and message in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--z", "1,2"], 2, "needs 1 values"),
        (["--z", "one"], 2, "numbers"),
        ([], 2, "one of"),
        (["--z", "1", "--draws", "2"], 2, "one of"),
        (["--draws", "2", "--out", "u.png"], 2, "vtu"),
        (["--table", "nowhere.csv"], 1, "cannot read"),
    ],
)
def test_bad_parameters_are_refused(run_folder, arguments, code, message, call: Call):
    done = call("forward", run_folder, *arguments)
    assert done.code == code and message in done.err


def test_misuse_ends_with_code_2(call: Call, run_folder, sensors, tmp_path: Path):
    assert call("trian").code == 2
    assert call("forward").code == 2
    endless = call("train", "poisson-1d", "--out", tmp_path / "run")
    assert endless.code == 2 and "how long" in endless.err
    changed = call("train", "--resume", "--seed", 3, "--out", run_folder)
    assert changed.code == 2 and "leave out ['seed']" in changed.err
    other = call("infer", run_folder, "--data", sensors, "--out", "z.txt")
    assert other.code == 2 and ".nc or .csv" in other.err
    nowhere = call("infer", run_folder, "--data", sensors, "--out", tmp_path / "no" / "z.nc")
    assert nowhere.code == 1 and "create it first" in nowhere.err
    unused = call("infer", run_folder, "--data", sensors, "--density", "density.pt")
    assert unused.code == 2 and "not for laplace" in unused.err


def test_draws_are_printed_one_below_the_other(run_folder, call: Call):
    lines = call("forward", run_folder, "--draws", 3).out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == [line.split()[-1] for line in lines[1:3]]


def test_people_read_words(run_folder, call: Call):
    assert "coverage of u, +-2 std" in call("validate", run_folder, "--draws", 20).out
    page = (run_folder / "report.html").read_text()
    assert "coverage of u, +-2 std" in page and "n = 8" in page


@pytest.mark.parametrize(
    "command", ["list", "train", "forward", "infer", "validate", "info", "export"]
)
def test_every_command_has_help(command, call: Call):
    done = call(command, "--help")
    assert done.code == 0 and done.out.count(f"pddlvm {command}") > 1  # usage, example


@pytest.mark.slow
def test_a_log_for_tensorboard(call: Call, tmp_path: Path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    out = tmp_path / "run"
    done = call("train", "poisson-1d", "--max-steps", 20, "--tensorboard", "--out", out)
    assert done.code == 0, done.err
    (file,) = (out / "tensorboard").iterdir()
    events = loader.EventFileLoader(str(file)).Load()
    steps = [event.step for event in events if event.HasField("summary")]
    assert steps == [0, 10, 20]
