"""Imports go one way (CONTRIBUTING.md): read from the source with `ast`, nothing is executed."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pddlvm
from pddlvm import fem, linalg, links
from pddlvm.latent.core import LatentModel
from pddlvm.parameters.problem import ParametricProblem

ROOT = Path(__file__).resolve().parents[1]
ENGINE = sorted((ROOT / "pddlvm").rglob("*.py"))
PROBLEMS = sorted((ROOT / "problems").rglob("*.py"))
MODULES = {"fem": fem, "linalg": linalg, "links": links}

ORDER = (
    *("basics", "fem", "linalg", "parameters", "weak", "transient", "strong", "sensors"),
    *("latent", "reduced", "galerkin", "trajectory", "collocation"),
    *("training", "sampling", "inference", "amortized", "decisions", "results"),
    *("models", "validation", "plot", "runs", "umbridge", "explorer", "cli", "__main__"),
)
"""Packages, and the modules `models` and `__main__`, from the ground up.

Each imports from itself and those before it, anywhere in a file.
"""

ASIDE = {"dependencies", "links", "supports"}
"""Modules beside them: what importing must not change, and functions of numbers or of a mesh."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all modules that are imported anywhere in a file; relative ones as `.x`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


@cache
def packages(path: Path) -> set[str]:
    """First parts of the dotted names that a file imports."""
    return {name.split(".")[0] for name in imports(parsed(path))}


def importing(*names: str) -> set[Path]:
    """Files of the package that import one of these."""
    return {path for path in ENGINE if packages(path) & set(names)}


def test_only_fem_imports_scikit_fem():
    assert {path.parent.name for path in importing("skfem")} == {"fem"}


def test_only_latent_imports_pyro():
    assert {path.parent.name for path in importing("pyro")} == {"latent"}


def test_only_plot_imports_matplotlib():
    drawing = importing("matplotlib", "mpl_toolkits") - {ROOT / "pddlvm" / "runs" / "figures.py"}
    assert {path.parent.name for path in drawing} == {"plot"}


