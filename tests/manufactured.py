"""Loads of manufactured solutions, by automatic differentiation, and the orders that are observed.

f = f0(u*) - div f1(u*),       (f0, f1) the physics at one point
"""

from inspect import signature

import torch
from checks import l2_error, orders
from torch.func import grad, jacrev, vmap

import pddlvm
from pddlvm.fem.mixed import field_of


def material(x):
    """A smooth coefficient."""
    return 1.5 + 0.5 * torch.sin(4 * x).sum()


def vortex(x):
    """A velocity without divergence."""
    a, b = torch.pi * x[0], torch.pi * x[1]
    return torch.stack([a.sin() * b.cos(), -a.cos() * b.sin()])


def wave(x):
    """A pressure of mean zero."""
    return (torch.pi * x[0]).cos() * x[1].exp()


def rows_of(energy):
    """The physics (f0, f1) of an energy density of u, du, x and amplitude."""

    def rows(u, du, x, amplitude):
        return {"u": grad(energy, argnums=(0, 1))(u, du, x, amplitude)}

    return rows


def loads_of(law, exact):
    """Rows -f at one point.

    Args:
        law: of some of the fields, their gradients, x and amplitude: {field: (f0, f1)}.
        exact: field -> u*(x).
    """
    names = signature(law).parameters

    def rows(x, amplitude):
        known = {"x": x, "amplitude": amplitude}
        known |= {k: f(x) for k, f in exact.items()}
        known |= {f"d{k}": jacrev(f)(x) for k, f in exact.items()}
        return law(**{name: known[name] for name in names})

    def loads(x, amplitude):
        found = {}
        for name, (f0, f1) in rows(x, amplitude).items():
            if isinstance(f1, torch.Tensor):
                slope = jacrev(lambda x, name=name: rows(x, amplitude)[name][1])(x)
                f0 = f0 - torch.einsum("...ii->...", slope)
            found[name] = (-f0, 0.0)
        return found

    return loads


def observed_orders(make, exact, sizes=(4, 8, 16)):
    """Orders in L2 on the two finest meshes, {field: order}.

    Args:
        make: a size of the mesh -> the problem, whose only parameter is 1.
        exact: field -> u*(x).
        sizes: three, each twice the one before.
    """
    errors = []
    for n in sizes:
        case = make(n)
        u = case.solve(torch.ones(case.n_parameters, dtype=torch.float64))
        parts = {k: field_of(case.space, k) for k in exact}
        errors.append([l2_error(s, u[dofs], vmap(exact[k])) for k, (dofs, s) in parts.items()])
    return dict(zip(exact, orders(errors)[-1].tolist(), strict=True))


def manufactured(space, physics, law, exact, dirichlet, **options):
    """The problem of physics in several fields whose solution is `exact`.

    Args:
        space: mixed.
        physics: what is tested, as a `Flux` has it; reads `amplitude`.
        law: the same, written by the test, from which loads follow.
        exact: field -> u*(x).
        dirichlet: conditions.
        options: of the problem.
    """
    terms = [pddlvm.Flux(space.interior(), f) for f in (physics, loads_of(law, exact))]
    fields = {"amplitude": pddlvm.Constant(pddlvm.LogNormal())}
    return pddlvm.Problem("manufactured", space, terms, fields, dirichlet, **options)
