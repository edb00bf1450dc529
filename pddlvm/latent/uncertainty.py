"""Calibrated variances of both maps.

    c:            var = factor^2 exp(2 log |c| + 2 log rho + shift + 2 s(xi, log rho))
    rest of u:    var = factor^2 exp(2 log |c| + shift + 2 s(xi)),  corrected: + 2 log rho
    xi:           var = factor^2 exp(base + shift + 2 s(xi, base, misfit, what is known))

rho is the size of the residual of each query. Level 0 is a map as it is, where rho sees what lies
in the basis, |V^T r|; level 1 after corrections, where that is round-off, and rho the certificate,
which sees the rest. The factors make std the root mean square of the error; the
distribution of error / std is an `ErrorShape`, fitted with them, both to errors whose variance was
fitted without them. Of several fields each has a factor and a shape of its own.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pddlvm.basics.errors import UncalibratedWarning
from pddlvm.latent.error_shape import ErrorShape
from pddlvm.latent.variance_model import VarianceModel
from pddlvm.parameters.space import ParameterSpace

__all__ = ["Uncertainty", "unseen"]

_MAX_PATTERNS = 64
_MIN_SCORES = 100
"""Errors behind a quantile; with fewer, those of all samples are taken."""
_IS_SEEN = ContextVar("_IS_SEEN", default=True)


@contextmanager
def unseen() -> Iterator[None]:
    """Answers that no user sees: nothing is said of what they are worth."""
    token = _IS_SEEN.set(False)
    try:
        yield
    finally:
        _IS_SEEN.reset(token)


class Uncertainty(nn.Module):
    """Variance models and factors; all that `calibrate` fits.

    Args:
        prior: for the blocks of z.
        n_modes: length of c.
        n_dofs: length of u.
        fixed_dofs: entries of u that have no spread.
        dtype: of everything.
        field_of: number of the field of each entry of u, (n_dofs,); one for all by default.
        n_levels: of the forward map: as it is, and corrected in so many ways but one.
    """

    is_calibrated: Tensor
    factor_u: Tensor
    relative_u: Tensor
    factor_xi: Tensor
    shape_u: Tensor
    shape_xi: Tensor
    fixed: Tensor
    field_of: Tensor
    c: list[VarianceModel]
    rest: list[VarianceModel]
    xi: list[VarianceModel]

    def __init__(
        self,
        prior: ParameterSpace,
        n_modes: int,
        n_dofs: int,
        fixed_dofs: NDArray[np.int64],
        dtype: torch.dtype,
        field_of: NDArray[np.int64] | None = None,
        n_levels: int = 2,
    ) -> None:
        super().__init__()
        d = prior.size
        self.c = _list(VarianceModel(d + 1, n_modes) for _ in range(n_levels))
        self.rest = _list(VarianceModel(d, n_dofs) for _ in range(n_levels))
        self.xi = _list(VarianceModel(2 * d + 2, d) for _ in range(2))
        self.register_buffer("is_calibrated", torch.tensor(False))
        field_of = np.zeros(1, dtype=np.int64) if field_of is None else field_of
        n_fields = int(field_of.max()) + 1
        self.register_buffer("factor_u", torch.ones(n_levels))
        # The factors of all fields relative to the first.
        self.register_buffer("relative_u", torch.ones(n_levels, n_fields))
        # One for each set of known blocks, so long as there are few.
        n_patterns = 2 ** len(prior.blocks)
        n_patterns = n_patterns if n_patterns <= _MAX_PATTERNS else 1
        self.register_buffer("factor_xi", torch.ones(2, n_patterns))
        gaussian = ErrorShape.gaussian(torch.empty(())).values
        self.register_buffer("shape_u", gaussian.repeat(n_levels, n_fields, 1))
        self.register_buffer("shape_xi", gaussian.repeat(2, n_patterns, 1))
        self.register_buffer("fixed", torch.from_numpy(fixed_dofs))
        self.register_buffer("field_of", torch.from_numpy(field_of))
        self.starts = [part.start for part in prior.slices.values()]
        self.to(dtype)

    def warn_if_not_fitted(self) -> None:
        """Say that the error bars of an answer are worth nothing."""
        if _IS_SEEN.get() and not self.is_calibrated:
            warnings.warn(
                "this model was never calibrated: it may be far off, and its error bars do not "
                "know it; pddlvm.train(model) trains and then calibrates, model.calibrate() fits "
                "the error bars to the maps as they are",
                UncalibratedWarning,
                stacklevel=2,
            )

    def forward_features(
        self, xi: Tensor, log_size: Tensor, log_residual: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features and base log variance of c; log_size = log |c|, log_residual (batch, 1) each."""
        return torch.cat([xi, log_residual], dim=-1), 2 * (log_size + log_residual)

    def rest_base(self, log_size: Tensor, log_residual: Tensor, level: int) -> Tensor:
        """Base log variance of the rest, (batch, 1)."""
        return 2 * (log_size + log_residual if level else log_size)

    def forward_variances(
        self, xi: Tensor, log_size: Tensor, log_residual: Tensor, level: int
    ) -> tuple[Tensor, Tensor]:
        """Variances of c, (batch, n_modes), and of the rest of u, (batch, n_dofs)."""
        # Far from the prior it may overflow, and infinity times nothing is no number.
        most = torch.finfo(xi.dtype).max ** 0.75
        features = self.forward_features(xi, log_size, log_residual)
        var_c = self.c[level](*features).exp().clamp(max=most)
        base = self.rest_base(log_size, log_residual, level)
        var_rest = self.rest[level](xi, base).exp().clamp(max=most).index_fill(1, self.fixed, 0.0)
        return self.factor_u[level] ** 2 * var_c, self.factor_u[level] ** 2 * var_rest

    @property
    def n_fields(self) -> int:
        """Fields of u, each with a factor and a shape."""
        return self.relative_u.shape[1]

    def forward_shape(self, level: int) -> ErrorShape:
        """Distribution of error / std of u; of several fields one for each entry of u."""
        values = self.shape_u[level]
        return ErrorShape(values[0].clone() if self.n_fields == 1 else values[self.field_of])

    def spread(self, level: int) -> Tensor:
        """What multiplies the standard deviation of each entry of u, (n_dofs,), or of all (1,)."""
        return self.relative_u[level][self.field_of]

    def inverse_shape(self, known: Tensor, level: int) -> ErrorShape:
        """Distribution of error / std of xi, for each sample."""
        self.warn_if_not_fitted()
        return ErrorShape(self.shape_xi[level][self.known_pattern(known)])

    def fit_forward_shape(self, level: int, scores: list[Tensor]) -> None:
        """Factor and shape of each field from its error / std at factor 1, (n_samples, n) each."""
        factors = []
        for number, own in enumerate(scores):
            shape, factor = ErrorShape.of_scores(own)
            factors.append(factor)
            self.shape_u[level, number].copy_(shape.values)
        first = factors[0] if factors[0] or len(factors) == 1 else 1.0
        self.factor_u[level] = first
        others = [factor / first for factor in factors[1:]]
        self.relative_u[level] = torch.tensor([factors[0] / first if first else 1.0, *others])

    def fit_inverse_shape(self, level: int, pattern: int, scores: Tensor, counts: Tensor) -> None:
        """Factor and shape for a set of known blocks, from scores (n_samples, d) that count."""
        shape, factor = ErrorShape.of_scores(scores, counts)
        self.factor_xi[level, pattern] = factor
        self.shape_xi[level, pattern].copy_(shape.values)

    def fit_inverse_shapes(self, level: int, known: Tensor, scores: Tensor, counts: Tensor) -> None:
        """Those of all sets of known blocks, (n_samples, d), from samples that have them."""
        pattern = self.known_pattern(known)
        for k in range(self.factor_xi.shape[1]):
            seen = pattern == k
            rows = seen if int(counts[seen].sum()) >= _MIN_SCORES else torch.ones_like(seen)
            self.fit_inverse_shape(level, k, scores[rows], counts[rows])

    def inverse_std(self, features: Tensor, base: Tensor, known: Tensor, level: int) -> Tensor:
        """Standard deviations of xi, (batch, d); those of the map itself until calibrated."""
        if not self.is_calibrated:
            return (0.5 * base).exp()
        factor = self.factor_xi[level][self.known_pattern(known)][:, None]
        return factor * (0.5 * self.xi[level](features, base)).exp()

    def known_pattern(self, known: Tensor) -> Tensor:
        """Number of the set of known blocks of each sample, (batch,), from their mask."""
        if self.factor_xi.shape[1] == 1:
            return known.new_zeros(len(known), dtype=torch.int64)
        bits = 2 ** torch.arange(len(self.starts), device=known.device)
        return (known[:, self.starts].long() * bits).sum(-1)


def _list(models: Iterable[VarianceModel]) -> list[VarianceModel]:
    return cast(list[VarianceModel], nn.ModuleList(models))
