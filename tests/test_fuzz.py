"""Damaged and hostile files: a ValueError that says so, or a result; never a crash, hang or code.

A seeded mutator changes bytes, lines, numbers and saved parts. The fast tests take a few dozen
files of each kind, `pytest -m slow` thousands. None may take 10 s, or a GB of memory.
"""

import io
import random
import resource
import signal
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from typing import Any

import meshio
import numpy as np
import pytest
import torch
from watch import watched

import pddlvm
from pddlvm import fem
from pddlvm.basics.files import digest_of
from pddlvm.fem.mesh_reader import PROGRAM
from pddlvm.runs.config import RunConfig
from pddlvm.runs.folder import Run
from problems import pinn, poisson

MESHES = Path(__file__).parents[1] / "meshes"
SECONDS = 10
GB = 10**9 if sys.platform == "darwin" else 10**6
"""As the system counts the memory of processes."""
FEW, MANY = 12, 2000

Mutate = Callable[[bytes, random.Random], bytes]
COUNTS = pytest.mark.parametrize("n", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])

TOKENS = [
    b"nan", b"inf", b"-1", b"0", b"1e308", b"999999999999999999999", b"4294967296", b"\x00", b"",
    b"99999999", b'"', b"#", b"../../etc/passwd", b"__import__('os')", b"\xff\xfe", b"1,2,3",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    """Neither this process nor the children that read meshes grow by a GB."""
    before, of_children = _peak(resource.RUSAGE_SELF), _peak(resource.RUSAGE_CHILDREN)
    yield
    assert _peak(resource.RUSAGE_SELF) < before + GB
    # The largest child may be one of another test, and begins with the size of its parent.
    least = max(of_children, _peak(resource.RUSAGE_SELF))
    assert _peak(resource.RUSAGE_CHILDREN) < max(GB, least + 1)


@pytest.fixture(autouse=True)
def _watch(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No file outside of the test's folder is opened, no program started but the mesh reader.

    A run asks git about the checkout of the package.
    """
    folder = tmp_path_factory.mktemp("watch")
    log = folder / "log"
    with watched(tmp_path, log, (PROGRAM, str(MESHES.parent)), folder):
        yield
    assert not log.read_text()


def _peak(whose: int) -> int:
    return resource.getrusage(whose).ru_maxrss


@contextmanager
def limited() -> Iterator[None]:
    """Inside, a hang is an error."""

    def late(*_: object) -> None:
        raise TimeoutError(f"a file took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(read: Callable[[], object]) -> bool:
    """Was it read? Anything but a ValueError passes through, and fails the test."""
    with limited(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read()
        except TimeoutError:
            raise
        except ValueError as error:
            assert isinstance(error, pddlvm.InputError), repr(error)
            return False
    return True


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 3, 10])):
        if not changed:
            break
        i, j = sorted(chance.randrange(len(changed)) for _ in range(2))
        match chance.randrange(6):
            case 0:
                changed[i] ^= 1 << chance.randrange(8)
            case 1:
                changed[i] = chance.randrange(256)
            case 2:
                del changed[i : i + chance.randrange(1, 50)]
            case 3:
                changed[i:i] = changed[j : j + chance.randrange(1, 200)]
            case 4:
                changed[i : i + 8] = chance.randbytes(8)
            case _:
                changed = changed[:j] if chance.random() < 0.3 else changed
    return bytes(changed)


def mutated_text(data: bytes, chance: random.Random) -> bytes:
    """Words and lines of a text exchanged, dropped, repeated, swapped."""
    if chance.random() < 0.3:
        return mutated_bytes(data, chance)
    lines = data.split(b"\n")
    for _ in range(chance.choice([1, 1, 2, 5])):
        # Headers are short and matter most.
        i = chance.randrange(min(len(lines), 30) if chance.random() < 0.5 else len(lines))
        words = lines[i].split(b" ") if b"," not in lines[i] else lines[i].split(b",")
        glue = b"," if b"," in lines[i] else b" "
        match chance.randrange(6):
            case 0:
                words[chance.randrange(len(words))] = chance.choice(TOKENS)
                lines[i] = glue.join(words)
            case 1:
                del lines[i]
            case 2:
                lines.insert(i, lines[chance.randrange(len(lines))])
            case 3:
                lines[i] = lines[i] + glue + chance.choice(TOKENS)
            case 4:
                j = chance.randrange(len(lines))
                lines[i], lines[j] = lines[j], lines[i]
            case _:
                lines[i] = chance.choice(TOKENS)
        lines = lines or [b""]
    return b"\n".join(lines)


# --- run files -----------------------------------------------------------------------------------

JUNK: list[Any] = [
    None, -1, 0, 3, 10**12, 1.5, float("nan"), "", "float16", "Path", [], {}, {"a": 1}, [1, 2],
    True, torch.zeros(0), torch.ones(3), torch.full((2, 2), torch.nan), torch.ones(2, 2).long(),
]  # fmt: skip


def mutated_content(content: Any, chance: random.Random) -> Any:
    """A part anywhere in the tree replaced, dropped, reshaped."""
    if isinstance(content, dict) and content and chance.random() < 0.85:
        changed = dict(content)
        key = chance.choice(list(changed))
        if chance.random() < 0.1:
            del changed[key]
        else:
            changed[key] = mutated_content(changed[key], chance)
        return changed
    if isinstance(content, list | tuple) and content and chance.random() < 0.8:
        parts = list(content)
        i = chance.randrange(len(parts))
        parts[i] = mutated_content(parts[i], chance)
        return parts
    if isinstance(content, torch.Tensor) and content.numel() and chance.random() < 0.6:
        match chance.randrange(5):
            case 0:
                return content.flatten()[: chance.randrange(1, content.numel() + 1)]
            case 1:
                # Much larger than the file; this test itself writes its digest.
                return content.flatten()[:1].expand(10**7)
            case 2:
                return content * 1e30 if content.is_floating_point() else content + 10**9
            case 3:
                return content.to(torch.float16)
            case _:
                return content.T.contiguous() if content.ndim == 2 else content[None]
    if isinstance(content, int) and not isinstance(content, bool) and chance.random() < 0.5:
        return content * chance.choice([-1, 1000, 10**9]) + chance.choice([0, 1])
    return chance.choice(JUNK)


def rewritten(content: Any) -> bytes:
    """A file whose digest is right again, so that what it says is looked at."""
    file = io.BytesIO()
    if isinstance(content, dict):
        rest = {name: part for name, part in content.items() if name != "digest"}
        content = {**rest, "digest": digest_of(rest)}
    torch.save(content, file)
    return file.getvalue()


def mutated_run(original: bytes, content: dict[str, Any], chance: random.Random) -> bytes:
    kind = chance.randrange(3)
    if kind == 0:
        return mutated_bytes(original, chance)
    if kind == 1:
        return rewritten(mutated_content(content, chance))
    file = io.BytesIO()
    # The records of the archive, with checksums that are right again.
    with zipfile.ZipFile(io.BytesIO(original)) as old, zipfile.ZipFile(file, "w") as new:
        names = old.namelist()
        wrong = chance.choice([next(n for n in names if n.endswith("data.pkl")), *names])
        for name in names:
            data = old.read(name)
            new.writestr(name, mutated_bytes(data, chance) if name == wrong else data)
    return file.getvalue()


def trained(problem: Any, **options: Any) -> pddlvm.LatentVariableModel:
    model = pddlvm.LatentVariableModel(problem, **options)
    pddlvm.train(model, max_steps=2, calibrate=False, device="cpu")
    return model


@COUNTS
@pytest.mark.parametrize("kind", ["elements", pytest.param("strong form", marks=pytest.mark.slow)])
def test_run_files(kind: str, n: int, tmp_path: Path):
    if kind == "elements":
        model = trained(poisson.make_1d(6), basis=pddlvm.ResidualEnriched(n_modes=3))
    else:
        model = trained(pinn.make_burgers((8, 8)), n_functions=4)
        n = n // 4
    path = tmp_path / "run.pt"
    model.save(path)
    original, content = path.read_bytes(), torch.load(path, weights_only=True)
    chance = random.Random(0)
    n_read = 0
    for _ in range(n):
        path.write_bytes(mutated_run(original, content, chance))
        n_read += attempt(lambda: pddlvm.load(path, model.problem))
    # Most changes are noticed; padding and numbers such as a tolerance may be changed unnoticed.
    assert n_read < 0.8 * n


@COUNTS
def test_amortised_posteriors(n: int, tmp_path: Path):
    model = trained(poisson.make_1d(6), basis=pddlvm.ResidualEnriched(n_modes=3))
    observation = pddlvm.PointObservation(model.problem, [-0.5, 0.5], 0.01)
    path = tmp_path / "density.pt"
    model.amortize(observation, pddlvm.Full, max_seconds=0.1).save(path)
    original, content = path.read_bytes(), torch.load(path, weights_only=True)
    chance = random.Random(5)
    y = torch.zeros(1, 2, dtype=torch.float64)

    def use() -> None:
        model.load_amortized(path, observation)
        model.infer(y, observation, "amortized").sample((4,), seed=0)

    for _ in range(n // 4):
        path.write_bytes(mutated_run(original, content, chance))
        attempt(use)


@COUNTS
def test_checkpoints(n: int, tmp_path: Path):
    problem = poisson.make_1d(6)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=3))
    checkpoints = pddlvm.Checkpoints(tmp_path / "all", every=0, keep=1)
    options: dict[str, Any] = {"max_steps": 3, "device": "cpu", "calibrate": False}
    pddlvm.train(model, **options, checkpoints=checkpoints)
    (path,) = checkpoints.files
    content = torch.load(path, weights_only=True)
    chance = random.Random(1)
    for _ in range(n // 4):
        changed = {**content, "training": mutated_content(content["training"], chance)}
        path.write_bytes(rewritten(changed))
        attempt(lambda: pddlvm.train(model, **options, checkpoints=checkpoints, resume=True))


# --- meshes --------------------------------------------------------------------------------------


def small_meshes(folder: Path) -> list[Path]:
    """One or more of each format, with the data beside it."""
    square, hare = fem.unit_square(2), fem.hare()
    corner = hare.t[:, (hare.p[1] < 0.3)[hare.t].all(axis=0)]
    flat = np.pad(square.p.T, ((0, 0), (0, 1)))
    plane = meshio.Mesh(flat, [("triangle", square.t.T)])
    surface = meshio.Mesh(hare.p.T, [("triangle", corner.T)])
    for name in ("a.vtu", "a.vtk", "a.msh", "a.xml", "a.mesh", "a.inp", "a.xdmf"):
        plane.write(folder / name)
    for name in ("b.stl", "b.ply", "b.off", "b.obj", "b.vtu"):
        surface.write(folder / name)
    plane.write(folder / "c.msh", file_format="gmsh", binary=False)
    plane.write(folder / "d.msh", file_format="ansys", binary=False)
    plane.write(folder / "c.vtu", binary=False)
    plane.write(folder / "c.xdmf", data_format="Binary")
    plane.write(folder / "d.xdmf", data_format="XML")
    copyfile(MESHES / "plate.msh", folder / "e.msh")
    return sorted(folder.iterdir())


@COUNTS
def test_meshes(n: int, tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = small_meshes(tmp_path)
    chance = random.Random(2)
    for i in range(n // 2):
        path = files[i % len(files)]
        original = path.read_bytes()
        path.write_bytes(mutated_text(original, chance))
        # Data beside a mesh are read with it.
        mesh = path if path.suffix not in (".h5", ".bin") else tmp_path / f"{path.stem[0]}.xdmf"
        read = chance.choice([fem.read_mesh, fem.read_surface])
        attempt(lambda mesh=mesh, read=read: read(mesh))
        path.write_bytes(original)


# --- run folders ---------------------------------------------------------------------------------


@COUNTS
def test_run_folders(n: int, tmp_path: Path):
    path = tmp_path / "run"
    config = RunConfig(problem="poisson-1d", settings={"n": 6}, max_steps=3)
    run = Run.create(path, config)
    run.start([])
    run.add_metrics({"step": 0, "seconds": 0.1, "elbo": -3.0, "stage": 0})
    originals = {file: file.read_bytes() for file in path.iterdir() if file.is_file()}
    chance = random.Random(4)

    def use() -> None:
        opened = Run.open(path)
        _ = opened.info, opened.metrics, opened.checkpoints.newest()

    for _ in range(n // 4):
        file = chance.choice(list(originals))
        file.write_bytes(mutated_text(originals[file], chance))
        attempt(use)
        file.write_bytes(originals[file])
