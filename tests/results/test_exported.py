"""Files of both maps: what they give, and what they refuse."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pddlvm
from pddlvm.results.exported import _tasks, export_maps
from pddlvm.results.tracing import _asinh, _diagonal_scatter, _erf, record
from problems import nonlinear_poisson, pinn, poisson

# The same float32 operations in another order.
ROUNDING = 1e-5
# One sample alone goes another way through the matrix products, and features of u are differences:
# the model itself then changes by up to 3e-5. What is wrong differs by 1e-2 and more.
ALONE = 3e-4

MAKERS = {
    "line": lambda: poisson.make_1d(8),
    "plane": lambda: poisson.make(8, n_terms=3),
    "several blocks": nonlinear_poisson.make_1d,
    "no mesh": lambda: pinn.make_burgers((20, 20)),
}
FORMATS = ["torch", "onnx"]


def trained(name: str) -> pddlvm.LatentVariableModel:
    model = pddlvm.LatentVariableModel(MAKERS[name](), seed=0)
    # After 20 steps the inverse map is so wide that rounding moves its mean by 1e-5; now by 1e-7.
    pddlvm.train(model, max_steps=60)
    return model


def need(format: str) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def line() -> pddlvm.LatentVariableModel:
    return trained("line")


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, line, tmp_path_factory) -> pddlvm.Exported:
    need(request.param)
    return export_maps(line, tmp_path_factory.mktemp(request.param), request.param)


def loaded(path: Path):
    """What a file computes, for those who have the file only."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    (given,) = session.get_inputs()
    return lambda x: [torch.from_numpy(v) for v in session.run(None, {given.name: x.numpy()})]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def check_files(model: pddlvm.LatentVariableModel, files: tuple[Path, ...]) -> None:
    """Do files give what the model gives, for other numbers of samples than were recorded?"""
    forward, inverse = (loaded(path) for path in files)
    corrections = {"corrections": 0} if isinstance(model.problem, pddlvm.Problem) else {}
    for n, tolerance in ((1, ALONE), (6, ROUNDING)):
        z = model.problem.prior.sample((n,), seed=5).float()
        prediction = model.forward(z)
        u = prediction.mean
        inferred = model.inverse(u, **corrections)
        for file, x, expected in ((forward, z, prediction), (inverse, u, inferred)):
            mean, std = file(x)
            assert mean.dtype == std.dtype == torch.float32
            assert relative(mean, expected.mean) < tolerance
            assert relative(std, expected.std) < tolerance


@pytest.mark.parametrize(
    "k", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["forward", "inverse"]
)
def test_recordings_give_what_the_model_gives(line, k):
    task = list(_tasks(line))[k]
    graph = record(task.function, task.x)
    for n, tolerance in ((1, ALONE), (6, ROUNDING)):
        for found, expected in zip(graph(task.x[:n]), task.reference(task.x[:n]), strict=True):
            assert relative(found, expected) < tolerance


def test_files_know_the_shape_of_errors():
    # The prior cuts errors of z off where there was no training: mean and std depend on the shape.
    model = pddlvm.LatentVariableModel(poisson.make_missing_middle(8), seed=0)
    model.calibrate(256)
    _, inverse = _tasks(model)
    for found, expected in zip(
        inverse.function(inverse.x), inverse.reference(inverse.x), strict=True
    ):
        assert relative(found, expected) < ROUNDING


@pytest.mark.slow
def test_files_give_what_the_model_gives(line, exported):
    assert exported.difference < ROUNDING
    check_files(line, exported.files)


@pytest.mark.slow
def test_files_are_whole(exported):
    forward, inverse = exported.files
    # Weights are in the file itself.
    assert sorted(forward.parent.iterdir()) == [forward, inverse]
    assert (forward.stem, inverse.stem) == ("forward", "inverse")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MAKERS)[1:])
def test_files_of_every_kind_of_model(name, tmp_path):
    model = trained(name)
    for format in FORMATS:
        need(format)
        made = export_maps(model, tmp_path, format)
        assert made.difference < ROUNDING
        check_files(model, made.files)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["line", "no mesh"])
def test_a_model_that_is_not_calibrated_has_files_too(name, tmp_path):
    model = pddlvm.LatentVariableModel(MAKERS[name]())
    check_files(model, export_maps(model, tmp_path, "torch").files)


@pytest.mark.slow
def test_inputs_of_a_double_precision_model_are_single(tmp_path):
    model = pddlvm.LatentVariableModel(poisson.make_1d(8), dtype=torch.float64)
    assert export_maps(model, tmp_path, "torch").difference < ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["onnx"], indirect=True)
