"""What a saved `TrajectoryModel` consists of, and how it is put together again."""

from typing import Any

import torch
from torch import Tensor, nn

from pddlvm.basics.files import check_tensor
from pddlvm.latent.networks import rebuild_network, sizes_of
from pddlvm.trajectory.model import TrajectoryMaps
from pddlvm.trajectory.modes import Modes
from pddlvm.trajectory.parts import Coefficients
from pddlvm.trajectory.pointwise import AtPoints, PointTerm, PointTerms
from pddlvm.trajectory.polynomials import Polynomial, Products
from pddlvm.trajectory.reduction import TrajectoryReduction
from pddlvm.trajectory.steps import ReducedSteps
from pddlvm.transient.problem import TransientProblem

__all__ = ["arguments", "content_of"]

_OF_STEPS = ("v", "k", "g", "mass_of_lift", "lifts", "sizes")
_OF_MODES = ("phi", "starts", "g_mass", "g_stiffness", "of_phi", "of_b", "of_theta_b")


def content_of(model: TrajectoryMaps) -> dict[str, Any]:
    """All but the state: what the constructor needs, and the reduction."""
    reduction, modes = model.reduction, model.modes
    steps = reduction.steps
    return {
        "tolerance": model.tolerance,
        "networks": {
            "forward": sizes_of(model.forward_map.network),
            "inverse": sizes_of(model.inverse_map.network),
        },
        "n_shapes": modes.steps.n,
        "tails": list(reduction.tails),
        "entries": [
            {"term": i, "tangent": torch.from_numpy(tangent), "load": torch.from_numpy(load)}
            for i, (tangent, load) in steps.coefficients.entries.items()
        ],
        "boundary": torch.from_numpy(steps.coefficients.boundary),
        "steps": {name: getattr(steps, name) for name in _OF_STEPS},
        "points": _pack(steps.pointwise),
        "k0": reduction.k0,
        "pairs": modes.pairs,
        "modes": {name: getattr(modes, name) for name in _OF_MODES},
        "pairs_of_points": _pack(modes.pointwise),
        "start": None if modes.start is None else vars(modes.start),
        "a": reduction.a,
        "polynomial": vars(reduction.polynomial),
    }


def arguments(
    content: dict[str, Any],
    problem: TransientProblem,
    forward_network: nn.Module | None,
    inverse_network: nn.Module | None,
) -> dict[str, Any]:
    """Those of the constructor, beside the problem; the state is still to be loaded."""
    networks = content["networks"]
    n_saved = sum(value.numel() for value in content["state"].values())
    return {
        "tolerance": content["tolerance"],
        "forward_network": rebuild_network(
            "forward", networks["forward"], forward_network, n_saved
        ),
        "inverse_network": rebuild_network(
            "inverse", networks["inverse"], inverse_network, n_saved
        ),
        "reduction": _reduction(content, problem),
        "seed": content["seed"],
        "dtype": getattr(torch, content["dtype"]),
    }


def _reduction(content: dict[str, Any], problem: TransientProblem) -> TrajectoryReduction:
    coefficients = _coefficients(content, problem)
    given, of_modes = content["steps"], content["modes"]
    n, n_lifts = given["v"].shape[1], len(coefficients.boundary)
    n_q, n_p = len(given["k"]), len(given["g"])
    expected: dict[str, tuple[int, ...]] = {
        "v": (problem.n_free, n),
        "k": (n_q, n, n + n_lifts),
        "g": (n_p, n),
        "mass_of_lift": (n, n_lifts),
        "lifts": (n_lifts, problem.n_dofs),
        "sizes": (len(problem.fields_of_u),),
    }
    steps = ReducedSteps(
        problem,
        coefficients,
        **{k: check_tensor(given[k], k, v) for k, v in expected.items()},
        pointwise=_unpack(content["points"], problem, n + n_lifts, n),
    )
    m, p, n_starts = content["n_shapes"], of_modes["phi"].shape[2], of_modes["starts"].shape[2]
    n_slots = steps.h + problem.n_times if problem.reads_time else 1
    pairs = _index(content["pairs"], n_slots * n_q)
    shapes: dict[str, tuple[int, ...]] = {
        "phi": (problem.n_times, m, p),
        "starts": (steps.h, m, n_starts),
        "g_mass": (p, p + n_starts),
        "g_stiffness": (len(pairs), p, p + n_starts),
        "of_phi": (n_slots * n_p, p),
        "of_b": (n_slots * n_lifts, p),
        "of_theta_b": (n_slots * n_q * n_lifts, p),
    }
    parts = {k: check_tensor(of_modes[k], k, v) for k, v in shapes.items()}
    n_columns = p + n_starts + n_slots * n_lifts
    pointwise = _unpack(content["pairs_of_points"], problem, n_columns, p)
    start = None if pointwise is None else _polynomial(content["start"], problem, p)
    modes = Modes(steps=steps.first(m), pairs=pairs, **parts, pointwise=pointwise, start=start)
    n_draws = len(content["a"])
    return TrajectoryReduction(
        steps=steps,
        k0=check_tensor(content["k0"], "k0", (n, n)),
        modes=modes,
        a=check_tensor(content["a"], "a", (n_draws, p)),
        polynomial=_polynomial(content["polynomial"], problem, p),
        tails=(float(content["tails"][0]), float(content["tails"][1])),
    )


