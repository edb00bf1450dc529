"""Small problems in time, linear and not, of all kinds that differ in the code."""

import torch

import pddlvm
from pddlvm import fem
from problems.poisson import diffusion, load

END = 0.4


def warm(x, start):
    """Zero around the unit square."""
    return start * 16 * x[0] * (1 - x[0]) * x[1] * (1 - x[1])


def moving_diffusion(u, du, x, kappa, t):
    return 0.5 * kappa * (1 + torch.sin(4 * t) * x[0]) * (du * du).sum()


def ramp(u, du, x, f, t):
    return -f * t * u


def advection_diffusion(u, du, x, kappa, speed):
    return speed * du[0], kappa * du


def hot_diffusion(u, du, x, kappa):
    return 0.0, (1 + u**2) * kappa * du


def reaction(u, du, x, f, t):
    """It reads the time, and is an energy."""
    return f * (1 + torch.sin(4 * t)) * 0.25 * u**4


def explosion(u, du, x):
    """The rate of change is u^3: of large u there is no solution for long."""
    return -300.0 * u**3, 0.0 * du


def spring(u, du, x, f):
    return 0.5 * u**2 + f * 5 * u**4


def heated(x, left, t):
    return left * torch.tanh(5 * t) * (1 - x[0])


def make(kind: str = "heat", n: int = 6, n_steps: int = 20) -> pddlvm.TransientProblem:
    """Diffusion of an uncertain start, and what each kind adds to it."""
    space = fem.Space(fem.unit_square(n))
    cells = space.interior()
    kappa = pddlvm.KarhunenLoeve.on(space, 2, length=0.5, std=0.3)
    start = pddlvm.Constant(pddlvm.Uniform(0.5, 1.5))
    fields = {"kappa": kappa, "start": start, "f": 1.0}
    terms = [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, load)]
    dirichlet, initial, more = [pddlvm.Dirichlet(None)], warm, {}
    method = pddlvm.BDF2()
    if kind == "moving":
        fields |= {"f": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))}
        terms = [pddlvm.Energy(cells, moving_diffusion), pddlvm.Energy(cells, ramp)]
        method = pddlvm.CrankNicolson()
    if kind == "ramp":
        fields |= {"f": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))}
        terms[1] = pddlvm.Energy(cells, ramp)
    if kind == "advection":
        fields = {"kappa": kappa, "start": start, "speed": 2.0}
        terms = [pddlvm.Flux(cells, advection_diffusion)]
    if kind == "boundary":
        left = pddlvm.Constant(pddlvm.Uniform(0.5, 1.0))
        fields = {"kappa": kappa, "f": 1.0, "left": left}
        dirichlet, initial = [pddlvm.Dirichlet("left", heated), pddlvm.Dirichlet("right")], 0.0
    if kind == "wave":
        method, more = pddlvm.Newmark(), {"velocity": 0.0}
    if kind == "hot":
        terms[0] = pddlvm.Flux(cells, hot_diffusion)
    if kind == "reaction":
        left = pddlvm.Constant(pddlvm.Uniform(0.5, 1.0))
        fields = {"kappa": kappa, "f": 20.0, "left": left}
        terms = [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, reaction)]
        dirichlet, initial = [pddlvm.Dirichlet("left", heated), pddlvm.Dirichlet("right")], 0.0
        method = pddlvm.CrankNicolson()
    if kind == "explosion":
        terms.append(pddlvm.Flux(cells, explosion))
    if kind == "spring":
        terms.append(pddlvm.Energy(cells, spring))
        method, more = pddlvm.Newmark(), {"velocity": 0.0}
    fields["t"] = pddlvm.Time(END)
    problem = pddlvm.Problem(kind, space, terms, fields, dirichlet)
    stepping = pddlvm.Stepping(END, n_steps, method)
    return pddlvm.TransientProblem(problem, stepping=stepping, initial=initial, **more)
