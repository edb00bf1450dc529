"""Parametric PDEs in real time, parameters from data, and an error bar on both.

A problem is a mesh, fields with priors, and pointwise physics; a model learns from its residual
alone. See `Problem`, `LatentVariableModel`, `train` and `validate`.
"""

from pddlvm import fem, links, supports
from pddlvm.basis import ChebyshevBasis, EnergyModes, Nodal, ResidualEnriched
from pddlvm.covariances import EnergyNorm, Isotropic, Whitened
from pddlvm.discretisation import Dirichlet
from pddlvm.errors import (
    ConvergenceError,
    InputError,
    MeshError,
    NonFiniteError,
    ProblemError,
    RunFileError,
    SupportError,
)
from pddlvm.fields import Chebyshev, Constant, Field, Piecewise
from pddlvm.karhunen_loeve import KarhunenLoeve, Matern, exponential, gaussian
from pddlvm.laplace_beltrami import SurfaceField
from pddlvm.model import LatentVariableModel
from pddlvm.networks import NeuralGaussian
from pddlvm.parameters import ParameterSpace
from pddlvm.physics import Energy, Flux, Term
from pddlvm.priors import LogNormal, Normal, Prior, Uniform
from pddlvm.problem import Problem
from pddlvm.reduction import reduce
from pddlvm.serialization import load
from pddlvm.stresses import ShellStresses, shell_stresses
from pddlvm.training import TrainingResult, train
from pddlvm.validation import ValidationReport, validate

__all__ = [
    "Chebyshev",
    "ChebyshevBasis",
    "Constant",
    "ConvergenceError",
    "Dirichlet",
    "Energy",
    "EnergyModes",
    "EnergyNorm",
    "Field",
    "Flux",
    "InputError",
    "Isotropic",
    "KarhunenLoeve",
    "LatentVariableModel",
    "LogNormal",
    "Matern",
    "MeshError",
    "NeuralGaussian",
    "Nodal",
    "NonFiniteError",
    "Normal",
    "ParameterSpace",
    "Piecewise",
    "Prior",
    "Problem",
    "ProblemError",
    "ResidualEnriched",
    "RunFileError",
    "ShellStresses",
    "SupportError",
    "SurfaceField",
    "Term",
    "TrainingResult",
    "Uniform",
    "ValidationReport",
    "Whitened",
    "exponential",
    "fem",
    "gaussian",
    "links",
    "load",
    "reduce",
    "shell_stresses",
    "supports",
    "train",
    "validate",
]