def _polynomial(packed: dict[str, Any], problem: TransientProblem, p: int) -> Polynomial:
    if not isinstance(packed, dict):
        raise ValueError("a polynomial without its products")
    d, n_terms, n_powers = problem.n_parameters, len(packed["weights"]), packed["columns"].shape[1]
    degrees = check_tensor(packed["degrees"], "degrees", (n_terms, d), torch.int64)
    _index(degrees.flatten(), n_powers)
    columns = check_tensor(packed["columns"], "columns", (d, n_powers, n_powers))
    Products(degrees, columns)
    return Polynomial(degrees, columns, check_tensor(packed["weights"], "weights", (n_terms, p)))


def _coefficients(content: dict[str, Any], problem: TransientProblem) -> Coefficients:
    entries = {}
    for packed in content["entries"]:
        number = _number(packed["term"], problem)
        term = problem.steady.terms[number]
        n_cells, n_quadrature, s, _ = term.region.shape
        n = n_cells * n_quadrature * s
        tangent, load = _index(packed["tangent"], n * s), _index(packed["load"], n)
        entries[number] = (tangent.numpy(), load.numpy())
    return Coefficients(problem, entries, _index(content["boundary"], problem.n_dofs).numpy())


def _pack(pointwise: PointTerms | None) -> list[dict[str, Any]] | None:
    if pointwise is None:
        return None
    return [
        {
            "term": one.at.number,
            "points": torch.from_numpy(one.at.points),
            "weights": torch.from_numpy(one.at.weights),
            "times": None if one.at.times is None else torch.from_numpy(one.at.times),
            "trial": one.trial,
            "tests": one.tests,
        }
        for one in pointwise.terms
    ]


def _unpack(
    packed: list[dict[str, Any]] | None, problem: TransientProblem, n_columns: int, n_tests: int
) -> PointTerms | None:
    if packed is None:
        return None
    found = []
    for part in packed:
        number, n = _number(part["term"], problem), len(part["points"])
        n_cells, n_quadrature, s, _ = problem.steady.terms[number].region.shape
        points = _index(part["points"], n_cells * n_quadrature).numpy()
        weights = check_tensor(part["weights"], "weights", (n,)).numpy()
        times = part["times"]
        times = None if times is None else check_tensor(times, "times", (n,)).numpy()
        trial = check_tensor(part["trial"], "trial", (n, s, n_columns))
        tests = check_tensor(part["tests"], "tests", (n, s, n_tests))
        found.append(PointTerm(AtPoints(number, points, weights, times), trial, tests))
    return PointTerms(problem, tuple(found))


def _number(value: Any, problem: TransientProblem) -> int:
    """That of a term."""
    if not isinstance(value, int) or not 0 <= value < len(problem.steady.terms):
        raise ValueError(f"there is no term {value!r}")
    return value


def _index(value: Tensor, size: int) -> Tensor:
    """Whole numbers from 0 to size - 1."""
    found = check_tensor(value, "an index", (len(value),), torch.int64)
    if ((found < 0) | (found >= size)).any():
        raise ValueError("entries that do not exist")
    return found
