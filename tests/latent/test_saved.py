"""A saved model comes back bit for bit; anything else is refused, nothing is executed or lost."""

import gc
import pickle
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import pddlvm
from pddlvm import fem
from pddlvm.basics.files import read_content, write_content
from pddlvm.latent.saved import content_of, differences
from problems import pinn, poisson
from problems.poisson import diffusion, load

BASIS = pddlvm.ResidualEnriched(n_modes=8)


@pytest.fixture(scope="module")
def model() -> pddlvm.LatentVariableModel:
    """A model of a small problem after a few steps, calibrated."""
    torch.manual_seed(0)
    trained = pddlvm.LatentVariableModel(poisson.make(8, n_terms=3), basis=BASIS)
    pddlvm.train(trained, max_steps=20, calibrate=False)
    trained.calibrate(64)
    return trained


@pytest.fixture
def saved(model: pddlvm.LatentVariableModel, tmp_path: Path) -> Path:
    """Its file."""
    model.save(tmp_path / "run.pt")
    return tmp_path / "run.pt"


def predictions(model: pddlvm.LatentVariableModel, z: torch.Tensor) -> list[torch.Tensor]:
    plain, corrected = model.forward(z), model.forward(z, corrections=1)
    inverse = model.inverse(corrected.mean)
    return [plain.mean, plain.std, corrected.mean, corrected.std, inverse.mean, inverse.std]


def test_predictions_are_bit_equal(model, saved):
    z = model.problem.prior.sample((3,), seed=0)
    loaded = pddlvm.load(saved, poisson.make(8, n_terms=3))
    for before, after in zip(predictions(model, z), predictions(loaded, z), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    "other",
    [
        lambda: poisson.make(9, n_terms=3),
        lambda: poisson.make(8, n_terms=4),
        lambda: poisson.make(8, n_terms=3, source=5.0),
        lambda: poisson.make(8, n_terms=3, length=0.6),
        poisson.make_1d,
    ],
    ids=["mesh", "parameters", "physics", "field", "dimension"],
)
def test_a_run_of_another_problem_is_refused(saved, other):
    with pytest.raises(pddlvm.RunFileError, match="another problem"):
        pddlvm.load(saved, other())


@pytest.mark.parametrize("kind", ["elements", "strong form"])
def test_a_loaded_model_ends_with_its_last_reference(kind, saved, tmp_path):
    """Else those who load many wait for the garbage collector with their memory."""
    problem = poisson.make(8, n_terms=3)
    if kind == "strong form":
        problem, saved = pinn.make_burgers((8, 8)), tmp_path / "strong.pt"
        pddlvm.LatentVariableModel(problem, n_functions=4).save(saved)
    loaded = pddlvm.load(saved, problem)
    reference = weakref.ref(loaded)
    gc.disable()
    try:
        del loaded
        assert reference() is None
    finally:
        gc.enable()


def test_files_that_are_not_models_are_refused(saved, model, tmp_path):
    broken = tmp_path / "broken.pt"
    for content in (b"", b"not a model", saved.read_bytes()[:1000], saved.read_bytes()[100:]):
        broken.write_bytes(content)
        with pytest.raises(pddlvm.RunFileError, match="not a model"):
            pddlvm.load(broken, model.problem)
    torch.save({"format": "other"}, broken)
    with pytest.raises(pddlvm.RunFileError, match="not a model"):
        pddlvm.load(broken, model.problem)
    with pytest.raises(pddlvm.RunFileError, match="no file"):
        pddlvm.load(tmp_path / "missing.pt", model.problem)


PARTS = (
    "fingerprint probe problem objective seed dtype covariance tolerance networks fields v terms "
    "xi c energy exact state"
).split()


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_refused(saved, model, tmp_path, part):
    content = torch.load(saved, weights_only=True)
    del content[part]
    torch.save(content, tmp_path / "part.pt")
    with pytest.raises(pddlvm.RunFileError, match="damaged"):
        pddlvm.load(tmp_path / "part.pt", model.problem)


