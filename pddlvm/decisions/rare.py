"""Probability of a rare event, q > v, of the finite element model by few of its solutions.

    P(q > v) = E_p* w h + E_p* w (1[f > v] - h),      w = N(eta; 0, I) / p*(eta)
    h = Phi((g + b - v) / s),      eta the parameters, as standard normal numbers

p* is made on the surrogate g (`pddlvm.decisions.cross_entropy`), where draws cost nothing; the
first mean is over many. Some solutions f near the surface g = v say by how much g is off there, b,
and how far around, s. The second mean, what g + b is still wrong by, comes from there too: of the
same draws some are solved, chosen with probabilities

    r_i ~ w_i / (1 + ((g_i + b - v) / s)^2),      mean_j  w_j (1[f_j > v] - h_j) / (N r_j)

Whatever g, b and s are, the sum has the mean P(q > v) (Hansen and Hurwitz, 1943, for the second);
the interval is Student's, with both of its errors.
"""

from dataclasses import dataclass, field, replace

import torch
from scipy.stats import t as student
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind, check_level, check_real
from pddlvm.basics.errors import InputError
from pddlvm.basics.random import check_seed, generator_of
from pddlvm.decisions.answers import Answers, solved
from pddlvm.decisions.cross_entropy import Mixture, most_likely
from pddlvm.decisions.draws import even_draws
from pddlvm.latent.core import LatentModel
from pddlvm.sensors.quantity import Quantity

__all__ = ["RareEvent", "rare_event"]

_LEAST_SOLVES = 12
_PILOT = 3
"""Solves for one that says what the surrogate is off by."""
_N_NEAR = 4000
_WORTH = 3
"""How many solves the first guess of s is worth."""
_GUESS, _N_FOR_SPREAD = 1e-2, 256
"""s in parts of the spread of g, before anything is solved."""
_N_SHOWN = 1000
_TINY = 1e-300


