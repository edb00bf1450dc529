"""Linear terms from few of their entries: tangents, fluxes, and the matrices of many draws."""

import pytest
import torch
from torch.func import vmap

import pddlvm
from pddlvm import fem, links
from pddlvm.reduced.many_matrices import tangent_of_many
from pddlvm.weak import linear_terms, terms
from pddlvm.weak.linear_terms import LinearTerm
from pddlvm.weak.terms import TermEvaluator
from problems import elasticity, helmholtz, poisson, stokes


def anisotropic():
    """Conductivities along x and y of their own."""
    space = fem.Space(fem.unit_square(4))
    fields = {
        "a": pddlvm.KarhunenLoeve.on(space, 2, length=0.4, link=links.exp),
        "b": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)),
    }

    def density(u, du, x, a, b):
        return 0.5 * (a * du[0] ** 2 + b * du[1] ** 2) + 0.1 * u**2 - u

    terms = [pddlvm.Energy(space.interior(), density)]
    return pddlvm.Problem("anisotropic", space, terms, fields, [pddlvm.Dirichlet("left")])


def layered():
    """Two materials, one of which only draws far out have."""
    space = fem.Space(fem.unit_square(4))

    def density(u, du, x, k):
        stiff = torch.where(k > 1.96, 3.0, 1.0)
        return 0.5 * (du[0] ** 2 + stiff * du[1] ** 2) - u

    terms = [pddlvm.Energy(space.interior(), density)]
    fields = {"k": pddlvm.Constant(pddlvm.Uniform(0.0, 2.0))}
    return pddlvm.Problem("layered", space, terms, fields, [pddlvm.Dirichlet("left")])


def scaled(law, high=2.0):
    """A conductivity that follows a law of one number."""
    space = fem.Space(fem.unit_square(4))
    terms = [
        pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * law(k) * (du * du).sum() - u)
    ]
    fields = {"k": pddlvm.Constant(pddlvm.Uniform(0.5, high))}
    return pddlvm.Problem("scaled", space, terms, fields, [pddlvm.Dirichlet("left")])


MAKE = [
    lambda: poisson.make(4, 2),
    anisotropic,
    lambda: elasticity.make_bracket(4),
    lambda: helmholtz.make_damped(3),
    lambda: stokes.make_cavity(2),
]


def terms_of(problem):
    return problem.discretisation(torch.float64, torch.device("cpu")).terms


def cornered():
    """Another material in one corner."""
    space = fem.Space(fem.unit_square(8))

    def density(u, du, x, k):
        stiff = torch.where((x[0] > 0.9) & (x[1] > 0.9), 3.0, 1.0)
        return 0.5 * k * (du[0] ** 2 + stiff * du[1] ** 2) - u

    terms = [pddlvm.Energy(space.interior(), density)]
    fields = {"k": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))}
    return pddlvm.Problem("cornered", space, terms, fields, [pddlvm.Dirichlet("left")])


@pytest.mark.parametrize("few", [8, linear_terms._FEW])
@pytest.mark.parametrize("make", [*MAKE, cornered])
def test_they_are_those_of_all_rows(make, few, monkeypatch):
    monkeypatch.setattr(linear_terms, "_FEW", few)
    problem = make()
    z = problem.prior.sample((3,), seed=7)
    u = torch.rand(3, problem.n_dofs, generator=torch.Generator().manual_seed(0)).double()
    for term in terms_of(problem):
        expected = term.tangents(u, problem.prior.split(z))
        linear = LinearTerm(term, problem.prior)
        found = linear.tangents(linear.at(z))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_multiples_are_looked_for_at_some_points_and_where_these_miss_one_at_all(monkeypatch):
    monkeypatch.setattr(linear_terms, "_FEW", 8)
    asked, tangents_of = [], TermEvaluator.tangents_of

    def counted(self, e, z):
        asked.append(e.shape[1])
        return tangents_of(self, e, z)

    monkeypatch.setattr(TermEvaluator, "tangents_of", counted)
    for problem, again in ((poisson.make(4, 2), False), (cornered(), True)):
        term = terms_of(problem)[0]
        asked.clear()
        linear = LinearTerm(term, problem.prior)
        assert asked == [8, *[len(term.weights)] * again]
        assert len(linear.slots.own) == 1 + again


