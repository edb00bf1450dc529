"""Both maps of a trained model as files for other programs: ONNX or `torch.export`.

    forward    z (batch, d)       -> mean and std of u, (batch, n_dofs) each
    inverse    u (batch, n_dofs)  -> mean and std of z, (batch, d) each; nothing known, uncorrected

No tracer that keeps the batch as a symbol gets through the derivatives inside of the maps (of the
pointwise physics, of lifts). So each map is recorded twice as a flat list of tensor operations, on
n_1 and on n_2 samples. Sizes that differ between the two lists are linear in the batch,

    k(n) = k_1 + (k_2 - k_1) / (n_2 - n_1) (n - n_1),

and what depends on neither the input nor the batch is computed once and stored.
"""

import io
import logging
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn

from pddlvm.collocation.model import CollocationModel
from pddlvm.errors import InputError
from pddlvm.files import replacing
from pddlvm.inversion import inverse_features
from pddlvm.latent import LatentVariableModel
from pddlvm.model import GalerkinModel
from pddlvm.predictions import Inverse

__all__ = ["Exported", "export_maps"]

Format = Literal["onnx", "torch"]
Map = Callable[[Tensor], tuple[Tensor, ...]]

_RECORDED = (3, 5)
_CHECKED = 7
"""Samples; another number than those recorded, so that a fixed batch is noticed."""
_SEED = 20
_LIMIT = 1e-4


@dataclass(frozen=True)
class Exported:
    """Files of both maps, and how far they are from the model.

    Attributes:
        files: of the forward map, then of the inverse map.
        difference: largest difference between the outputs of the files and of the model on fresh
            prior draws, relative to the largest absolute value of each output.
    """

    files: tuple[Path, ...]
    difference: float


def export_maps(model: LatentVariableModel, folder: Path, format: Format) -> Exported:
    """Write both maps to a folder, and check the files by running them.

    The inputs z and u and the outputs mean and std are float32, with any number of rows; the files
    do not check what they are given. They are those of `model.forward(z)` and of
    `model.inverse(u, corrections=0)` (of `model.inverse(u)` without a mesh).

    To load a .pt2 file, `torch.export.load` unpickles parts of it, which can execute anything that
    somebody put there: load files from sources that you trust only. ONNX files hold no code.

    Args:
        model: trained, and calibrated if the std is to mean anything.
        folder: an existing folder, for forward and inverse.
        format: "onnx" (.onnx, needs the extra `export`) or "torch" (.pt2 for `torch.export.load`).

    Raises:
        InputError: no such format, missing packages, a map with operations that the format does not
            have, or whose file differs from it by more than 1e-4; then nothing is written.
    """
    if format not in get_args(Format):
        raise InputError(f"format must be one of {get_args(Format)}, got {format!r}")
    compile_map, suffix = (_to_onnx, "onnx") if format == "onnx" else (_to_torch, "pt2")
    if format == "onnx":
        _packages()
    device = model.sigma_residual.device
    contents, differences = [], []
    try:
        model.to("cpu")
        for name, variable, function, expected, x in _maps(model):
            try:
                content, run = compile_map(_record(function, x), x, variable)
                found = run(x)
            except InputError:
                raise
            except Exception as error:
                # Recorders and compilers fail in many ways on operations that they do not know.
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                raise InputError(
                    f"the {name} map cannot be written as {format} ({reason}); a network or physics"
                    " of your own may use operations that the format does not have: try the other "
                    "format"
                ) from error
            difference = _difference(found, expected)
            if not difference <= _LIMIT:
                raise InputError(
                    f"the {format} file of the {name} map would differ from the model by "
                    f"{difference:.1e} of its largest value (at most {_LIMIT:g} is allowed); "
                    "a network that draws random numbers cannot be exported: call model.eval()"
                )
            contents.append((folder / f"{name}.{suffix}", content))
            differences.append(difference)
    finally:
        model.to(device)
    for path, content in contents:
        with replacing(path) as file:
            file.write(content)
    return Exported(tuple(path for path, _ in contents), max(differences))


# --- the maps, without the checks of their inputs, which look at values --------------------------


