"""The zero-residual likelihood at collocation points.

    log p(r^ = 0 | u, z)  =  -1/2 sum_i w_i (r_i / (eps R scale_i))^2  -  1/2 sum_j (g_j / tol_j)^2

of several unknowns with a sum over the equations of all, each with its own R. r is the residual in
strong form at points drawn anew for each step and shared by the draws of z, R its size for the lift
alone, `scale` the problem's, g the residuals of the conditions that are not hard. The weights w are
one, or follow the time (Wang, Sankaran, Perdikaris, 2022):

    w_i = exp(-rate * mean of the squares of r at times before t_i)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pddlvm.basics.checks import check_kind, check_real
from pddlvm.basics.errors import InputError
from pddlvm.collocation.trunk import Trunk
from pddlvm.strong.jets import Jet
from pddlvm.strong.problem import CollocationProblem

__all__ = ["Causal", "Collocation", "CollocationLikelihood"]


@dataclass(frozen=True)
class Causal:
    """Points count once the residual at earlier times is small.

    Attributes:
        coordinate: the time.
        rate: how small; 0 would switch it off.
    """

    coordinate: str = "t"
    rate: float = 1.0

    def __post_init__(self) -> None:
        check_kind(str, coordinate=self.coordinate)
        check_real(0, rate=self.rate)


@dataclass(frozen=True)
class Collocation:
    """Points of the reference box with the functions F phi_j and their derivatives there.

    The functions have no units and are of the dtype of the trunk; u has units and is float64.

    Attributes:
        s: reference coordinates, (n_points,) each, float64.
        basis: jet along s, (n_points, m) each, of several unknowns (n_unknowns, n_points, m).
        unit: size of u, () or (n_unknowns,).
    """

    s: tuple[Tensor, ...]
    basis: Jet
    unit: Tensor | float = 1.0

    @classmethod
    def at(
        cls, problem: CollocationProblem, trunk: Trunk, s: Tensor, unit: Tensor | float = 1.0
    ) -> "Collocation":
        """The functions of a trunk at points s (n_points, k)."""
        columns = s.to(trunk.layers[0].weight).unbind(-1)
        basis = problem.ansatz.weighted(trunk(problem.ansatz.features(columns)), columns)
        return cls(tuple(column.double() for column in columns), basis, unit)

    def split(self, sizes: list[int]) -> list["Collocation"]:
        """Parts of the given numbers of points."""
        s = list(zip(*(column.split(sizes) for column in self.s), strict=True))
        basis = {i: b.split(sizes, dim=-2) for i, b in self.basis.items()}
        return [
            Collocation(tuple(columns), {i: parts[k] for i, parts in basis.items()}, self.unit)
            for k, columns in enumerate(s)
        ]

    def jet(
        self, problem: CollocationProblem, c: Tensor, z: Tensor
    ) -> tuple[Jet, dict[str, Tensor]]:
        """u and its derivatives along x, and the values of coordinates and fields, float64.

        Of several unknowns they are stacks, see `pddlvm.strong.unknowns`.

        Args:
            problem: knows the geometry.
            c: (n_samples, m).
            z: (n_samples, d).
        """
        unit = problem.unknowns.beside_stacks(torch.as_tensor(self.unit))
        n = {i: unit * (c @ b.mT).double() for i, b in self.basis.items()}
        return problem.ansatz.assemble(n, self.s, z.double())


class CollocationLikelihood:
    """log p(r^ = 0 | c, z), see the module's docstring.

    Args:
        problem: the residual and the conditions.
        causal: weights in time.
    """

    def __init__(self, problem: CollocationProblem, causal: Causal | None) -> None:
        if causal is not None and causal.coordinate not in problem.box.names:
            raise InputError(f"no coordinate {causal.coordinate!r}; there are {problem.box.names}")
        self.problem = problem
        self.causal = causal
        self.inside: Collocation
        self.on_faces: list[Collocation] = []

    def __call__(self, c: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
        """Log likelihood up to a constant, (batch,); sigma = eps R, (1,) or a stack, float64."""
        square = (self.scaled(self.inside, c, z) / sigma).square()
        square = square if self.problem.unknowns.n == 1 else square.sum(0)
        if self.causal is not None:
            square = square * self._causal_weights(square)
        total = -0.5 * square.sum(-1)
        n = len(self.inside.s[0])
        functions = self.problem.condition_functions
        for at, condition, function in zip(
            self.on_faces, self.problem.conditions, functions, strict=True
        ):
            g = function(*at.jet(self.problem, c, z)) / condition.tolerance
            # As if there were as many points on the face as inside.
            total = total - 0.5 * n * g.square().expand(len(c), len(at.s[0])).mean(-1)
        return total.to(c)

    def scaled(self, at: Collocation, c: Tensor, z: Tensor) -> Tensor:
        """r / scale, (batch, n_points), or the stack of these."""
        return self.scaled_at(*at.jet(self.problem, c, z))

    def size(self, at: Collocation, c: Tensor, z: Tensor) -> Tensor:
        """Root mean square of r / scale, () or a stack of each equation."""
        r = self.scaled(at, c, z)
        size = r.square().mean((-2, -1), keepdim=r.ndim > 2).sqrt()
        # An equation that is fulfilled is weighed as the others are.
        largest = size.max()
        return torch.where(size > 0, size, largest if largest > 0 else 1.0)

    def scaled_at(self, jet: Jet, values: Mapping[str, Tensor], *, held: bool = True) -> Tensor:
        """r / scale where u has the given jet, (batch, n_points), or the stack of these.

        Held, the scale counts as a constant of u in derivatives: a training would else enlarge it.
        """
        seen = {i: u.detach() for i, u in jet.items()} if held else jet
        scale = self.problem.scale_function(seen, values)
        r = self.problem.residual_function(jet, values)
        return (r / scale).expand_as(jet[()])

    def _causal_weights(self, square: Tensor) -> Tensor:
        assert self.causal is not None
        time = self.inside.s[self.problem.box.names.index(self.causal.coordinate)]
        order = time.argsort()
        mean = square.detach().mean(0)[order]
        before = (mean.cumsum(0) - mean) / len(mean)
        weights = torch.empty_like(mean)
        weights[order] = (-self.causal.rate * before).exp()
        return weights