def test_few_rows_are_differentiated(monkeypatch):
    problem = poisson.make(4, 2)
    term = terms_of(problem)[0]
    linear = LinearTerm(term, problem.prior)
    monkeypatch.setattr(type(term), "tangents_of", None)
    values = linear.at(problem.prior.sample((2,), seed=1))
    assert linear.tangents(values).shape == (2, len(term.weights), 3, 3)


@pytest.mark.parametrize(
    ("law", "asked"),
    [
        (lambda k: 3 * k + 1, {1}),  # affine
        (lambda k: k**2, {1, 5}),  # seen at the two draws
        (lambda k: torch.where(k > 1.96, k**2, k), {1, 5}),  # seen at the last of the batch
    ],
)
def test_entries_of_many_are_those_of_each(law, asked, monkeypatch):
    problem, own_with, seen = scaled(law), LinearTerm.own_with, set()

    def counted(self, values, n):
        seen.add(n)
        return own_with(self, values, n)

    monkeypatch.setattr(LinearTerm, "own_with", counted)
    linear = LinearTerm(terms_of(problem)[0], problem.prior)
    z = torch.tensor([[0.6], [1.2], [1.0], [0.9], [1.98]]).double()
    found = linear.own(z)
    assert seen == asked
    expected = torch.cat([linear.own(one) for one in z.split(1)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_where_factors_do_not_hold_all_is_differentiated():
    problem = layered()
    (term,) = terms_of(problem)
    z = torch.tensor([[1.0], [1.5]]).double()
    linear = LinearTerm(term, problem.prior)
    assert (problem.prior.sample((linear_terms._N_PROBES,), seed=0) < 1.96).all()
    for far in (z, torch.tensor([[1.98]]).double()):
        expected = term.tangents(torch.zeros(len(far), problem.n_dofs).double(), {"k": far})
        torch.testing.assert_close(linear.tangents(linear.at(far)), expected)


@pytest.mark.parametrize("n", [3, linear_terms._MANY])
@pytest.mark.parametrize("room", [0, linear_terms._ROOM])
@pytest.mark.parametrize("make", MAKE)
def test_fluxes_and_element_matrices_are_those_of_the_term(make, room, n, monkeypatch):
    monkeypatch.setattr(linear_terms, "_ROOM", room)
    problem = make()
    z = problem.prior.sample((n,), seed=7)
    u = torch.rand(n, problem.n_dofs, generator=torch.Generator().manual_seed(0)).double()
    matrix = problem.solver.assembler
    linear = [LinearTerm(term, problem.prior) for term in terms_of(problem)]
    values = [one.at(z) for one in linear]
    for one, own in zip(linear, values, strict=True):
        for state in (u, 0 * u):
            found = one.fluxes(one.term.strains(state), own)
            expected = one.term.fluxes(state, problem.prior.split(z))
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for i in range(3):
        elements = [one.elements(own, i) for one, own in zip(linear, values, strict=True)]
        expected = problem.solver.matrix(u[i], z[i]).toarray()
        size = abs(expected).max()
        found = matrix.matrix(matrix.entries(elements)).toarray()
        assert abs(found - expected).max() < 1e-12 * size


@pytest.mark.parametrize("strains", [0, linear_terms._STRAINS])
@pytest.mark.parametrize("kept", [0, linear_terms._KEPT])
@pytest.mark.parametrize("make", [*MAKE, layered])
def test_residuals_and_matrices_are_those_of_the_mesh(make, kept, strains, monkeypatch):
    monkeypatch.setattr(linear_terms, "_KEPT", kept)
    monkeypatch.setattr(linear_terms, "_STRAINS", strains)
    problem = make()
    z = problem.prior.sample((3,), seed=7)
    u = torch.rand(3, problem.n_dofs, generator=torch.Generator().manual_seed(0)).double()
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    linear, values = problem.linear, problem.linear.at(z)
    expected = operators.balanced(operators.residual(u, z))
    torch.testing.assert_close(linear.residual(u, values), expected, rtol=1e-9, atol=1e-11)
    at_zero = operators.balanced(operators.residual(0 * u, z))
    torch.testing.assert_close(linear.residual(0 * u, values), at_zero, rtol=1e-9, atol=1e-11)
    some = [own.take(torch.tensor([2, 0])) for own in values]
    torch.testing.assert_close(
        linear.residual(u[[2, 0]], some), expected[[2, 0]], rtol=1e-9, atol=1e-11
    )
    expected = problem.solver.matrix(u[1], z[1])
    assert abs(linear.matrix(values, 1) - expected).max() < 1e-12 * abs(expected).max()
    assert linear.n_entries == expected.nnz


@pytest.mark.parametrize("n", [1, 3])
def test_points_are_taken_some_at_a_time(n, monkeypatch):
    problem, taken = poisson.make(4, 2), []
    z = problem.prior.sample((n,), seed=7)
    u = torch.rand(n, problem.n_dofs, generator=torch.Generator().manual_seed(0)).double()
    (stored, _) = terms_of(problem)
    values = problem.prior.split(z)
    expected = stored.fluxes(u, values), stored.energy(u, values)
    monkeypatch.setattr(terms, "_MOST", 7)
    monkeypatch.setattr(
        terms, "vmap", lambda f, **kwargs: taken.append(kwargs) or vmap(f, **kwargs)
    )
    torch.testing.assert_close((stored.fluxes(u, values), stored.energy(u, values)), expected)
    assert {"chunk_size": 7} in taken


def test_elements_of_one_point_are_weighted_sums_of_units():
    space = fem.Space(fem.unit_square(4))

    def density(u, du, x, k, c):
        return 0.5 * k * (du**2).sum() + 0.5 * c * u**2 - u

    fields = {name: pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)) for name in "kc"}
    terms = [pddlvm.Energy(space.interior(), density)]
    problem = pddlvm.Problem("two numbers", space, terms, fields, [pddlvm.Dirichlet("left")])
    (linear,) = problem.linear.terms
    values, units = linear.at(problem.prior.sample((2,), seed=1)), linear.unit_elements()
    assert linear.has_few_elements and len(units) == 2
    expected = torch.einsum("ck,kcij->cij", values.own[1], units)
    torch.testing.assert_close(linear.elements(values, 1), expected)