@pytest.mark.parametrize("part", [part for part in PARTS if part != "problem"])
@pytest.mark.parametrize("wrong", ["nonsense", torch.ones(2, 2), {"a": 1}])
def test_a_nonsensical_part_is_refused(saved, model, tmp_path, part, wrong):
    content = torch.load(saved, weights_only=True)
    content[part] = wrong
    torch.save(content, tmp_path / "part.pt")
    with pytest.raises(pddlvm.RunFileError, match=r"damaged|another problem"):
        pddlvm.load(tmp_path / "part.pt", model.problem)


def test_values_that_are_not_finite_are_refused(saved, model, tmp_path):
    content = torch.load(saved, weights_only=True)
    content["state"]["uncertainty.factor_u"].fill_(torch.nan)
    torch.save(content, tmp_path / "nan.pt")
    with pytest.raises(pddlvm.RunFileError, match="not finite"):
        pddlvm.load(tmp_path / "nan.pt", model.problem)


def tensors(content, path=()):
    """Paths of all tensors of a content."""
    if isinstance(content, torch.Tensor):
        return [path] if content.numel() else []
    if not isinstance(content, dict | list | tuple):
        return []
    parts = content.items() if isinstance(content, dict) else enumerate(content)
    return [found for key, part in parts for found in tensors(part, (*path, key))]


def mutated(content, path, change):
    """The content with another last entry in one tensor."""
    if not path:
        values = content.clone(memory_format=torch.contiguous_format)
        flat = values.view(-1)
        flat[-1] = ~flat[-1] if flat.dtype == torch.bool else change(flat[-1])
        return values
    key, *rest = path
    found = list(content) if isinstance(content, list | tuple) else dict(content)
    found[key] = mutated(content[key], rest, change)
    return type(content)(found) if isinstance(content, tuple) else found


def test_one_other_number_in_any_tensor_is_refused(saved, model, tmp_path):
    content = torch.load(saved, weights_only=True)
    paths = tensors(content)
    assert len(paths) > 50
    for path in paths:
        torch.save(mutated(content, path, lambda v: v + 1), tmp_path / "other.pt")
        with pytest.raises(pddlvm.RunFileError, match="damaged"):
            pddlvm.load(tmp_path / "other.pt", model.problem)


# The following are written with a digest of their own: what they say is looked at too.

CHANGES = {
    "weights": (("state", "forward_map.network.body.0.weight"), lambda v: v + 1e30),
    "one weight": (("state", "inverse_map.network.head.bias"), lambda v: v + 1),
    "size": (("state", "forward_map.amplitude.coefficients"), lambda v: v + 1),
    "energy": (("energy",), lambda v: v * torch.nan),
    "exact": (("exact", "0.weights"), lambda v: v * torch.nan),
    "cells that are none": (("terms", 0, "cells"), lambda v: -v - 1),
    "cells beyond": (("terms", 0, "cells"), lambda v: v + 10**6),
    "cubature": (("terms", 0, "weights"), lambda v: -v),
    "points": (("terms", 1, "load"), lambda v: v + 10**9),
    "basis": (("v",), lambda v: v + 1),
}


@pytest.mark.parametrize(("path", "change"), CHANGES.values(), ids=CHANGES.keys())
def test_what_cannot_be_is_refused(saved, model, tmp_path, path, change):
    content = mutated(read_content(saved), path, change)
    write_content(content, tmp_path / "other.pt")
    with pytest.raises(pddlvm.RunFileError, match="damaged"):
        pddlvm.load(tmp_path / "other.pt", model.problem)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("xi", torch.zeros(3, 2)),
        ("c", lambda c: torch.zeros(c.shape)),
        ("dtype", "float16"),
        ("cubature_error", -1.0),
        ("seed", "zero"),
    ],
)
def test_another_shape_or_type_is_refused(saved, model, tmp_path, name, value):
    content = read_content(saved)
    changed = value(content[name]) if callable(value) else value
    write_content({**content, name: changed}, tmp_path / "other.pt")
    with pytest.raises(pddlvm.RunFileError, match="damaged"):
        pddlvm.load(tmp_path / "other.pt", model.problem)


