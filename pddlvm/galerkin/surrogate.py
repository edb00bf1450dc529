"""What a model on a reduced basis says about the data.

    mean(xi) = h(V c(xi) + L a(z)),     cov(xi) = H cov(u | z) H^T

c is the mean of the forward map or, corrected, the solution of the reduced problem, whose
derivative is that of an implicit function: dc/dxi = -(W^T K V)^+ d(W^T r)/dxi. Where K does not
depend on u and is a sum of few operators (`pddlvm.reduced.interpolated`), these give the solution
itself, for a tenth of what the residual on the mesh costs:

    c(xi) = -(W^T K V)^+ W^T r(0, z)

A search goes there first. Where it ends the mesh decides.
"""

from abc import abstractmethod
from copy import copy, deepcopy
from functools import cached_property

import torch
from torch import Tensor

from pddlvm.galerkin.answer import forward_of
from pddlvm.galerkin.model import GalerkinMaps
from pddlvm.galerkin.refinement import Tangent, correct_and_tangent
from pddlvm.latent.prediction import Prediction
from pddlvm.latent.surrogate import ModelSurrogate, Surrogate
from pddlvm.linalg.derivatives import linearise
from pddlvm.reduced.residual import ReducedModel
from pddlvm.sensors.observation import LinearObservation, Observation

__all__ = ["GalerkinSurrogate"]

_ROUND_OFF = 1e-12
_CHUNK = 128
"""Predictions that are made at once: matrices of more leave the caches."""
_MOST = 2**21
"""Values of solutions that are formed at once."""