def test_a_load_that_only_some_draws_have_is_not_forgotten():
    space = fem.Space(fem.unit_square(4))

    def density(u, du, x, k):
        return 0.5 * (du * du).sum() - torch.where(k > 1.96, 3.0, 1.0) * u

    fields = {"k": pddlvm.Constant(pddlvm.Uniform(0.0, 2.0))}
    terms = [pddlvm.Energy(space.interior(), density)]
    problem = pddlvm.Problem("loads", space, terms, fields, [pddlvm.Dirichlet("left")])
    (term,) = terms_of(problem)
    linear, z = LinearTerm(term, problem.prior), torch.tensor([[1.98], [1.0]]).double()
    zero = torch.zeros(2, problem.n_dofs).double()
    found = linear.fluxes(term.strains(zero), linear.at(z))
    torch.testing.assert_close(found, term.fluxes(zero, {"k": z}))


@pytest.mark.parametrize("make", [*MAKE, layered])
def test_matrices_of_many_draws_are_those_of_each(make):
    problem = make()
    reduced = pddlvm.reduce(problem, pddlvm.ResidualEnriched(n_modes=5)).model(
        problem, torch.float64
    )
    z = problem.prior.sample((5,), seed=3)
    expected = reduced.tangent(z.new_zeros(5, reduced.n_modes), z)
    torch.testing.assert_close(tangent_of_many(reduced, z), expected, rtol=1e-10, atol=1e-12)


def test_a_draw_whose_entries_do_not_hold_is_seen_among_many():
    space = fem.Space(fem.unit_square(6))

    def density(u, du, x, k):
        stiff = torch.where(k > 8, 3.0, 1.0)
        return 0.5 * k * (du[0] ** 2 + stiff * du[1] ** 2) - u

    fields = {"k": pddlvm.KarhunenLoeve.on(space, 12, length=0.1, std=0.5, link=links.exp)}
    terms = [pddlvm.Energy(space.interior(), density)]
    problem = pddlvm.Problem("layered", space, terms, fields, [pddlvm.Dirichlet("left")])
    reduced = pddlvm.reduce(problem, pddlvm.ResidualEnriched(n_modes=5)).model(
        problem, torch.float64
    )
    assert reduced.n_strains > 0
    z = problem.prior.sample((12,), seed=0)
    z[7] *= 5.0
    expected = reduced.tangent(z.new_zeros(12, reduced.n_modes), z)
    torch.testing.assert_close(tangent_of_many(reduced, z), expected, rtol=1e-10, atol=1e-12)
    u = problem.solve(z)
    refined = pddlvm.LatentVariableModel(problem, seed=0).refine(z).u
    torch.testing.assert_close(refined, u, rtol=0, atol=1e-8 * float(u.abs().max()))