def test_a_small_load_beside_a_large_stiffness_is_a_difference():
    space = fem.Space(fem.interval(4))

    def model_of(load):
        def stiff(u, du, x, k):
            return 1e11 * k * (du * du).sum() - load * u

        terms = [pddlvm.Energy(space.interior(), stiff)]
        fields = {"k": pddlvm.Constant(pddlvm.LogNormal())}
        problem = pddlvm.Problem("rod", space, terms, fields, [pddlvm.Dirichlet("left")])
        return pddlvm.LatentVariableModel(problem, basis=pddlvm.Nodal())

    content = content_of(model_of(1.0))
    assert not differences(content, model_of(1.0))
    assert "the problem" in differences(content, model_of(1.01))


def test_a_file_of_an_older_version_is_called_so(saved, model, tmp_path):
    content = torch.load(saved, weights_only=True)
    torch.save({**content, "format": "pddlvm-model-2"}, tmp_path / "older.pt")
    with pytest.raises(pddlvm.RunFileError, match="another version"):
        pddlvm.load(tmp_path / "older.pt", model.problem)


def test_changed_bytes_are_refused_or_harmless(saved, model, tmp_path):
    original = saved.read_bytes()
    generator = torch.Generator().manual_seed(0)
    z = model.problem.prior.sample((2,), seed=0)
    for _ in range(40):
        content = bytearray(original)
        for place in torch.randint(len(content), (3,), generator=generator).tolist():
            content[place] ^= 0xFF
        (tmp_path / "fuzz.pt").write_bytes(content)
        try:
            loaded = pddlvm.load(tmp_path / "fuzz.pt", model.problem)
        except pddlvm.RunFileError:
            continue
        # Padding between the records of the archive means nothing.
        assert torch.equal(loaded.forward(z).mean, model.forward(z).mean)


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("write", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_code_in_a_file_is_not_executed(model, tmp_path, write):
    trap = tmp_path / "executed"
    write(_Malicious(trap), tmp_path / "evil.pt")
    with pytest.raises(pddlvm.RunFileError):
        pddlvm.load(tmp_path / "evil.pt", model.problem)
    assert not trap.exists()


def test_a_missing_folder_is_named(model, tmp_path):
    with pytest.raises(pddlvm.RunFileError, match="nowhere"):
        model.save(tmp_path / "nowhere" / "run.pt")


def test_a_failing_save_leaves_the_old_file(model, saved, monkeypatch):
    before = saved.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(pddlvm.RunFileError, match="no space"):
        model.save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_fields_travel_with_the_model(model, saved):
    # Another machine may find eigenvectors of the opposite sign.
    problem = poisson.make(8, n_terms=3)
    field = problem.fields["kappa"]
    flipped = problem.with_states({"kappa": {"inducing": field.inducing, "modes": -field.modes}})
    with pytest.warns(UserWarning, match="differ from the saved"):
        loaded = pddlvm.load(saved, flipped)
    z = problem.prior.sample((3,), seed=0)
    assert torch.equal(loaded.problem.parameter_field(z), model.problem.parameter_field(z))
    assert torch.equal(loaded.forward(z).mean, model.forward(z).mean)


def test_own_networks_must_be_passed_again(tmp_path):
    problem = poisson.make_1d()

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 2)
            self.dropout = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean, log_variance = self.dropout(self.layer(x)).chunk(2, dim=-1)
            return mean, log_variance

    model = pddlvm.LatentVariableModel(problem, forward_network=Own())
    model.save(tmp_path / "own.pt")
    with pytest.raises(pddlvm.RunFileError, match="pass forward_network"):
        pddlvm.load(tmp_path / "own.pt", problem)
    loaded = pddlvm.load(tmp_path / "own.pt", problem, forward_network=Own())
    z = problem.prior.sample((2,), seed=0)
    # Dropout is random until one evaluates.
    model.eval(), loaded.eval()
    assert torch.equal(loaded.forward(z).mean, model.forward(z).mean)


