"""What a problem in strong form is asked before it is used: mistakes are named at once."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pddlvm.basics.checks import check_all
from pddlvm.basics.errors import ProblemError
from pddlvm.basics.explained import explained
from pddlvm.parameters.space import ParameterSpace
from pddlvm.strong.ansatz import Ansatz
from pddlvm.strong.domain import Affine, Box, Face, Stretch
from pddlvm.strong.form import StrongForm
from pddlvm.strong.jets import Jet, partials
from pddlvm.strong.pointwise import Condition, PointFunction
from pddlvm.strong.unknowns import Unknowns

__all__ = ["check_arguments", "check_conditions", "check_functions", "check_shapes", "first_bad"]

_MOST_POINTS = 10**6
_N_SAMPLES, _N_POINTS = 4, 64
_PLACES = ((0, 5), (1, 23), (3, 41))
"""Sample and point at which functions are evaluated alone."""


def check_arguments(
    box: Any, unknowns: Unknowns, hard: Any, conditions: Any, stretch: Mapping[str, Any]
) -> tuple[tuple[tuple[Face, ...], ...], tuple[Condition, ...]]:
    """Return faces of each unknown and conditions.

    Raises:
        ProblemError: an argument is of another kind.
    """
    if not isinstance(box, Box):
        raise ProblemError(f"box must be a Box, as Box(x=(0.0, 1.0)), got {type(box).__name__}")
    of_each = hard if isinstance(hard, Mapping) else dict.fromkeys(unknowns.names, hard)
    for name in of_each:
        unknowns.number(name)
    example = f"[box.start({box.names[0]!r})]"
    faces = tuple(
        _once(check_all(of_each.get(name, ()), Face, "hard", example)) for name in unknowns.names
    )
    soft = check_all(conditions, Condition, "conditions", "[Condition(face, function)]")
    for condition in soft:
        unknowns.number(condition.field)
    known = {face.side for c in box.names for face in (box.start(c), box.end(c))}
    for face in (*chain.from_iterable(faces), *(c.face for c in soft)):
        if face.side not in known:
            raise ProblemError(
                f"{face!r} is no face of {box!r}; take box.start(name) or box.end(name)"
            )
    for c, stretched in stretch.items():
        if not isinstance(stretched, Stretch):
            raise ProblemError(
                f"the stretch of {c!r} must be Affine(), Graded(a), Sinh(centre, width) or another "
                f"Stretch, got {type(stretched).__name__}"
            )
    return faces, soft


def _once(faces: Sequence[Face]) -> tuple[Face, ...]:
    """Each face once, with its slope where one of them holds it."""
    sides = dict.fromkeys(face.side for face in faces)
    return tuple(Face(*side, Face(*side, True) in faces) for side in sides)


def check_shapes(form: StrongForm, along: Mapping[str, str], varying: Sequence[str]) -> None:
    """Raise a ProblemError if sizes or names do not fit the box."""
    ansatz = form.ansatz
    names = ansatz.box.names
    for what, sizes, least in (("grid", form.grid, 2), ("nodes", form.nodes, 4)):
        is_whole = all(type(n) is int and n <= _MOST_POINTS for n in sizes)
        if len(sizes) != len(names) or not is_whole or min(sizes) < least:
            raise ProblemError(
                f"{what} must give at least {least} points along each of {', '.join(names)}, "
                f"got {sizes}"
            )
    unknown = {*ansatz.odd, *ansatz.periodic, *ansatz.stretch} - set(names)
    if unknown:
        raise ProblemError(f"no coordinates {sorted(unknown)}; there are {names}")
    _check_periods(form)
    idle = sorted(set(along) - set(varying))
    if idle:
        raise ProblemError(
            f"along names {idle}, which are no fields that vary in space: these are {varying}"
        )


def _check_periods(form: StrongForm) -> None:
    """Raise a ProblemError where a coordinate is periodic and something else too."""
    ansatz = form.ansatz
    faces = [*chain.from_iterable(ansatz.hard), *(c.face for c in form.conditions)]
    for c in ansatz.periodic:
        n = form.nodes[ansatz.box.names.index(c)]
        wrong = {
            f"has a condition at {', '.join(str(f) for f in faces if f.coordinate == c)}": any(
                f.coordinate == c for f in faces
            ),
            "is odd": c in ansatz.odd,
            "has a stretch": not isinstance(ansatz.stretch[c], Affine),
            f"has {n} nodes, which must be an odd number": n % 2 == 0,
        }
        for what, is_so in wrong.items():
            if is_so:
                raise ProblemError(f"{c} is periodic, and {what}: leave out one of them")


def check_conditions(form: StrongForm) -> None:
    """Raise a ProblemError where a condition is missing, or has no effect."""
    ansatz, name = form.ansatz, form.name
    hard = dict(zip(form.unknowns.names, ansatz.hard, strict=True))
    for condition in form.conditions:
        u, c = condition.field, condition.face.coordinate
        is_hard = condition.face.side in (face.side for face in hard[u])
        if is_hard and _order(form, u, c) <= 2:
            raise ProblemError(
                f"problem {name!r} has a Condition at the {condition.face}, which is in `hard`: "
                f"{u} equals the lift there, and the condition has no effect. Leave out one of "
                "them; the values of a hard face are those of the lift"
            )
    for c in ansatz.box.names:
        if c not in ansatz.periodic:
            _check_orders(form, c, hard)


def _order(form: StrongForm, u: str, c: str) -> int:
    """Highest order of the derivatives of an unknown along a coordinate."""
    a, i = form.unknowns.number(u), form.ansatz.box.names.index(c)
    read = form.residual_function.derivatives.values()
    return max((index.count(i) for own, index in read if own == a), default=0)


def _check_orders(form: StrongForm, c: str, hard: Mapping[str, Sequence[Face]]) -> None:
    """Raise a ProblemError if a derivative along a coordinate has too few conditions."""
    box, name = form.ansatz.box, form.name
    ends = box.start(c), box.end(c)
    # How many each unknown has at each end.
    held: dict[str, list[int]] = {}
    for u, faces in hard.items():
        given = [f.side for f in faces for _ in range(2 if f.with_slope else 1)]
        given += [own.face.side for own in form.conditions if own.field == u]
        held[u] = [given.count(end.side) for end in ends]
    orders = {u: _order(form, u, c) for u in hard}
    # Of several equations of first order some have their condition elsewhere: pressures none.
    if max(orders.values()) == 1 and not any(map(sum, held.values())):
        raise ProblemError(
            f"problem {name!r} has a first derivative along {c} and no condition at "
            f"its start or end: an initial condition is missing. Add box.start({c!r}) to "
            "`hard`, or a Condition there"
        )
    for u, counts in held.items():
        of_u = f" of {u}" if form.unknowns.n > 1 else ""
        missing = [end for end, count in zip(ends, counts, strict=True) if count == 0]
        if orders[u] == 2 and missing and max(counts) < 2:
            raise ProblemError(
                f"problem {name!r} has second derivatives{of_u} along {c} and no condition at "
                f"the {' and the '.join(map(str, missing))}: add the face to `hard`, or a "
                "Condition there; of an initial value problem hold both at the start, "
                f"box.start({c!r}, with_slope=True)"
            )
        if orders[u] > 2 and sum(counts) < orders[u]:
            raise ProblemError(
                f"problem {name!r} has derivatives{of_u} of order {orders[u]} along {c}, which "
                f"need as many conditions at its start and end, and there are {sum(counts)}: a "
                f"clamped end is box.end({c!r}, with_slope=True) in `hard`; a supported one is "
                "in `hard` and has a Condition on the second derivative; a free one has two, on "
                "the second and on the third"
            )


def check_functions(form: StrongForm, scale: PointFunction, prior: ParameterSpace) -> None:
    """Evaluate all functions at a few points, together and alone.

    Raises:
        ProblemError: a function cannot be evaluated, is not finite where u is the lift, or depends
            on other points; the scale is not positive.
    """
    ansatz, name = form.ansatz, form.name
    generator = torch.Generator().manual_seed(0)
    k = len(ansatz.box.names)
    s = (2 * torch.rand(_N_POINTS, k, generator=generator, dtype=torch.float64) - 1).unbind(-1)
    z = prior.sample((_N_SAMPLES,), generator=generator)
    shape = (_N_SAMPLES, _N_POINTS)
    many = (_N_SAMPLES, form.unknowns.n * _N_POINTS)
    wave = {
        i: form.unknowns.stack(torch.randn(many, generator=generator, dtype=torch.float64))
        for i in ansatz.indices
    }
    if ansatz.lift_function.derivatives:
        raise ProblemError(
            f"the lift of problem {name!r} reads {list(ansatz.lift_function.derivatives)}; it must "
            "be a function of coordinates and fields"
        )
    constant = ansatz.fields(z, {})
    unknown = {n for stretch in ansatz.stretch.values() for n in stretch.reads} - set(constant)
    if unknown:
        raise ProblemError(
            f"a stretch of problem {name!r} reads {sorted(unknown)}; it must be a function of "
            f"fields that do not vary in space, {list(constant)}"
        )
    try:
        _check_places(ansatz, s, z)
        jet, values = ansatz.assemble({i: torch.zeros_like(v) for i, v in wave.items()}, s, z)
        rough, _ = ansatz.assemble(wave, s, z)
    except ProblemError:
        raise
    except Exception as error:
        raise _cannot(f"the lift or a stretch of problem {name!r}", error) from error
    _check_alone(ansatz.lift_function, name, {}, values, shape)
    for function in (form.residual_function, scale, *form.condition_functions):
        found = _check_alone(function, name, rough, values, shape)
        if function is form.residual_function and form.unknowns.n > 1 and found.ndim == 2:
            raise ProblemError(
                f"{function.name!r} of problem {name!r} must return a tuple, the equation of each "
                f"of {', '.join(form.unknowns.names)}"
            )
        if function in form.condition_functions and found.ndim > 2:
            raise ProblemError(
                f"{function.name!r} of problem {name!r} must return one value: make a Condition "
                "for each unknown"
            )
        if function is scale and (found <= 0).any():
            raise ProblemError(
                f"the residual_scale of problem {name!r} must be positive, got {found.min():g}"
            )
    where = first_bad(form, form.residual_function(jet, values), values, z)
    if where is not None:
        who = form.residual_function.name
        raise ProblemError(f"{who!r} of problem {name!r} is not finite at {where}")
    ansatz.check_odd(s, z, name)
    ansatz.check_periodic(s, z, name)


def first_bad(form: StrongForm, r: Tensor, values: Mapping[str, Tensor], z: Tensor) -> str | None:
    """Where r (n_samples, n_points) is not finite, in words; None if it is everywhere."""
    bad = ~torch.isfinite(r)
    bad = (bad.any(0) if bad.ndim > 2 else bad).expand(len(z), -1)
    if not bad.any():
        return None
    i, j = (int(v) for v in bad.nonzero()[0])
    at = {c: values[c].expand(bad.shape)[i, j].item() for c in form.ansatz.box.names}
    point = ", ".join(f"{c} = {v:g}" for c, v in at.items())
    return f"{point} for z = {[round(v, 4) for v in z[i].tolist()]}"


def _check_alone(
    f: PointFunction,
    name: str,
    jet: Jet,
    values: Mapping[str, Tensor],
    shape: tuple[int, int],
) -> Tensor:
    """The function at all points, after it was evaluated at some of them one by one."""
    who = f"{f.name!r} of problem {name!r}"
    # As where it is differentiated: NumPy takes no such tensors.
    jet = {n: v.detach().requires_grad_() for n, v in jet.items()}
    try:
        with torch.enable_grad():
            whole = f(jet, values)
    except Exception as error:
        raise _cannot(who, error) from error
    if not isinstance(whole, Tensor):
        raise ProblemError(f"{who} must return one tensor, got {type(whole).__name__}")
    of_each = whole.shape[:1] if f.unknowns.n > 1 and whole.ndim == 3 else ()
    if of_each and len(whole) != f.unknowns.n:
        raise ProblemError(
            f"{who} returns {len(whole)} values; it must return one for each of "
            f"{', '.join(f.unknowns.names)}"
        )
    try:
        whole = whole.detach().expand(*of_each, *shape)
    except RuntimeError as error:
        raise ProblemError(
            f"{who} returns shape {tuple(whole.shape)}; it must be elementwise"
        ) from error
    for i, j in _PLACES:

        def at(value: Tensor, i: int = i, j: int = j) -> Tensor:
            return value.expand(*value.shape[:-2], *shape)[..., i : i + 1, j : j + 1]

        there = f({n: at(v) for n, v in jet.items()}, {n: at(v) for n, v in values.items()})
        alone = there.expand(*there.shape[:-2], 1, 1)
        if not torch.allclose(alone, at(whole), rtol=1e-8, equal_nan=True):
            raise ProblemError(
                f"{who} has another value where it is evaluated at one point alone: it depends on "
                "other points or samples, by a sum, a mean or a shift. It must be elementwise; "
                "global terms, as integrals, are not supported"
            )
    return whole


def _check_places(ansatz: Ansatz, s: Sequence[Tensor], z: Tensor) -> None:
    whole, alone = ansatz.place(s, z).x, ansatz.place(s, z[:1]).x
    for c, x, one in zip(ansatz.box.names, whole, alone, strict=True):
        first = x if x.ndim == 1 else x[:1]
        if not torch.allclose(first, one, rtol=1e-8):
            raise ProblemError(f"the stretch of {c} depends on other samples; make it elementwise")
    for i, c in enumerate(ansatz.box.names):
        _check_slopes(ansatz, i, c, s[i], z)


def _check_slopes(ansatz: Ansatz, i: int, c: str, s: Tensor, z: Tensor) -> None:
    """Raise a ProblemError where a stretch has other derivatives than it says."""
    constants, interval = ansatz.fields(z, {}), ansatz.box.intervals[c]
    order = max(index.count(i) for index in ansatz.indices)
    _, *slopes = ansatz.stretch[c].place(s, interval, constants)
    along = [(0,) * k for k in range(1, order + 1)]
    jet = partials(lambda at: ansatz.stretch[c].place(at, interval, constants)[0], [s], along)
    for k, index in enumerate(along):
        said = slopes[k] if k < len(slopes) else torch.zeros(())
        if not torch.allclose(said.to(s).expand_as(jet[index]), jet[index], rtol=1e-6, atol=1e-9):
            raise ProblemError(
                f"the stretch of {c} gives a derivative of order {k + 1} that is not that of its "
                "place; return x, X', X'' ... up to the order of the equation, but for those at "
                "the end that vanish everywhere"
            )


def _cannot(who: str, error: Exception) -> ProblemError:
    return ProblemError(
        f"{who} cannot be evaluated ({explained(error)}). It must be an elementwise torch function "
        "of its arguments"
    )
