"""What a model in strong form says about the data: y = h(u(z)), with derivatives and an error.

    mean(xi) = H (I Phi c(xi) + lift(z)),    I from the nodes to the grid

For linear sensors H I Phi is one small matrix, wherever the nodes lie at the same places for any z.
"""

from copy import deepcopy

import scipy.sparse as sp
import torch
from torch import Tensor

from pddlvm.collocation.model import CollocationMaps
from pddlvm.latent.prediction import Prediction
from pddlvm.latent.surrogate import ModelSurrogate
from pddlvm.linalg.derivatives import linearise
from pddlvm.sensors.observation import LinearObservation, Observation
from pddlvm.strong import chebyshev

__all__ = ["CollocationSurrogate"]

_CHUNK = 256
"""Sensors whose rows are dense at a time."""


class CollocationSurrogate(ModelSurrogate):
    """The forward map of a problem in strong form, in float64.

    Its last layer is found by least squares: large weights that cancel, which float32 leaves rough
    to some 1e-4. The error of a prediction does not mind, its derivatives do.
    """

    def __init__(self, model: CollocationMaps, observation: Observation) -> None:
        super().__init__(model, model.problem.prior, observation)
        self._forward_map = deepcopy(model.forward_map).double().cpu()
        unit = model.basis.unit_at_nodes.reshape(-1, 1)
        self._at_nodes = (unit * model.basis.at_nodes.double()).cpu()
        is_fixed = not any(stretch.reads for stretch in model.problem.ansatz.stretch.values())
        self._rows: Tensor | None = None
        if isinstance(observation, LinearObservation) and is_fixed:
            self._rows = self._of_functions(observation.matrix)

    def forward(self, z: Tensor) -> Prediction:  # noqa: D102
        found: Prediction = self.model.forward(z, extrapolate=True)
        return found

    def mean(self, xi: Tensor) -> Tensor:  # noqa: D102
        with torch.no_grad():
            return self.predict(xi)

    def predict(self, xi: Tensor) -> Tensor:  # noqa: D102
        z = self.prior.unstandardise(xi)
        c, problem = self._forward_map(xi)[0], self.model.problem
        if self._rows is None:
            return self.observation.apply(self.model.basis.field_of(c @ self._at_nodes.T, z))
        lift = problem.ansatz.lift(z, problem.grid_points.unbind(-1))
        lift = lift.expand(torch.broadcast_shapes(lift.shape, (problem.n_dofs,)))
        return c @ self._rows.T + self.observation.apply(lift)

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return linearise(self.predict, xi)

    def _of_functions(self, h: sp.csr_matrix) -> Tensor:
        """H I Phi, the data of each function, (n, m)."""
        problem = self.model.problem
        anywhere = self.prior.unstandardise(torch.zeros(1, self.prior.size, dtype=torch.float64))
        s = problem.ansatz.locate(problem.axes, anywhere)
        back = [matrix.T for matrix in problem.form.matrices(s, problem.nodes)]
        parts = []
        for start in range(0, h.shape[0], _CHUNK):
            rows = torch.from_numpy(h[start : start + _CHUNK].toarray())
            at_nodes = [
                chebyshev.tensor_product(own.reshape(-1, *problem.grid), back).flatten(1)
                for own in rows.chunk(problem.unknowns.n, dim=1)
            ]
            parts.append(torch.cat(at_nodes, dim=1) @ self._at_nodes)
        return torch.cat(parts)