@dataclass(frozen=True)
class RareEvent:
    """P(q > v) of the prior.

    Attributes:
        probability: of the finite element model.
        surrogate_probability: as the surrogate says, with its error in it.
        std_error: of `probability`.
        z: draws of the prior given the event, by the surrogate, (n, d), the most likely first.
        solved_z: where the reference was solved, (reference_solves, d).
        solved: the quantity there, (reference_solves,).
    """

    probability: float
    surrogate_probability: float
    std_error: float
    z: Tensor = field(repr=False)
    solved_z: Tensor = field(repr=False)
    solved: Tensor = field(repr=False)
    _degrees: float = field(repr=False)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Lower and upper end of the interval of `probability`.

        Args:
            level: probability with which it holds P(q > v), between 0 and 1.
        """
        tail = 0.5 - 0.5 * check_level(level)
        reach = float(student.isf(tail, self._degrees)) * self.std_error
        return max(0.0, self.probability - reach), min(1.0, self.probability + reach)


def rare_event(
    model: LatentModel,
    quantity: Quantity,
    value: float,
    *,
    reference_solves: int = 50,
    n: int = 20_000,
    seed: int = 0,
) -> RareEvent:
    """P(q > value) over the prior, for small probabilities. For q < value give -q and -value.

    Args:
        model: a trained model.
        quantity: one number, of `model.problem`.
        value: v.
        reference_solves: reference solutions near the surface q = v, at least 12; side by side on
            the workers of `joblib.parallel_config`.
        n: draws of the surrogate near the event.
        seed: of the draws.

    Raises:
        InputError: a quantity of another problem, or of several numbers; too few solves.
        ConvergenceError: no place was found where the event happens, or a solution failed.
    """
    check_kind(LatentModel, model=model)
    check_kind(Quantity, quantity=quantity)
    check_real(value=value)
    check_count(_LEAST_SOLVES, reference_solves=reference_solves)
    check_count(100, n=n)
    answers = Answers(model, quantity)
    if quantity.n != 1:
        raise InputError(
            f"an event is about one number, and the quantity {quantity.name!r} has {quantity.n}; "
            "make one of each, or of their maximum"
        )
    generator = generator_of(check_seed(seed))
    spread = float(answers(even_draws(answers.prior, _N_FOR_SPREAD, seed)).std())
    s = max(_GUESS * spread, torch.finfo(torch.float64).eps * abs(value), _TINY)
    event = _Event(answers, value, 0.0, s, Mixture.standard(answers.prior.size))
    event = event.found(generator)
    pilot = event.near(event.draws(_N_NEAR, generator), reference_solves // _PILOT, generator)
    event = event.moved(pilot).found(generator)
    drawn = event.draws(n, generator)
    checked = event.near(drawn, reference_solves - reference_solves // _PILOT, generator)
    first = drawn.w * event.happens(drawn.g)
    second = checked.scale * ((checked.f > value).to(first) - event.happens(checked.g))
    variances = float(first.var()) / n, float(second.var()) / len(second)
    likely = torch.multinomial(first, min(n, _N_SHOWN), generator=generator)
    likely = likely[drawn.eta[likely].square().sum(1).argsort()]
    both = [pilot, checked]
    return RareEvent(
        probability=max(0.0, float(first.mean() + second.mean())),
        surrogate_probability=float(first.mean()),
        std_error=sum(variances) ** 0.5,
        z=event.z_of(drawn.eta[likely]),
        solved_z=event.z_of(torch.cat([one.eta for one in both])),
        solved=torch.cat([one.f for one in both]),
        _degrees=_degrees(variances, (n - 1, len(second) - 1)),
    )


@dataclass(frozen=True)
class _Drawn:
    """eta (n, d), their weights w and the surrogate g, (n,) each."""

    eta: Tensor
    w: Tensor
    g: Tensor


@dataclass(frozen=True)
class _Near:
    """Some of the draws, solved; scale is w / (N r), (m,)."""

    eta: Tensor
    g: Tensor
    f: Tensor
    scale: Tensor


@dataclass(frozen=True)
class _Event:
    """q > v, by a surrogate that is off by b, and s around."""

    answers: Answers
    value: float
    b: float
    s: float
    density: Mixture

    def z_of(self, eta: Tensor) -> Tensor:
        prior = self.answers.prior
        return prior.unstandardise(prior.from_normal(eta))

    def g(self, eta: Tensor) -> Tensor:
        return self.answers(self.answers.prior.from_normal(eta))[:, 0]

    def margin(self, g: Tensor) -> Tensor:
        return g + self.b - self.value

    def happens(self, g: Tensor) -> Tensor:
        """h."""
        return torch.special.ndtr(self.margin(g) / self.s)

    def found(self, generator: torch.Generator) -> "_Event":
        """With a density close to that of the event."""

        def margin(eta: Tensor) -> Tensor:
            return self.margin(self.g(eta))

        return replace(self, density=most_likely(margin, self.s, self.density, generator))

    def draws(self, n: int, generator: torch.Generator) -> _Drawn:
        mixture = self.density.with_wider()
        eta = mixture.sample(n, generator)
        return _Drawn(eta, mixture.log_weight(eta).exp(), self.g(eta))

    def near(self, drawn: _Drawn, n: int, generator: torch.Generator) -> _Near:
        """n of them, chosen near the surface and solved; who is chosen twice is solved once."""
        m = self.margin(drawn.g)
        r = drawn.w / (1 + (m / self.s).square())
        order = m.argsort()
        index = order[_systematic(r[order], n, generator)]
        few, place = index.unique(return_inverse=True)
        f = solved(self.answers.quantity, self.z_of(drawn.eta[few]))[place, 0]
        return _Near(drawn.eta[index], drawn.g[index], f, r.mean() * drawn.w[index] / r[index])

    def moved(self, pilot: _Near) -> "_Event":
        """With b and s as solutions near the surface say."""
        off = pilot.f - pilot.g
        b = float(off.mean())
        squares = float((off - b).square().sum()) + _WORTH * self.s**2
        return replace(self, b=b, s=(squares / (len(off) - 1 + _WORTH)) ** 0.5)


def _degrees(variances: tuple[float, float], degrees: tuple[int, int]) -> float:
    """Of freedom, of a sum of two means (Satterthwaite)."""
    squares = sum(v**2 / k for v, k in zip(variances, degrees, strict=True))
    return sum(variances) ** 2 / squares if squares > 0 else float(min(degrees))


def _systematic(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n indices, each as often as its weight says, evenly along their order."""
    levels = weights.cumsum(0) / weights.sum()
    shift = torch.rand((), generator=generator, dtype=weights.dtype)
    at = (torch.arange(n, dtype=weights.dtype) + shift) / n
    return torch.searchsorted(levels, at).clamp(max=len(weights) - 1)
