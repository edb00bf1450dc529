"""Small mistakes in a problem are named, with what was expected, before anything is computed."""

import math

import numpy as np
import pytest
import torch
from checks import refuses

import pddlvm
from pddlvm import fem

SPACE = fem.Space(fem.unit_square(2))
BOX = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))
K = pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))


def energy(u, du, x, k):
    return 0.5 * k * (du * du).sum() - u


def heat(u_t, u_xx, k):
    return u_t - k * u_xx


def weak(function=energy, fields=None, **changes):
    arguments = {
        "space": SPACE,
        "terms": [pddlvm.Energy(SPACE.interior(), function)],
        "fields": {"k": K} | (fields or {}),
        "dirichlet": [pddlvm.Dirichlet("left")],
    }
    return pddlvm.Problem("weak", **(arguments | changes))


def strong(function=heat, fields=None, **changes):
    arguments = {
        "lift": lambda x: torch.sin(math.pi * x),
        "hard": [BOX.start("t"), BOX.start("x"), BOX.end("x")],
        "grid": (6, 6),
        "nodes": (8, 6),
    }
    return pddlvm.CollocationProblem(
        "strong", BOX, function, {"k": K} | (fields or {}), **(arguments | changes)
    )


both = pytest.mark.parametrize("make", [weak, strong])


# --- fields --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("name", ["", "1st", "a b", "lambda", 3])
def test_a_field_has_the_name_of_an_argument(make, name):
    refuses(f"a field is named {name!r}", make, fields={name: 1.0})


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((weak, name) for name in ("u", "du", "x", "values", "type")),
        *((strong, name) for name in ("u", "x", "t", "u_x", "u_xt")),
    ],
)
def test_a_field_has_a_name_of_its_own(make, name):
    refuses(f"cannot be named {name!r}", make, fields={name: K})


@both
@pytest.mark.parametrize("field", [K, 1.0])
def test_a_field_that_nothing_reads_is_named(make, field):
    refuses(r"no function reads: \['q'\]", make, fields={"q": field})


@both
@pytest.mark.parametrize(
    "value",
    [torch.ones(3), [1.0], np.ones(2), "1", None, lambda x: x],
)
def test_a_known_field_is_one_number(make, value):
    refuses("field 'q' must be a field, .* or one known number", make, fields={"q": value})


@pytest.mark.parametrize("value", [2, np.float32(2.0), np.array(2.0), torch.tensor([2.0])])
def test_one_number_of_any_kind_is_a_number(value):
    problem = weak(lambda u, du, x, k, q: q * energy(u, du, x, k), {"q": value})
    assert problem.fields["q"] == 2.0


@both
def test_a_known_number_is_finite(make):
    refuses("must be finite", make, fields={"q": math.nan})


@both
def test_priors_in_a_list_are_told_what_they_may_be(make):
    field = pddlvm.Constant([pddlvm.Normal()])
    refuses(r"priors of their own are one distribution of torch", make, fields={"k": field})


@both
@pytest.mark.parametrize("prior", [1.0, "normal", pddlvm.Normal])
def test_what_is_no_prior_is_named(make, prior):
    field = pddlvm.Constant(prior)
    refuses(r"prior of field 'k' .* pddlvm\.Normal\(", make, fields={"k": field})


@both
@pytest.mark.parametrize("prior", [pddlvm.Uniform(1.0, 2.0), torch.distributions.Beta(2.0, 5.0)])
def test_a_prior_alone_is_no_field(make, prior):
    refuses("field 'q' is a prior alone; make it a field, Constant", make, fields={"q": prior})


@both
def test_a_prior_of_other_many_numbers_is_refused(make):
    normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    field = pddlvm.Constant(normal)
    refuses("that of 2 numbers together, and the field has 1", make, fields={"k": field})


@both
@pytest.mark.parametrize("link", ["exp", math.exp, torch.sum, lambda g: g - g.mean(), np.exp])
def test_a_link_is_elementwise(make, link):
    field = pddlvm.Constant(pddlvm.Uniform(1.0, 2.0), link=link)
    refuses("link of field 'k'", make, fields={"k": field})


# --- functions -----------------------------------------------------------------------------------


def branches(u, du, x, k):
    return energy(u, du, x, k) if u > 0 else 2 * energy(u, du, x, k)


def takes_numbers(u, du, x, k):
    return u.item() * k


def test_a_branch_in_an_energy_is_explained():
    refuses(r"'branches' .*torch\.where", weak, branches)
    refuses(r"'takes_numbers' .*torch\.where", weak, takes_numbers)