def test_onnx_names_the_input_and_leaves_the_batch_open(exported):
    onnx = pytest.importorskip("onnx")
    for path, name, n in zip(exported.files, "zu", (1, 9), strict=True):
        graph = onnx.load(path).graph
        batch, size = graph.input[0].type.tensor_type.shape.dim
        assert (graph.input[0].name, batch.dim_param, size.dim_value) == (name, "batch", n)
        assert [o.name for o in graph.output] == ["mean", "std"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages_are_named(line, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(pddlvm.InputError, match=r"pip install 'pddlvm\[export\]'"):
        export_maps(line, tmp_path, "onnx")


class Noisy(nn.Module):
    """A network that gives something else each time."""

    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.network = pddlvm.NeuralGaussian(1, n_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(x + torch.randn_like(x))


def test_a_network_that_draws_is_not_written(tmp_path):
    basis = pddlvm.EnergyModes(3)
    model = pddlvm.LatentVariableModel(
        poisson.make_1d(8), basis=basis, forward_network=Noisy(3), seed=0
    )
    old = tmp_path / "forward.pt2"
    old.write_text("old")
    with pytest.raises(
        pddlvm.InputError, match=r"forward map gives something else each time.*random"
    ):
        export_maps(model, tmp_path, "torch")
    assert [*tmp_path.iterdir()] == [old] and old.read_text() == "old"


def test_a_file_that_differs_is_not_written(line, tmp_path, monkeypatch):
    def off(task, format):
        return b"", tuple(1.02 * output for output in task.reference(task.x))

    monkeypatch.setattr("pddlvm.results.exported._compiled", off)
    with pytest.raises(pddlvm.InputError, match="torch file of the forward map would differ"):
        export_maps(line, tmp_path, "torch")
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_map_that_reads_values_is_refused(line, tmp_path, monkeypatch):
    network = line.inverse_map.network.forward
    monkeypatch.setattr(
        line.inverse_map.network, "forward", lambda f: network(f if f.max() > 0 else -f)
    )
    with pytest.raises(pddlvm.InputError, match="inverse map cannot be written as torch"):
        export_maps(line, tmp_path, "torch")
    assert not [*tmp_path.iterdir()]


def test_wrong_arguments_are_named(line, tmp_path):
    with pytest.raises(pddlvm.InputError, match="one of onnx, torch, got 'pt'"):
        export_maps(line, tmp_path, "pt")
    with pytest.raises(pddlvm.InputError, match="create it first"):
        export_maps(line, tmp_path / "nowhere", "torch")


def test_a_recording_holds_for_any_number_of_samples():
    def function(x: Tensor) -> tuple[Tensor, ...]:
        n = len(x)
        steps = torch.arange(2 * n + 1, dtype=x.dtype)
        return x.repeat_interleave(2, dim=0) * steps[1:, None], steps * torch.eye(3).sum()

    graph = record(function, torch.ones(5, 2))
    for n in (1, 4, 9):
        x = torch.rand(n, 2)
        assert all(map(torch.equal, graph(x), function(x)))
    # What depends on neither x nor n was computed when it was recorded.
    assert "eye" not in graph.code


def test_a_recording_refuses_what_depends_on_the_number_of_samples():
    with pytest.raises(pddlvm.InputError, match="number of samples"):
        record(lambda x: (x.sin() if len(x) == 3 else x.cos(),), torch.ones(5, 2))
    with pytest.raises(pddlvm.InputError, match="for 3 samples"):
        record(lambda x: (x * (0.1 * len(x)),), torch.ones(5, 2))


def test_factors_in_double_precision_are_stored_in_it():
    graph = record(lambda x: (x.double() * 0.1 / 0.3,), torch.ones(5, 2))
    assert not [v for node in graph.graph.nodes for v in node.args if isinstance(v, float)]
    x = torch.rand(4, 2)
    assert torch.equal(graph(x)[0], x.double() * 0.1 / 0.3)


def test_erf_is_exact_in_double_precision():
    x = torch.cat([torch.linspace(-9, 9, 2001), torch.tensor([1e-9, -torch.inf])]).double()
    torch.testing.assert_close(_erf(x), x.erf(), rtol=1e-13, atol=0)


def test_asinh_is_exact_in_double_precision():
    x = torch.linspace(-50, 50, 2001, dtype=torch.float64)
    torch.testing.assert_close(_asinh(x), x.asinh(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3, 2)])
@pytest.mark.parametrize("offset", [-1, 0, 2])
def test_diagonal_scatter_is_that_of_torch(shape, offset):
    x = torch.rand(shape)
    source = torch.rand_like(x.diagonal(offset, 1, 0))
    expected = torch.diagonal_scatter(x, source, offset, 1, 0)
    assert torch.equal(_diagonal_scatter(x, source, offset, 1, 0), expected)
