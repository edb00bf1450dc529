"""Both maps of a trained model as files for other programs: ONNX or `torch.export`.

    forward    z (batch, d)       -> mean and std of u, (batch, n_dofs) each
    inverse    u (batch, n_dofs)  -> mean and std of z, (batch, d) each; nothing known, uncorrected

See `pddlvm.results.tracing` for how the maps become graphs.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pddlvm.basics.checks import check_kind, check_path
from pddlvm.basics.errors import InputError
from pddlvm.basics.files import replacing
from pddlvm.latent.core import LatentModel
from pddlvm.latent.error_shape import ErrorShape
from pddlvm.latent.inverse import Inverse
from pddlvm.results.tracing import RECORDED, Map, record

__all__ = ["Exported", "Format", "export_maps"]

Format = Literal["onnx", "torch"]
Outputs = tuple[Tensor, ...]

_N_CHECKS = 7
"""Prior draws; more than were recorded, so that a batch of fixed size is noticed."""
_SEED = 20
_LIMIT, _LARGEST_LIMIT = 1e-4, 1e-2
_ROUNDINGS = 4
_SUFFIXES: dict[Format, str] = {"onnx": "onnx", "torch": "pt2"}


@dataclass(frozen=True)
class Exported:
    """Files of both maps, and how far they are from the model.

    Attributes:
        files: of the forward map, then of the inverse map.
        difference: between what the files and the model give on fresh prior draws, relative to the
            largest absolute value of each output; the largest of all.
    """

    files: tuple[Path, ...]
    difference: float


def export_maps(model: LatentModel, folder: Path, format: Format) -> Exported:
    """Write both maps to files, forward and inverse, and check what the files give.

    Their inputs z and u and outputs mean and std are float32, of any number of samples. They give
    what `model.forward(z)` gives and `model.inverse(u, corrections=0)` (without a mesh,
    `model.inverse(u)`), to rounding. They do not check their input: z outside of the prior, or a u
    that is no solution, gives numbers without meaning.

    `torch.export.load` unpickles parts of a .pt2 file, and so may execute whatever somebody put
    there: load it from sources that you trust only. An ONNX file holds operations and numbers.

    Args:
        model: the model.
        folder: where; it exists.
        format: "onnx" (.onnx, needs the extra `export`), or "torch" (.pt2, for torch.export.load).

    Raises:
        InputError: no such format or folder, a model of trajectories, a prior by quantiles of SciPy
            (`Distribution`), a network that draws random numbers, missing packages, operations that
            the format does not have, or a file that differs from the model by more than 1e-4, or
            than four times the model's own rounding where that is more (and by more than 1e-2 in
            any case). No file is written then.
    """
    check_kind(LatentModel, model=model)
    folder = check_path(folder)
    if not isinstance(format, str) or format not in _SUFFIXES:
        raise InputError(f"format must be one of {', '.join(_SUFFIXES)}, got {format!r}")
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(folder)!r}; create it first")
    for name, block in model.problem.prior.blocks.items():
        if not block.prior.is_torch:
            raise InputError(
                f"the prior of {name!r}, {block.prior!r}, has quantiles by SciPy, which exported "
                "maps cannot hold; Normal, LogNormal, Uniform and correlated normals they can"
            )
    if format == "onnx":
        _packages()
    device = model.sigma_residual.device
    contents: dict[Path, bytes] = {}
    differences = []
    try:
        # The files then ask for no device.
        model.to("cpu")
        for task in _tasks(model):
            _refuse_noise(task)
            content, found = _compiled(task, format)
            difference, limit = _check(task, found)
            if not difference <= limit:
                raise InputError(
                    f"the {format} file of the {task.name} map would differ from the model by "
                    f"{difference:.1e} of its largest value; {limit:.1e} is allowed"
                )
            contents[folder / f"{task.name}.{_SUFFIXES[format]}"] = content
            differences.append(difference)
    finally:
        model.to(device)
    for path, content in contents.items():
        with replacing(path) as file:
            file.write(content)
    return Exported(tuple(contents), max(differences))


@dataclass(frozen=True)
class _Task:
    """One map to write.

    Attributes:
        name: of the map.
        variable: name of its input.
        function: the map, without the checks of its input, which look at values.
        reference: the same as the model gives it.
        x: inputs to compare at.
        rounded: the same, but for the last bit.
    """

    name: str
    variable: str
    function: Map
    reference: Map
    x: Tensor
    rounded: Tensor


def _tasks(model: LatentModel) -> Iterator[_Task]:
    """The forward map, then the inverse map."""

    def own_forward(z: Tensor) -> Outputs:
        found = model.forward(z)
        return found.mean, found.std

    def own_inverse(u: Tensor) -> Outputs:
        found = model.inverse(u, **model.uncorrected)
        return found.mean, found.std

    generator = torch.Generator().manual_seed(_SEED)
    z = model.problem.prior.sample((_N_CHECKS,), generator=generator).float()
    # At the end of its support z must stay as it is.
    # A function: tracers count the arguments of a method wrongly.
    yield _Task("forward", "z", lambda z: model.mean_and_std(z), own_forward, z, z)
    u, _ = own_forward(z)
    signs = 2 * torch.randint(0, 2, u.shape, generator=generator) - 1
    rounded = u * (1 + torch.finfo(u.dtype).eps * signs)
    yield _Task("inverse", "u", _inverse(model), own_inverse, u, rounded)


def _inverse(model: LatentModel) -> Map:
    """u -> mean and std of z, see `pddlvm.latent.inverse.Inverse`."""
    nothing = model.sigma_residual.new_zeros(model.problem.n_parameters)
    (values,) = model.uncertainty.inverse_shape(nothing[None], 0).values
    shape = ErrorShape(values)

    def inverse(u: Tensor) -> Outputs:
        known = nothing.expand(len(u), -1)
        mean, std = model.invert(u.to(model.sigma_residual.device), known, known)
        inferred = Inverse(mean.to(u), std.to(u), model.problem.prior, shape)
        return inferred.mean, inferred.std

    return inverse


# --- their files ----------------------------------------------------------------------------------


def _compiled(task: _Task, format: Format) -> tuple[bytes, Outputs]:
    """The content of the file of a map, and what it gives for x."""
    x = task.x
    try:
        graph = record(task.function, x)
        batch = torch.export.Dim("batch")
        with _quiet():
            program = torch.export.export(
                graph, (x[: RECORDED[0]],), dynamic_shapes=({0: batch},), strict=False
            )
            return _onnx(program, task.variable, x) if format == "onnx" else _pt2(program, x)
    except InputError:
        # The model has said what it cannot do.
        raise
    except Exception as error:
        # What a tracer, or a runtime, does not know fails in many ways inside of them.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = f"{type(cause).__name__}: {cause}".splitlines()[0]
        raise InputError(
            f"the {task.name} map cannot be written as {format} ({said}); physics or networks "
            "of your own may have operations that the format lacks, or read values of their input"
        ) from error


def _pt2(program: torch.export.ExportedProgram, x: Tensor) -> tuple[bytes, Outputs]:
    file = io.BytesIO()
    torch.export.save(program, file)
    loaded = torch.export.load(io.BytesIO(file.getvalue()))
    return file.getvalue(), loaded.module()(x)


def _onnx(program: torch.export.ExportedProgram, variable: str, x: Tensor) -> tuple[bytes, Outputs]:
    onnxruntime = _packages()
    exported = torch.onnx.export(
        program, input_names=[variable], dynamic_shapes=({0: "batch"},), verbose=False
    )
    assert exported is not None
    graph = exported.model.graph
    for i, node in enumerate(graph):
        # What it comes from: traces of our sources, and names that those of the outputs may meet.
        node.metadata_props.clear()
        for j, value in enumerate(node.outputs):
            value.name = f"v{i}_{j}"
    for value, name in zip(graph.outputs, ("mean", "std"), strict=True):
        value.name = name
    content: bytes = exported.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, tuple(torch.from_numpy(v) for v in session.run(None, {variable: x.numpy()}))


def _refuse_noise(task: _Task) -> None:
    """No file gives what a network gives that draws random numbers."""
    noise = _difference(task.reference(task.x), task.reference(task.x))
    if noise > _LIMIT:
        raise InputError(
            f"the {task.name} map gives something else each time, by {noise:.1e} of its largest "
            "value: a network that draws random numbers cannot be written; call model.eval()"
        )


def _check(task: _Task, found: Outputs) -> tuple[float, float]:
    """Difference of what a file gives for x from what the model gives, and how large it may be.

    A map with much cancellation shows rounding: its own outputs change when it reads one sample at
    a time, or another last bit.
    """
    expected = task.reference(task.x)
    alone = zip(*(task.reference(sample) for sample in task.rounded.split(1)), strict=True)
    rounding = _difference(tuple(torch.cat(parts) for parts in alone), expected)
    limit = min(max(_LIMIT, _ROUNDINGS * rounding), _LARGEST_LIMIT)
    return _difference(found, expected), limit


def _difference(found: Outputs, expected: Outputs) -> float:
    """Largest |found - expected| relative to max |expected|, over the outputs; NaN if any is."""
    tiny = torch.finfo(torch.float32).tiny
    pairs = zip(found, expected, strict=True)
    return float(
        torch.stack([(f - e).abs().max() / e.abs().max().clamp(min=tiny) for f, e in pairs]).max()
    )


def _packages() -> Any:
    """The module onnxruntime; torch itself imports the others."""
    try:
        _, _, onnxruntime = (import_module(n) for n in ("onnx", "onnxscript", "onnxruntime"))
        return onnxruntime
    except ImportError as error:
        raise InputError(
            f"format 'onnx' needs packages that are missing ({error.name}): "
            "pip install 'pddlvm[export]'"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says about itself while it exports."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    try:
        # Once for each operation of torchvision, which nothing here needs.
        registration.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # torch copies its own trees in a way that it calls deprecated.
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    finally:
        registration.setLevel(level)
