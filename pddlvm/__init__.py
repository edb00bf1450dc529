"""Parametric PDEs in real time, parameters from data, and an error bar on both.

A problem is a mesh, fields with priors, and pointwise physics; a model learns from its residual
alone. See `Problem`, `LatentVariableModel`, `train` and `validate`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pddlvm import dependencies as dependencies  # the first of all
from pddlvm import fem, linalg, links, supports
from pddlvm.amortized.amortized import Amortized
from pddlvm.amortized.families import Diagonal, Family, Flow, Full
from pddlvm.amortized.population import Generated, Population, learn_population
from pddlvm.basics.errors import (
    ConvergenceError,
    InputError,
    MeshError,
    NonFiniteError,
    ProblemError,
    ResonanceWarning,
    RunFileError,
    StaleError,
    SupportError,
    UncalibratedWarning,
    WorkerError,
)
from pddlvm.collocation.inverse_networks import GridGaussian
from pddlvm.collocation.likelihood import Causal
from pddlvm.decisions.placement import Placement, place_sensors
from pddlvm.decisions.propagation import Propagated, propagate
from pddlvm.decisions.rare import RareEvent, rare_event
from pddlvm.decisions.sensitivity import SobolIndices, sobol_indices
from pddlvm.galerkin.covariances import Dual, EnergyNorm, Isotropic, Natural, Whitened
from pddlvm.inference.diagnostics import Diagnostics
from pddlvm.inference.methods import Method
from pddlvm.inference.posterior import Level, Posterior, PosteriorError, PosteriorSolution
from pddlvm.latent.networks import NeuralGaussian
from pddlvm.models import (
    CollocationModel,
    GalerkinModel,
    LatentVariableModel,
    TrajectoryModel,
    load,
)
from pddlvm.parameters.distributions import Distribution
from pddlvm.parameters.fields import Chebyshev, Constant, Field, Piecewise
from pddlvm.parameters.karhunen_loeve import KarhunenLoeve, Matern, exponential, gaussian
from pddlvm.parameters.priors import LogNormal, LogUniform, Normal, Prior, Uniform
from pddlvm.parameters.space import ParameterSpace
from pddlvm.parameters.surface_field import SurfaceField
from pddlvm.parameters.time import Time
from pddlvm.reduced.bases import ChebyshevBasis, EnergyModes, Nodal, ResidualEnriched
from pddlvm.reduced.reduction import reduce
from pddlvm.results.exported import Exported, export_maps
from pddlvm.results.vtu import write_solution
from pddlvm.sensors.correlated import AR1
from pddlvm.sensors.functionals import boundary_flux, compliance, maximum
from pddlvm.sensors.model_error import ModelError
from pddlvm.sensors.noise import Gaussian, Noise, StudentT, UnknownStd
from pddlvm.sensors.observation import (
    FunctionObservation,
    LinearObservation,
    Observation,
    PointObservation,
    average_matrix,
    gradient_matrix,
    integral_matrix,
    mask_matrix,
)
from pddlvm.sensors.quantity import Quantity
from pddlvm.strong.domain import Affine, Box, Face, Graded, Sinh, Stretch
from pddlvm.strong.points import (
    AdaptivePoints,
    LatinHypercube,
    PointSampler,
    Sobol,
    UniformPoints,
)
from pddlvm.strong.pointwise import Condition
from pddlvm.strong.problem import CollocationProblem
from pddlvm.training.checkpoints import Checkpoints
from pddlvm.training.loop import TrainingResult, train
from pddlvm.transient.problem import TransientProblem
from pddlvm.transient.stepping import (
    BDF2,
    BackwardEuler,
    CrankNicolson,
    Newmark,
    Stepping,
    SteppingMethod,
)
from pddlvm.umbridge.posterior import BlackBoxDraws, UMBridgePosterior
from pddlvm.validation.inference import InferenceReport, validate_inference
from pddlvm.validation.maps import ValidationReport, validate
from pddlvm.weak.boundary import Dirichlet
from pddlvm.weak.constraints import MeanValue
from pddlvm.weak.matrix_problem import MatrixProblem
from pddlvm.weak.problem import Problem
from pddlvm.weak.stresses import ShellStresses, shell_stresses
from pddlvm.weak.terms import Energy, Flux, Term

if TYPE_CHECKING:
    from pddlvm import plot

__version__ = "0.1.0"

__all__ = [
    "AR1",
    "BDF2",
    "AdaptivePoints",
    "Affine",
    "Amortized",
    "BackwardEuler",
    "BlackBoxDraws",
    "Box",
    "Causal",
    "Chebyshev",
    "ChebyshevBasis",
    "Checkpoints",
    "CollocationModel",
    "CollocationProblem",
    "Condition",
    "Constant",
    "ConvergenceError",
    "CrankNicolson",
    "Diagnostics",
    "Diagonal",
    "Dirichlet",
    "Distribution",
    "Dual",
    "Energy",
    "EnergyModes",
    "EnergyNorm",
    "Exported",
    "Face",
    "Family",
    "Field",
    "Flow",
    "Flux",
    "Full",
    "FunctionObservation",
    "GalerkinModel",
    "Gaussian",
    "Generated",
    "Graded",
    "GridGaussian",
    "InferenceReport",
    "InputError",
    "Isotropic",
    "KarhunenLoeve",
    "LatentVariableModel",
    "LatinHypercube",
    "Level",
    "LinearObservation",
    "LogNormal",
    "LogUniform",
    "Matern",
    "MatrixProblem",
    "MeanValue",
    "MeshError",
    "Method",
    "ModelError",
    "Natural",
    "NeuralGaussian",
    "Newmark",
    "Nodal",
    "Noise",
    "NonFiniteError",
    "Normal",
    "Observation",
    "ParameterSpace",
    "Piecewise",
    "Placement",
    "PointObservation",
    "PointSampler",
    "Population",
    "Posterior",
    "PosteriorError",
    "PosteriorSolution",
    "Prior",
    "Problem",
    "ProblemError",
    "Propagated",
    "Quantity",
    "RareEvent",
    "ResidualEnriched",
    "ResonanceWarning",
    "RunFileError",
    "ShellStresses",
    "Sinh",
    "Sobol",
    "SobolIndices",
    "StaleError",
    "Stepping",
    "SteppingMethod",
    "Stretch",
    "StudentT",
    "SupportError",
    "SurfaceField",
    "Term",
    "Time",
    "TrainingResult",
    "TrajectoryModel",
    "TransientProblem",
    "UMBridgePosterior",
    "UncalibratedWarning",
    "Uniform",
    "UniformPoints",
    "UnknownStd",
    "ValidationReport",
    "Whitened",
    "WorkerError",
    "average_matrix",
    "boundary_flux",
    "compliance",
    "exponential",
    "export_maps",
    "fem",
    "gaussian",
    "gradient_matrix",
    "integral_matrix",
    "learn_population",
    "linalg",
    "links",
    "load",
    "mask_matrix",
    "maximum",
    "place_sensors",
    "plot",
    "propagate",
    "rare_event",
    "reduce",
    "shell_stresses",
    "sobol_indices",
    "supports",
    "train",
    "validate",
    "validate_inference",
    "write_solution",
]


def __getattr__(name: str) -> Any:
    """`pddlvm.plot`, when it is first asked for: matplotlib takes a while to import."""
    if name == "plot":
        return import_module("pddlvm.plot")
    raise AttributeError(f"module 'pddlvm' has no attribute {name!r}")