def _maps(model: LatentVariableModel) -> Iterator[tuple[str, str, Map, tuple[Tensor, ...], Tensor]]:
    """Name of each map, of its input, the map, what the model gives, and the input for that."""
    z = model.problem.prior.sample((_CHECKED,), seed=_SEED).float()
    forward = model.forward(z)
    yield "forward", "z", _forward_map(model), (forward.mean, forward.std), z
    u = forward.mean
    galerkin = isinstance(model, GalerkinModel)
    inverse = model.inverse(u, corrections=0) if galerkin else model.inverse(u)
    yield "inverse", "u", _inverse_map(model), (inverse.mean, inverse.std), u


def _forward_map(model: LatentVariableModel) -> Map:
    """z -> mean and std of u, see `pddlvm.predictions.Forward`."""

    def galerkin(z: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(model, GalerkinModel)
        representation, work = model.reduced.representation, z.to(model.sigma_residual)
        xi = model.problem.prior.standardise(work)
        c, log_variance = model.forward_map(xi)
        a = representation.augment(c, representation.boundary_coordinates(work))
        var_c, var_rest = log_variance.exp(), torch.zeros_like(a[:, :1])
        if model.is_calibrated:
            sizes = model.log_sizes(c, work, xi, 0)
            var_c, var_rest = model.uncertainty.forward_variances(xi, *sizes, 0)
        variance = var_c @ representation.vectors.square().T + var_rest
        return (a @ representation.rows).to(z), variance.sqrt().to(z)

    def collocation(z: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(model, CollocationModel)
        found = model.forward(z, extrapolate=True)
        return found.mean, found.std

    return galerkin if isinstance(model, GalerkinModel) else collocation


def _inverse_map(model: LatentVariableModel) -> Map:
    """u -> mean and std of z, see `pddlvm.predictions.Inverse`."""

    def inverse(u: Tensor) -> tuple[Tensor, Tensor]:
        work = u.to(model.sigma_residual)
        known = work.new_zeros(len(u), model.problem.prior.size)
        if isinstance(model, CollocationModel):
            mean, std = model.invert(work, known, known)
        else:
            assert isinstance(model, GalerkinModel)
            representation = model.reduced.representation
            c, b = representation.project(work), representation.boundary_coordinates_of(work)
            mean, log_variance = model.neural_inverse(c, b, known, known)
            features, base = inverse_features(mean, log_variance, None, known)
            std = model.uncertainty.inverse_std(features, base, known, 0)
        found = Inverse(mean.to(u), std.to(u), model.problem.prior)
        return found.mean, found.std

    return inverse


def _difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Largest |found - expected| / max |expected| of the outputs; NaN if there is one."""
    tiny = torch.finfo(torch.float32).tiny
    parts = [
        (f - e).abs().max() / e.abs().max().clamp(min=tiny)
        for f, e in zip(found, expected, strict=True)
    ]
    return float(torch.stack(parts).max())


# --- recording -----------------------------------------------------------------------------------


def _record(function: Map, x: Tensor) -> fx.GraphModule:
    """A function of (batch, n) as a graph of tensor operations for any batch."""
    from torch.func import functionalize
    from torch.fx.experimental.proxy_tensor import make_fx

    def once(part: Tensor) -> fx.GraphModule:
        # First without transforms, which derivatives by autograd do not go with.
        return make_fx(functionalize(make_fx(function)(part)))(part)

    with torch.no_grad():
        # Fills what is cached, so that both recordings find the same.
        function(x)
        return _Merger(*(once(x[:n]) for n in _RECORDED)).merged


class _Merger:
    """Two recordings, of batches of _RECORDED samples, as one graph for any batch."""

    def __init__(self, first: fx.GraphModule, second: fx.GraphModule) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.values: dict[fx.Node, Any] = {}
        """What stands for the nodes of the first recording: nodes, or what is constant."""
        self.stored: dict[int, str] = {}
        pairs = list(zip(first.graph.nodes, second.graph.nodes, strict=True))
        for a, b in pairs:
            if a.op == "placeholder":
                self.values[a] = self.graph.placeholder("x")
                size = torch.ops.aten.sym_size.int
                self.batch = self.graph.call_function(size, (self.values[a], 0))
            elif a.op == "get_attr":
                self.values[a] = getattr(first, a.target).detach()
            elif a.op == "output":
                self.graph.output(self._nodes(self._merge(a.args[0], b.args[0])))
            else:
                self.values[a] = self._call(a, b)
        self.graph.eliminate_dead_code()
        self.merged = fx.GraphModule(self.root, self.graph)

    def _call(self, a: fx.Node, b: fx.Node) -> Any:
        if a.target != b.target:
            raise InputError("what it computes depends on the number of samples")
        args, kwargs = self._merge((a.args, a.kwargs), (b.args, b.kwargs))
        found: list[fx.Node] = []
        fx.node.map_arg((args, kwargs), found.append)
        assert callable(a.target)
        if not found:
            return a.target(*args, **kwargs)
        return self.graph.call_function(a.target, *self._nodes((args, kwargs)))

    def _merge(self, a: Any, b: Any) -> Any:
        """Arguments of the two recordings as one, with a size where they differ."""
        if isinstance(a, fx.Node):
            return self.values[a]
        if isinstance(a, tuple | list):
            parts = [self._merge(i, j) for i, j in zip(a, b, strict=True)]
            return tuple(parts) if isinstance(a, tuple) else parts
        if isinstance(a, dict):
            return {key: self._merge(a[key], b[key]) for key in a}
        if a == b:
            return a
        assert type(a) is int and type(b) is int, (a, b)
        n_1, n_2 = _RECORDED
        slope = (b - a) // (n_2 - n_1)
        scaled = self.graph.call_function(operator.mul, (self.batch, slope))
        return self.graph.call_function(operator.add, (scaled, a - slope * n_1))

    def _nodes(self, argument: Any) -> Any:
        """An argument with its constant tensors stored in the module."""
        if isinstance(argument, Tensor):
            name = self.stored.setdefault(id(argument), f"constant_{len(self.stored)}")
            if not hasattr(self.root, name):
                self.root.register_buffer(name, argument)
            return self.graph.get_attr(name)
        if isinstance(argument, tuple | list):
            return type(argument)(self._nodes(part) for part in argument)
        if isinstance(argument, dict):
            return {key: self._nodes(part) for key, part in argument.items()}
        return argument


# --- the two formats -----------------------------------------------------------------------------


def _to_torch(graph: fx.GraphModule, x: Tensor, variable: str) -> tuple[bytes, Map]:
    """The content of a .pt2 file, and what it computes."""
    file = io.BytesIO()
    with _quiet():
        torch.export.save(_program(graph, x), file)
        file.seek(0)
        return file.getvalue(), torch.export.load(file).module()


def _to_onnx(graph: fx.GraphModule, x: Tensor, variable: str) -> tuple[bytes, Map]:
    """The content of an .onnx file, and what onnxruntime computes with it."""
    script, runtime = _packages()
    ops = script.opset18

    def erf(x: Any) -> Any:
        # onnxruntime has it in single precision only.
        return ops.CastLike(ops.Erf(ops.Cast(x, to=1)), x)

    with _quiet():
        program = torch.onnx.export(
            _program(graph, x),
            input_names=[variable],
            output_names=["mean", "std"],
            dynamic_shapes=({0: "batch"},),
            custom_translation_table={torch.ops.aten.erf.default: erf},
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        # Says where in our sources each operation came from.
        del node.metadata_props[:]
    content: bytes = model.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(v) for v in session.run(None, {variable: x.numpy()}))

    return content, run


def _program(graph: fx.GraphModule, x: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    return torch.export.export(graph, (x[:3],), dynamic_shapes=({0: batch},), strict=False)


def _packages() -> tuple[Any, Any]:
    """The modules onnxscript and onnxruntime."""
    try:
        import_module("onnx")
        return import_module("onnxscript"), import_module("onnxruntime")
    except ImportError as error:
        raise InputError("format 'onnx' needs more packages: pip install 'pddlvm[export]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says about itself."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    try:
        # That torchvision, which is not needed, is missing.
        log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # torch copies graphs in a way that it has deprecated itself.
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    finally:
        log.setLevel(level)