class _InBasis(ModelSurrogate):
    """Data of coefficients in the basis, in float64.

    Mean and derivatives are those of the map in float64: the rounding of others depends on the size
    of a batch, and a search would end where its neighbours have it end.

    Args:
        model: a trained model.
        observation: sensors and noise.
    """

    def __init__(self, model: GalerkinMaps, observation: Observation) -> None:
        super().__init__(model, model.problem.prior, observation)
        self._rows: Tensor | None = None
        if isinstance(observation, LinearObservation):
            shown = model.exact.representation
            self._rows, offset = shown.seen(observation.matrix)
            self._rows = shown.units.u * self._rows
            self._rows[:, shown.n_modes] += offset

    @property
    def _at_once(self) -> int:
        """Predictions; corrections form solutions on the mesh."""
        room = _MOST // self.model.problem.n_dofs if self.corrections else _CHUNK
        return max(1, min(_CHUNK, room))

    @abstractmethod
    def coefficients(self, xi: Tensor) -> tuple[Tensor, Tangent | None]:
        """c, and W^T K (V, L) where c solves the reduced problem."""

    @abstractmethod
    def slope(self, xi: Tensor, c: Tensor, k: Tangent | None, of_lift: Tensor) -> Tensor:
        """dc/dxi, (batch, n_modes, d), with that of (1, b), (batch, n_lifts, d)."""

    def mean(self, xi: Tensor) -> Tensor:
        parts = xi.split(self._at_once)
        parts = [self._augmented(part, self.coefficients(part)[0]) for part in parts]
        return self._data(torch.cat(parts))

    def predict(self, xi: Tensor) -> Tensor:
        c = self.model.forward_map(xi.to(self.model.sigma_residual))[0].double().cpu()
        return self._data(self._augmented(xi, c))

    def linearise(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self._linearised(part) for part in xi.split(self._at_once)]
        data, slope = (torch.cat(part) for part in zip(*parts, strict=True))
        return data, slope

    def _linearised(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        c, k = self.coefficients(xi)
        a, slope = linearise(lambda at: self._augmented(at, c), xi)
        of_lift = slope[:, c.shape[1] :]
        slope = torch.cat([self.slope(xi, c, k, of_lift), of_lift], dim=1)
        if self._rows is not None:
            return self._data(a), self._rows @ slope
        at = a.detach().requires_grad_()
        data = self._data(at)
        rows = [
            torch.autograd.grad(data[:, i].sum(), at, retain_graph=True)[0]
            for i in range(data.shape[1])
        ]
        return data.detach(), torch.stack(rows, dim=1) @ slope

    def _data(self, a: Tensor) -> Tensor:
        if self._rows is not None:
            return a @ self._rows.T
        return self.observation.apply(a @ self.model.exact.representation.basis.T)

    def _augmented(self, xi: Tensor, c: Tensor) -> Tensor:
        return self.model.exact.augment(c, self.prior.unstandardise(xi))

    @property
    def _reduced(self) -> ReducedModel:
        return self.model.interpolated

    def _implicit(self, xi: Tensor, c: Tensor, k: Tangent, of_lift: Tensor) -> Tensor:
        """dc/dxi of the reduced solution, (batch, n_modes, d)."""
        z, by_xi = self.prior.with_slope(xi)
        slope = by_xi(self._reduced.slope(c, z)) + k.of_lift @ of_lift
        return -k.solve(slope)


class GalerkinSurrogate(_InBasis):
    """The forward map of a finite element problem, or its correction in the reduced basis.

    Args:
        model: a trained model.
        observation: sensors and noise.
        corrections: Newton steps in the reduced basis; 0 for the forward map as it is.
    """

    def __init__(self, model: GalerkinMaps, observation: Observation, corrections: int) -> None:
        super().__init__(model, observation)
        self.corrections = corrections
        self._forward_map = deepcopy(model.forward_map).double().cpu()

    def uncorrected(self) -> "GalerkinSurrogate":  # noqa: D102
        other = copy(self)
        other.corrections = 0
        return other

    def rough(self) -> Surrogate:  # noqa: D102
        if self.corrections and self._reduced.is_affine:
            return _Interpolated(self.model, self.observation)
        return self.uncorrected()

    def forward(self, z: Tensor) -> Prediction:  # noqa: D102
        parts = self.prior.standardise(z).split(self._at_once)
        c = torch.cat([self.coefficients(part)[0] for part in parts])
        found: Prediction = forward_of(self.model, z, self.corrections, c)
        return found

    def coefficients(self, xi: Tensor) -> tuple[Tensor, Tangent | None]:  # noqa: D102
        with torch.no_grad():
            c = self._forward_map(xi)[0]
            if not self.corrections:
                return c, None
            exact, z = self.model.exact, self.prior.unstandardise(xi)
            return correct_and_tangent(exact, self._reduced, c, z, self.corrections)

    def slope(  # noqa: D102
        self, xi: Tensor, c: Tensor, k: Tangent | None, of_lift: Tensor
    ) -> Tensor:
        if k is None:
            return linearise(lambda at: self._forward_map(at)[0], xi)[1]
        if not self._is_linear:
            tangent = self._reduced.tangent(c, self.prior.unstandardise(xi))
            k = Tangent(tangent, self._reduced.n_modes)
        return self._implicit(xi, c, k, of_lift)

    @cached_property
    def _is_linear(self) -> bool:
        """Is the stiffness the same whatever c is?"""
        reduced, reduction = self._reduced, self.model.reduction
        if reduced.is_affine:
            return True
        c = reduction.c[:1] / reduction.units.energy**0.5
        z = self.prior.unstandardise(reduction.xi[:1])
        here, there = reduced.stiffness(c, z), reduced.stiffness(-2 * c, z)
        return torch.allclose(here, there, rtol=0, atol=_ROUND_OFF * float(here.abs().max()))


class _Interpolated(_InBasis):
    """Solutions of a problem that is a sum of few operators, in the reduced basis."""

    def coefficients(self, xi: Tensor) -> tuple[Tensor, Tangent | None]:
        z = self.prior.unstandardise(xi)
        zero = xi.new_zeros(len(xi), self._reduced.n_modes)
        k = Tangent(self._reduced.tangent(zero, z), zero.shape[1])
        lift = self._reduced.augment(zero, z)[:, zero.shape[1] :, None]
        r = (k.of_lift @ lift)[..., 0] + self._reduced.load(z)
        return -k.solve(r[..., None])[..., 0], k

    def slope(self, xi: Tensor, c: Tensor, k: Tangent | None, of_lift: Tensor) -> Tensor:
        assert k is not None
        return self._implicit(xi, c, k, of_lift)