def own_imports(path: Path) -> set[str]:
    """Packages and modules below pddlvm that a file imports: the first part of their names."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "pddlvm":
            found |= {f"pddlvm.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name.split(".")[1] for name in found if name.startswith("pddlvm.")}


def test_every_module_has_its_place_in_the_order():
    places = {module_of(path).partition(".")[2].partition(".")[0] for path in ENGINE}
    assert places - {""} == {*ORDER, *ASIDE}


@pytest.mark.parametrize("package", ORDER)
def test_packages_import_only_what_is_below_them(package):
    paths = [path for path in ENGINE if module_of(path).split(".")[1:2] == [package]]
    assert paths
    # Functions of numbers, public where they lie.
    below = {"links", *ORDER[: ORDER.index(package) + 1]}
    up = {name_of(path): own_imports(path) - below for path in paths}
    assert {name: found for name, found in up.items() if found} == {}


@pytest.mark.parametrize("package", ORDER)
def test_no_file_of_a_package_is_in_a_circle(package):
    root = ROOT / "pddlvm" / package
    paths = {f"pddlvm.{package}.{path.stem}": path for path in root.glob("*.py")}
    graph = {}
    for name, path in paths.items():
        if path.stem != "__init__":
            nodes = (n for n in ast.walk(parsed(path)) if isinstance(n, ast.ImportFrom))
            found = {f"{n.module}.{a.name}" for n in nodes for a in n.names}
            found |= {name.rpartition(".")[0] for name in found}
            graph[name] = found & set(paths) - {name}
    # Raises CycleError with the circle.
    assert set(TopologicalSorter(graph).static_order()) >= set(graph)


def test_folders_of_tests_are_those_of_the_packages():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= {*ORDER, "ready_problems"}


def test_the_engine_does_not_import_problems():
    assert importing("problems", "examples", "benchmarks", "tests") == set()


def test_imports_are_absolute_and_without_star():
    for path in (*ENGINE, *PROBLEMS):
        nodes = ast.walk(parsed(path))
        lines = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not any(node.level or node.names[0].name == "*" for node in lines), path


@pytest.mark.parametrize("module", [pddlvm, fem, linalg, links], ids=lambda m: m.__name__)
def test_every_public_name_exists(module):
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert missing == []


def test_public_names_are_unique():
    """Their order is a matter of ruff."""
    assert len(pddlvm.__all__) == len(set(pddlvm.__all__))


def private_uses(tree: ast.AST) -> set[str]:
    """Names of pddlvm that a file uses and that are not public."""
    found, aliases = set(), {"pddlvm": pddlvm}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".", 1) for alias in node.names]
            inner = [n[1] for n in names if n[0] == "pddlvm" and len(n) == 2]
            found |= {f"pddlvm.{name}" for name in inner if name not in MODULES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pddlvm":
            rest = node.module.partition(".")[2]
            home = MODULES.get(rest) if rest else pddlvm
            for alias in node.names:
                if home is None or alias.name not in home.__all__:
                    found.add(f"{node.module}.{alias.name}")
                elif home is pddlvm and alias.name in MODULES:
                    aliases[alias.asname or alias.name] = MODULES[alias.name]

    def module(node: ast.expr) -> object:
        """pddlvm, fem, linalg or links, where an expression is one of them."""
        if isinstance(node, ast.Name):
            return aliases.get(node.id)
        inside = isinstance(node, ast.Attribute) and module(node.value) is pddlvm
        return MODULES.get(node.attr) if inside else None

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            home = module(node.value)
            if home is not None and node.attr not in home.__all__:
                found.add(f"{home.__name__}.{node.attr}")
    return found


def test_problems_use_public_names_only():
    used = {name_of(path): private_uses(parsed(path)) for path in PROBLEMS}
    assert {name: found for name, found in used.items() if found} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from pddlvm.weak.newton import factorise",
        "from pddlvm import solver",
        "import pddlvm.weak.newton",
        "import pddlvm; pddlvm.weak.newton.factorise",
        "from pddlvm import fem; fem.skfem",
        "import pddlvm; pddlvm.fem.skfem",
    ],
)
def test_the_check_of_public_names_sees_a_private_one(line):
    assert private_uses(ast.parse(line))


def module_level(path: Path) -> set[str]:
    """Modules of pddlvm that a file needs when it is imported: not those in functions."""
    body = [node for node in parsed(path).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    found = set()
    for node in body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pddlvm":
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name for name in [node.module, *inner] if file_of(name)}
    return found - {"pddlvm"}


def file_of(module: str) -> Path | None:
    stem = ROOT / Path(*module.split("."))
    for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_import_cycles():
    graph = {module_of(path): module_level(path) for path in ENGINE}
    # Raises CycleError, whose message shows the cycle.
    assert "pddlvm.models" in TopologicalSorter(graph).static_order()


def test_fem_is_the_first_link_of_the_chain():
    below = {"pddlvm.basics.checks", "pddlvm.basics.errors"}
    for path in (ROOT / "pddlvm" / "fem").glob("*.py"):
        used = {name for name in imports(parsed(path)) if name.startswith("pddlvm")}
        assert all(name.startswith("pddlvm.fem") or name in below for name in used), path


def of_kind(base: type) -> set[str]:
    """Names of the classes of the package that derive from a class."""
    found, rest = set(), [base]
    while rest:
        kind = rest.pop()
        rest += kind.__subclasses__()
        if kind.__module__.startswith("pddlvm"):
            found.add(kind.__name__)
    return found


KINDS = {
    **dict.fromkeys(of_kind(ParametricProblem), ("parameters", "weak", "transient", "strong")),
    **dict.fromkeys(of_kind(LatentModel), ("latent", "galerkin", "collocation", "models")),
}
"""Classes of problems and models, and where an `isinstance` may ask for one."""


def asked_kinds(tree: ast.AST) -> set[str]:
    """Problems and models that a file asks for by `isinstance` or `issubclass`."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    named = (c for c in calls if isinstance(c.func, ast.Name) and len(c.args) == 2)
    tests = (c for c in named if c.func.id in ("isinstance", "issubclass"))
    parts = (node for c in tests for node in ast.walk(c.args[1]))
    names = {getattr(node, "id", getattr(node, "attr", "")) for node in parts}
    return names & set(KINDS)


def test_nobody_asks_which_kind_of_problem_or_model_it_is():
    for path in (*ENGINE, *PROBLEMS):
        package = path.relative_to(ROOT).parts[1].removesuffix(".py")
        assert all(package in KINDS[name] for name in asked_kinds(parsed(path))), path


@pytest.mark.parametrize("kind", ["Problem", "pddlvm.Problem | int", "(CollocationModel, str)"])
def test_the_check_of_kinds_sees_one(kind):
    assert asked_kinds(ast.parse(f"isinstance(x, {kind})"))
