"""Parametric PDEs in real time, parameters from data, and an error bar on both."""

from pddlvm import fem, links
from pddlvm.fields import Chebyshev, Constant, Field, Piecewise
from pddlvm.karhunen_loeve import KarhunenLoeve, Matern, exponential, gaussian
from pddlvm.physics import Energy, Flux, Term
from pddlvm.priors import LogNormal, Normal, Prior, Uniform
from pddlvm.problem import Dirichlet, Problem
