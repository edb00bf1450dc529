"""Priors by `torch.distributions`: Beta, Gamma, Weibull, ..., and correlated normal numbers.

    one number           z = T(y),   y = F^{-1}(Phi(xi))          F of the distribution
    several together     z = T(m + x),   x = L xi                 L L^T the covariance

xi ~ N(0, I). T are the transforms of a `TransformedDistribution`, which act on each number: the
exponential of a correlated normal is a correlated log-normal.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributions as td

from pddlvm.basics.checks import check_kind
from pddlvm.basics.errors import InputError
from pddlvm.parameters.priors import LogNormal, Normal, StandardNormal, Uniform
from pddlvm.parameters.quantiles import Univariate

__all__ = ["Distribution", "prior_of"]

Arrays = Mapping[str, NDArray[np.float64]]
_ST = scipy.stats

_KNOWN: dict[type[td.Distribution], Callable[[Arrays], Any]] = {
    td.Beta: lambda p: _ST.beta(p["concentration1"], p["concentration0"]),
    td.Chi2: lambda p: _ST.chi2(p["df"]),
    td.Exponential: lambda p: _ST.expon(scale=1 / p["rate"]),
    td.Gamma: lambda p: _ST.gamma(p["concentration"], scale=1 / p["rate"]),
    td.Gumbel: lambda p: _ST.gumbel_r(p["loc"], p["scale"]),
    td.HalfNormal: lambda p: _ST.chi(1, scale=p["scale"]),
    td.InverseGamma: lambda p: _ST.invgamma(p["concentration"], scale=p["rate"]),
    td.Laplace: lambda p: _ST.laplace(p["loc"], p["scale"]),
    td.LogNormal: lambda p: _ST.lognorm(p["scale"], scale=np.exp(p["loc"])),
    td.Normal: lambda p: _ST.norm(p["loc"], p["scale"]),
    td.Pareto: lambda p: _ST.pareto(p["alpha"], scale=p["scale"]),
    td.StudentT: lambda p: _ST.t(p["df"], p["loc"], p["scale"]),
    td.Uniform: lambda p: _ST.uniform(p["low"], p["high"] - p["low"]),
    td.Weibull: lambda p: _ST.weibull_min(p["concentration"], scale=p["scale"]),
}
_TRANSFORMS = (
    td.AffineTransform,
    td.ExpTransform,
    td.PowerTransform,
    td.SigmoidTransform,
    td.SoftplusTransform,
    td.TanhTransform,
)
_ARGUMENTS = ("loc", "scale", "exponent")
_FARTHEST = 12.0
"""Standard deviations that no search goes beyond."""


@dataclass(frozen=True, repr=False)
class Distribution(StandardNormal):
    """A distribution of `torch.distributions` as a prior.

    Fields take such a distribution as it is, `Constant(torch.distributions.Beta(2.0, 5.0))`, and
    make this of it. Numbers in float32 are taken as they are written: 0.3 is 0.3.

    Args:
        given: of one number, continuous and with a finite standard deviation; or of several: a
            `MultivariateNormal`, or parameters of shape (size,). They may be transformed by
            increasing or decreasing functions of each number.

    Attributes:
        given: the same in float64, a copy.

    Raises:
        InputError: a discrete distribution, one of vectors that is no normal one, one without a
            finite standard deviation, or one that is not known here.
    """

    given: td.Distribution
    _base: "Univariate | _Correlated" = field(init=False)
    _transforms: tuple[td.Transform, ...] = field(init=False)
    _text: str = field(init=False)

    def __post_init__(self) -> None:
        check_kind(td.Distribution, given=self.given)
        base, steps = _taken_apart(self.given)
        _check(base, steps)
        base, text = _owned(base)
        transforms = tuple(_owned_transform(t) for t in steps)
        found = _correlated(base) if isinstance(base, td.MultivariateNormal) else _univariate(base)
        given = td.TransformedDistribution(base, list(transforms)) if transforms else base
        own = {"given": given, "_base": found, "_transforms": transforms}
        for name, value in own.items():
            object.__setattr__(self, name, value)
        parts = [text, *(f"{type(t).__name__}({_numbers(vars(t))})" for t in transforms)]
        object.__setattr__(self, "_text", " -> ".join(parts))
        far = torch.full((2, self.size or 1), _FARTHEST, dtype=torch.float64)
        if not torch.isfinite(self.of_mixed(far * far.new_tensor([[-1.0], [1.0]]))).all():
            raise InputError(f"draws of {self} overflow; choose other units")

    def __repr__(self) -> str:
        return f"Distribution({self._text})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Distribution) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[type["Distribution"], tuple[td.Distribution]]:
        return Distribution, (self.given,)

    @property
    def size(self) -> int | None:  # noqa: D102
        shape = self.given.batch_shape + self.given.event_shape
        return shape[0] if shape else None

    @property
    def mixing(self) -> Tensor | None:  # noqa: D102
        if not isinstance(self._base, _Correlated):
            return None
        return self._sign * self._base.factor

    @property
    def is_torch(self) -> bool:  # noqa: D102
        return isinstance(self._base, _Correlated)

    def of_mixed(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self._base.of_score(self._sign * x)
        for transform in self._transforms:
            y = transform(y)
        return y.to(x)

    def standardise(self, z: Tensor) -> Tensor:  # noqa: D102
        score = self._base.score(self._untransformed(z))
        if not isinstance(self._base, _Correlated):
            return self._sign * score
        solved = torch.linalg.solve_triangular(
            self._base.factor.to(z), score[..., None], upper=False
        )
        return solved[..., 0]

    def unstandardise(self, xi: Tensor) -> Tensor:  # noqa: D102
        mixing = self.mixing
        return self.of_mixed(xi if mixing is None else xi @ mixing.to(xi).T)

    def contains(self, z: Tensor) -> Tensor:  # noqa: D102
        return torch.isfinite(z) & self._base.contains(self._untransformed(z))

    def log_prob(self, z: Tensor) -> Tensor:  # noqa: D102
        is_inside = self.contains(z)
        # Something harmless where z is outside, so that no NaN arises.
        z = torch.where(is_inside, z, self.of_mixed(torch.zeros_like(z)))
        ys = [self._untransformed(z, k) for k in range(len(self._transforms) + 1)]
        density = self._base.log_prob(ys[0])
        for transform, y, image in zip(self._transforms, ys[:-1], ys[1:], strict=True):
            density = density - transform.log_abs_det_jacobian(y, image)
        return torch.where(is_inside, density, -torch.inf).to(z)

    def _untransformed(self, z: Tensor, k: int = 0) -> Tensor:
        """Y of z before the last transforms, from number k on."""
        for transform in self._transforms[k:][::-1]:
            z = transform.inv(z).to(z)
        return z

    @property
    def _sign(self) -> float:
        """-1 where the transforms together decrease: z is to increase with x."""
        return math.prod(float(torch.as_tensor(t.sign).max()) for t in self._transforms)


@dataclass(frozen=True)
class _Correlated:
    """N(mean, L L^T).

    Attributes:
        mean: (size,).
        factor: L, (size, size).
    """

    mean: Tensor
    factor: Tensor

    def of_score(self, x: Tensor) -> Tensor:
        return self.mean.to(x) + x

    def score(self, y: Tensor) -> Tensor:
        return y - self.mean.to(y)

    def contains(self, y: Tensor) -> Tensor:
        return torch.isfinite(y)

    def log_prob(self, y: Tensor) -> Tensor:
        """Of each number given those before it."""
        factor = self.factor.to(y)
        xi = torch.linalg.solve_triangular(factor, self.score(y)[..., None], upper=False)[..., 0]
        return -0.5 * xi.square() - 0.5 * math.log(2 * math.pi) - factor.diagonal().log()


def prior_of(value: Any) -> Any:
    """The prior of a distribution of torch; anything else as it is.

    Raises:
        InputError: see `Distribution`.
    """
    if not isinstance(value, td.Distribution):
        return value
    ours = {td.Normal: Normal, td.LogNormal: LogNormal, td.Uniform: Uniform}.get(type(value))
    if ours is None or value.batch_shape:
        return Distribution(value)
    names = ("low", "high") if ours is Uniform else ("loc", "scale")
    return ours(*(float(_decimal(getattr(value, name))) for name in names))


def _taken_apart(given: td.Distribution) -> tuple[td.Distribution, list[td.Transform]]:
    """A distribution without transforms, and these in the order in which they are applied."""
    if isinstance(given, td.Independent):
        return _taken_apart(given.base_dist)
    if type(given) is not td.TransformedDistribution:
        return given, []
    base, first = _taken_apart(given.base_dist)
    parts: list[td.Transform] = []
    for t in given.transforms:
        parts += t.parts if isinstance(t, td.ComposeTransform) else [t]
    return base, first + parts


def _check(base: td.Distribution, transforms: Sequence[td.Transform]) -> None:
    name = type(base).__name__
    is_normal = isinstance(base, td.MultivariateNormal | td.LowRankMultivariateNormal)
    if is_normal and base.batch_shape:
        raise InputError(
            f"a prior by {name} is that of one vector of numbers, and this one is a batch "
            f"{tuple(base.batch_shape)} of them"
        )
    if len(base.batch_shape) > 1:
        raise InputError(
            f"a prior by {name} has parameters of shape {tuple(base.batch_shape)}, expected one "
            "number, or (size,) for the numbers of a field"
        )
    if not is_normal:
        if isinstance(base, td.Categorical) or _is_discrete(base):
            raise InputError(
                f"{name} is discrete, and a parameter of a PDE needs a density: take a continuous "
                "distribution, or a problem for each of the values"
            )
        if base.event_shape:
            raise InputError(
                f"{name} is a distribution of vectors or matrices whose entries are tied together; "
                "of such ones MultivariateNormal can be a prior, as it is or transformed by "
                "functions of each number"
            )
        if isinstance(base, td.Cauchy | td.HalfCauchy):
            raise InputError(f"{name} has no finite standard deviation, which a prior needs")
        if type(base) not in _KNOWN:
            known = ", ".join(sorted(k.__name__ for k in _KNOWN))
            raise InputError(
                f"{name} cannot be a prior; MultivariateNormal can, and {known}, and these "
                "transformed by functions of each number. For any other write a subclass of "
                "pddlvm.Prior"
            )
    for transform in transforms:
        if type(transform) not in _TRANSFORMS or not _has_one_sign(transform):
            known = ", ".join(t.__name__ for t in _TRANSFORMS)
            raise InputError(
                f"a prior cannot be transformed by {type(transform).__name__}, which must be an "
                f"increasing or a decreasing function of each number: {known}"
            )


def _is_discrete(base: td.Distribution) -> bool:
    try:
        return bool(base.support.is_discrete)  # type: ignore[union-attr]
    except NotImplementedError:
        return False


def _has_one_sign(transform: td.Transform) -> bool:
    try:
        sign = torch.as_tensor(transform.sign)
    except NotImplementedError:
        return False
    return sign.unique().numel() == 1 and bool((sign != 0).all())


def _decimal(value: Any) -> Tensor:
    """Numbers in float64; of those in float32 the shortest decimals that they stand for."""
    given = torch.as_tensor(value).detach().cpu()
    if given.dtype != torch.float32:
        return given.to(torch.float64, copy=True)
    flat = [float(str(np.float32(x))) for x in given.flatten().tolist()]
    return torch.tensor(flat, dtype=torch.float64).reshape(given.shape)


def _owned(base: td.Distribution) -> tuple[td.Distribution, str]:
    """A copy in float64, and a text that has all of its numbers."""
    if isinstance(base, td.MultivariateNormal | td.LowRankMultivariateNormal):
        if isinstance(base, td.LowRankMultivariateNormal) or "covariance_matrix" in vars(base):
            factor = torch.linalg.cholesky(_decimal(base.covariance_matrix))
        else:
            factor = _decimal(base.scale_tril)
        normal = td.MultivariateNormal(_decimal(base.loc), scale_tril=factor)
        numbers = {"loc": normal.loc, "scale_tril": factor}
        return normal, f"MultivariateNormal({_numbers(numbers)})"
    # Those of Chi2 and HalfNormal are properties of what they are made of.
    numbers = {k: _decimal(getattr(base, k)) for k in base.arg_constraints}
    return type(base)(**numbers), f"{type(base).__name__}({_numbers(numbers)})"


def _owned_transform(transform: td.Transform) -> td.Transform:
    kind: Any = type(transform)
    return kind(**{k: _decimal(v) for k, v in vars(transform).items() if k in _ARGUMENTS})


def _numbers(values: Mapping[str, Any]) -> str:
    wanted = {k: v for k, v in values.items() if isinstance(v, Tensor)}
    return ", ".join(f"{k}={v.tolist()}" for k, v in wanted.items())


def _univariate(base: td.Distribution) -> Univariate:
    numbers = {k: getattr(base, k).numpy() for k in base.arg_constraints}
    found = Univariate(_KNOWN[type(base)](numbers), base)
    std = found.quantiles.std()
    if not np.isfinite(std).all():
        raise InputError(
            f"{type(base).__name__} with these parameters has no finite standard deviation, which "
            "a prior needs; take lighter tails"
        )
    return found


def _correlated(base: td.MultivariateNormal) -> _Correlated:
    return _Correlated(base.loc, base.scale_tril)