def test_a_branch_in_a_residual_is_explained():
    refuses(r"torch\.where", strong, lambda u_t, u_xx, k: u_t if u_t > 0 else k * u_xx)


def test_a_branch_in_a_boundary_value_is_explained():
    value = pddlvm.Dirichlet("left", lambda x: x[1] if x[1] > 0.5 else 0.0)
    refuses(r"Dirichlet value on 'left' .*torch\.where", weak, dirichlet=[value])


def test_numpy_in_a_function_is_explained():
    refuses(r"torch\.sin for np\.sin", weak, lambda u, du, x, k: k * np.sin(u))
    refuses(
        r"torch\.sin for np\.sin", strong, lambda u, u_t, u_xx, k: heat(u_t, u_xx, k) + np.sin(u)
    )


@pytest.mark.parametrize(
    "value", [None, "a", "1.0", [0.0, 1.0], lambda x: x, lambda x: None, math.nan]
)
def test_a_boundary_value_that_is_none_is_named(value):
    refuses("Dirichlet value on 'left'", weak, dirichlet=[pddlvm.Dirichlet("left", value)])


@pytest.mark.parametrize("wrong", [lambda k: (k, k), lambda k: None, lambda k: 1.0])
def test_a_function_returns_one_tensor(wrong):
    message = "must return one tensor"
    last = {"hard": [BOX.start("t"), BOX.start("x")]}
    refuses(message, strong, lambda u_t, u_xx, k: wrong(k))
    refuses(message, strong, residual_scale=wrong)
    refuses(message, strong, conditions=[pddlvm.Condition(BOX.end("x"), wrong)], **last)
    refuses("a number", weak, lambda u, du, x, k: wrong(k))


@pytest.mark.parametrize(
    "couples",
    [
        lambda u: u - u.mean(),
        lambda u: u - u.mean(0, keepdim=True),
        lambda u: u.roll(1, -1),
        lambda u: u / u.abs().max(),
        lambda u: u.sum(),
    ],
)
def test_a_function_that_looks_at_other_points_is_found(couples):
    message = "depends on other points"
    refuses(message, strong, lambda u_t, u_xx, k: heat(u_t, u_xx, k) + couples(u_t))
    refuses(message, strong, residual_scale=lambda u_xx: 10 + couples(u_xx))
    condition = pddlvm.Condition(BOX.end("x"), couples)
    hard = [BOX.start("t"), BOX.start("x")]
    refuses(message, strong, hard=hard, conditions=[condition])


def test_a_lift_that_looks_at_other_points_is_found():
    refuses("depends on other points", strong, lift=lambda x: x - x.mean())


def test_a_stretch_that_looks_at_other_samples_is_found():
    stretch = {"x": pddlvm.Sinh(0.0, lambda k: 0.1 * k.mean())}
    refuses("depends on other samples", strong, stretch=stretch)


def test_a_residual_scale_is_positive():
    refuses("residual_scale .* must be positive", strong, residual_scale=lambda u_xx: -(u_xx**2))


# --- energies and weak forms ---------------------------------------------------------------------


def flux(u, du, x, k):
    return -1.0, k * du


@pytest.mark.parametrize(
    ("kind", "function", "message"),
    [
        (pddlvm.Energy, flux, "it returns 2 values, and an Energy is one number.*Flux"),
        (pddlvm.Energy, lambda u, du, x, k: k * du, r"shape \(2,\), and an Energy is one number"),
        (pddlvm.Flux, energy, "it returns one number, and a Flux is a pair.*Energy"),
        (pddlvm.Flux, lambda u, du, x, k: k * du, r"shape \(2,\), and a Flux is a pair"),
    ],
)
def test_an_energy_and_a_flux_are_told_apart(kind, function, message):
    refuses(message, weak, terms=[kind(SPACE.interior(), function)])


def test_a_function_says_the_names_of_its_arguments():
    refuses("'sin' does not say .* lambda u, du", weak, torch.sin)
    refuses("'sin' does not say .* lambda x", weak, dirichlet=[pddlvm.Dirichlet("left", torch.sin)])
    refuses("'sin' does not say", strong, torch.sin)


# --- conditions and lists ------------------------------------------------------------------------


def test_a_problem_without_dirichlet_is_refused():
    with pytest.raises(pddlvm.ProblemError, match="no Dirichlet boundary"):
        pddlvm.Problem("none", SPACE, [pddlvm.Energy(SPACE.interior(), energy)], {"k": K})