def line() -> pddlvm.Problem:
    """Two blocks, boundary values that follow z, every term affine."""
    space = fem.Space(fem.interval(6))
    cells = space.interior()
    return pddlvm.Problem(
        "line",
        space,
        [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, load)],
        {
            "kappa": pddlvm.Piecewise.on_blocks(space, (2,), prior=pddlvm.LogNormal(0.0, 0.5)),
            "f": pddlvm.Constant(pddlvm.Normal(1.0, 0.2)),
            "g": pddlvm.Constant(pddlvm.Uniform(0.5, 1.0)),
        },
        [pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right", lambda x, g: g)],
    )


@pytest.mark.parametrize(
    "options",
    [
        {"covariance": pddlvm.EnergyNorm(0.2), "objective": "coupled"},
        {"covariance": pddlvm.Whitened(0.01), "basis": pddlvm.EnergyModes(3)},
        {"covariance": pddlvm.Isotropic(0.1), "dtype": torch.float64, "seed": 3},
    ],
    ids=["coupled", "whitened", "isotropic"],
)
def test_options_travel_with_the_model(options, tmp_path):
    before = pddlvm.LatentVariableModel(line(), **{"basis": pddlvm.Nodal(), **options})
    before.save(tmp_path / "run.pt")
    after = pddlvm.load(tmp_path / "run.pt", line())
    assert repr(after) == repr(before)
    assert (after.seed, after.sigma_residual.dtype) == (before.seed, before.sigma_residual.dtype)
    z = before.problem.prior.sample((3,), seed=0)
    for one, two in zip(predictions(before, z), predictions(after, z), strict=True):
        assert torch.equal(one, two)


def loaded_line(tmp_path: Path) -> pddlvm.LatentVariableModel:
    pddlvm.LatentVariableModel(line(), basis=pddlvm.Nodal()).save(tmp_path / "run.pt")
    return pddlvm.load(tmp_path / "run.pt", line())


def test_a_loaded_affine_model_refines(tmp_path):
    model = loaded_line(tmp_path)
    z = model.problem.prior.sample((3,), seed=0)
    found = model.refine(z, u=torch.zeros(3, model.problem.n_dofs, dtype=torch.float64)).u
    # The acceptance of the package: 1e-8 relative.
    torch.testing.assert_close(found, model.problem.solve(z), rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_a_loaded_affine_model_can_be_calibrated(tmp_path):
    model = loaded_line(tmp_path)
    model.calibrate(32)
    assert torch.isfinite(model.forward(model.problem.prior.sample(seed=0)).std).all()


def test_a_loaded_model_trains_on_as_the_saved_one(tmp_path):
    before, after = pddlvm.LatentVariableModel(line(), basis=pddlvm.Nodal()), loaded_line(tmp_path)
    for model in (before, after):
        pddlvm.train(model, max_steps=3, calibrate=False)
    z = before.problem.prior.sample((3,), seed=0)
    assert torch.equal(before.forward(z).mean, after.forward(z).mean)


def test_a_folder_is_no_place_for_a_file(model, tmp_path):
    (tmp_path / "run.pt").mkdir()
    with pytest.raises(pddlvm.RunFileError):
        model.save(tmp_path / "run.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.slow
def test_a_loaded_model_infers_with_sensors_of_the_problem_made_anew(tmp_path: Path):
    """z is that of the model: also under the finite element likelihood."""
    problem = poisson.make(6, n_terms=4)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.EnergyModes(12))
    state = problem.random_fields["kappa"].state
    # The eigenvalues of modes 1 and 2 are equal: either order is right.
    other = problem.with_states({"kappa": {**state, "modes": state["modes"][:, [0, 2, 1, 3]]}})
    points = [[0.2, 0.3], [0.6, 0.7], [0.8, 0.3], [0.4, 0.9], [0.5, 0.5]]
    here, there = (pddlvm.PointObservation(p, points, 0.01) for p in (problem, other))
    y = here.simulate(problem.solve(problem.prior.sample(seed=3)), seed=4)
    for method in ("laplace", "exact"):
        expected, found = (model.infer(y, o, method, n_samples=40).check() for o in (here, there))
        torch.testing.assert_close(found.mean, expected.mean)
        torch.testing.assert_close(found.diagnostics.khat, expected.diagnostics.khat)