@pytest.mark.parametrize(
    "wrong", [["left"], "left", pddlvm.Dirichlet("left"), {"left": 0.0}, [("left", 0.0)], [None], 0]
)
def test_dirichlet_is_a_list_of_conditions(wrong):
    refuses(r'dirichlet must be a list of Dirichlet, as \[Dirichlet\("left"', weak, dirichlet=wrong)


@pytest.mark.parametrize("wrong", [[energy], energy, {"a": energy}])
def test_terms_are_a_list_of_terms(wrong):
    refuses(r"terms must be a list of Term, as \[Energy\(", weak, terms=wrong)


def test_a_term_takes_a_region_and_a_function():
    refuses(r"Energy\(space\.interior\(\), function\)", pddlvm.Energy, energy, SPACE.interior())
    refuses(r"Flux\(space\.interior\(\), function\)", pddlvm.Flux, SPACE.interior(), 1.0)


def test_a_region_of_another_space_is_refused():
    refuses("region of another space", weak, space=fem.Space(fem.unit_square(3)))


def test_a_mesh_is_no_space():
    refuses(r"fem\.Space\(mesh\)", weak, space=fem.unit_square(2))


def test_a_dirichlet_condition_without_effect_is_named():
    conditions = [pddlvm.Dirichlet("left", 1.0), pddlvm.Dirichlet("right"), pddlvm.Dirichlet(None)]
    refuses("condition on 'left' .* has no effect", weak, dirichlet=conditions)


def test_a_condition_on_a_hard_face_is_named():
    condition = pddlvm.Condition(BOX.start("x"), lambda u: u - 1)
    refuses("Condition at the start of x, which is in `hard`", strong, conditions=[condition])


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("hard must be a list", {"hard": BOX.start("x")}),
        ("hard must be a list", {"hard": ["left"]}),
        ("is no face of", {"hard": [pddlvm.Box(y=(0.0, 1.0)).start("y")]}),
        ("conditions must be a list", {"conditions": [lambda u: u]}),
        ("stretch of 'x' must be", {"stretch": {"x": "sinh"}}),
        (r"stretch .* reads \['q'\]", {"stretch": {"x": pddlvm.Sinh(0.0, lambda q: q)}}),
        (r"along names \['k'\]", {"along": {"k": "x"}}),
        (r"lift .* reads \['u'\]", {"lift": lambda x, u: u}),
        ("made of functions", {"residual_scale": 2.0}),
        ("grid must give", {"grid": (6.5, 6)}),
    ],
)
def test_an_argument_of_another_kind_is_named(message, changes):
    refuses(message, strong, **changes)


@pytest.mark.parametrize("intervals", [{"u": (0.0, 1.0)}, {"u_x": (0.0, 1.0)}, {"x": 1.0}])
def test_a_box_names_its_coordinates(intervals):
    with pytest.raises(pddlvm.InputError, match=next(iter(intervals))):
        pddlvm.Box(**intervals)


@pytest.mark.parametrize(
    "function",
    [lambda u, x, du, k: 0.5 * k * u**2, lambda u, du, k, x: k * u, lambda x, u, du, k: k * u],
)
def test_arguments_out_of_their_places_are_named(function):
    space = fem.Space(fem.unit_square(2))
    read = "by position, in this order, .* this one reads"
    with pytest.raises(pddlvm.ProblemError, match=read):
        pddlvm.Problem(
            "turned",
            space,
            [pddlvm.Energy(space.interior(), function)],
            {"k": pddlvm.Constant(pddlvm.LogNormal())},
            [pddlvm.Dirichlet(None)],
        )


def test_a_field_in_the_place_of_the_point_is_told_so():
    space = fem.Space(fem.unit_square(2))
    with pytest.raises(pddlvm.ProblemError, match="the third argument of a point function is the"):
        pddlvm.Problem(
            "two arguments",
            space,
            [pddlvm.Energy(space.interior(), lambda u, du, k: 0.5 * du @ du - u)],
            {"k": pddlvm.Constant(pddlvm.LogNormal())},
            [pddlvm.Dirichlet(None)],
        )


@pytest.mark.parametrize("size", [2, 3])
def test_f0_of_another_size_is_named(size):
    space = fem.Space(fem.unit_square(2))
    flux = pddlvm.Flux(space.interior(), lambda u, du, x, k: (k * u * torch.ones(size), du))
    with pytest.raises(pddlvm.ProblemError, match=f"f0 has {size} entries, and 1 are expected"):
        pddlvm.Problem(
            "wide",
            space,
            [flux],
            {"k": pddlvm.Constant(pddlvm.LogNormal())},
            [pddlvm.Dirichlet(None)],
        )
