"""Distribution of a quantity over a prior or a posterior, its mean without a surrogate's bias.

    E q       =  f- + alpha (E g - g-)                      f-, g- means over the same few z
    var       =  s^2 (1/m + (E g - g-)^2 / sum (g_j - g-)^2) + alpha^2 var(mean_i g_i)
    P(q > v)  =  mean_i Phi((f- + alpha (g_i - g-) - v) / s)

g_i are values of the surrogate at many z, f_j = q(u(z_j)) those of m reference solutions, alpha the
slope of f on g by least squares, and s^2 what it leaves of f, with m - 2 degrees of freedom: a
control variate with its optimal coefficient, as in multifidelity Monte Carlo of two levels
(Peherstorfer, Willcox and Gunzburger, SIAM J. Sci. Comput. 38, 2016). However wrong g is, E q is
that of the finite element model; a good g makes its interval narrow. The interval is Student's of a
regression: exact where f is linear in g up to normal numbers, and for others as m grows. Without
reference solutions the line is g itself, and s the error that the model has for this quantity.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.stats import t as student
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind, check_level, numbers_of
from pddlvm.basics.errors import InputError
from pddlvm.basics.random import check_seed
from pddlvm.basics.unchanged import Unchanged
from pddlvm.decisions.answers import Answers, solved
from pddlvm.decisions.draws import even_draws
from pddlvm.inference.posterior import Posterior
from pddlvm.latent.core import LatentModel
from pddlvm.parameters.identity import is_like
from pddlvm.sensors.quantity import Quantity

__all__ = ["Propagated", "propagate"]

_N_FOR_ERROR = 64
_BISECTIONS = 60
_LEAST_SOLVES = 3


@dataclass(frozen=True)
class Propagated:
    """A quantity of n numbers over many z.

    Attributes:
        quantity: what was asked.
        z: the draws, (n_draws, d).
        values: of the surrogate there, (n_draws, n).
        mean, std: theirs, (n,).
        mean_error: standard error of the mean, as that of the surrogate, (n,).
        solved_z: where the reference was solved, (reference_solves, d).
        solved: the quantity there, by the reference, (reference_solves, n).
        predicted: the same by the surrogate.
    """

    quantity: Quantity
    z: Tensor
    values: Tensor
    mean_error: Tensor
    solved_z: Tensor
    solved: Tensor
    predicted: Tensor
    _answers: Answers
    _model: Unchanged[LatentModel]

    def __repr__(self) -> str:
        shown = ", ".join(f"{m:.5g} ± {s:.2g}" for m, s in zip(self.mean, self.std, strict=True))
        return (
            f"Propagated({self.quantity.name!r}: {shown}; {len(self.z)} draws, "
            f"{len(self.solved)} reference solves)"
        )

    @property
    def mean(self) -> Tensor:
        """Of the surrogate's values, (n,)."""
        return self.values.mean(0)

    @property
    def std(self) -> Tensor:
        """Spread of the surrogate's values, (n,)."""
        return self.values.std(0)

    @cached_property
    def surrogate_error(self) -> Tensor:
        """s, what the surrogate leaves of the quantity, (n,).

        By the reference solutions; without any, the error that the model has for this quantity,
        which `forward(z).of` fits to solutions of its own when it is first asked.

        Raises:
            InputError: there are no reference solves, and the model no errors of quantities.
        """
        if len(self.solved):
            return self._line.left
        self._model()
        some = self.z[torch.linspace(0, len(self.z) - 1, _N_FOR_ERROR).round().long()]
        return self._answers.error(self._answers.prior.standardise(some))

    def exceedance(self, value: "float | Tensor") -> Tensor:
        """P(q > value), with the error of the surrogate in it, (n,).

        For small probabilities see `pddlvm.rare_event`.

        Args:
            value: a number, or one for each of the quantity.
        """
        return 1 - self._distribution(self._levels(value, "value"))

    def quantiles(self, p: "float | list[float] | Tensor") -> Tensor:
        """Values that the quantity is below with probabilities p, (*p.shape, n).

        The error of the surrogate is in them.
        """
        levels = torch.as_tensor(numbers_of(p, "p"))
        if not ((levels > 0) & (levels < 1)).all():
            raise InputError(f"p must be probabilities between 0 and 1, got {p!r}")
        flat = levels.reshape(-1, 1)
        values, reach = self._expected, 10 * self.surrogate_error
        low = (values.amin(0) - reach).expand(len(flat), -1)
        high = (values.amax(0) + reach).expand(len(flat), -1)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            is_below = torch.stack([self._distribution(x) for x in middle]) < flat
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        return (0.5 * (low + high)).reshape(*levels.shape, -1)

    @property
    def corrected_mean(self) -> Tensor:
        """E q of the finite element model, by its reference solves, (n,).

        Raises:
            InputError: there were none.
        """
        return self._line.at(self.mean)

    def corrected_interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end of Student's interval of `corrected_mean`, (n,) each.

        Args:
            level: probability with which it holds E q, between 0 and 1.

        Raises:
            InputError: there were no reference solves.
        """
        tail, line = 0.5 - 0.5 * check_level(level), self._line
        variance = line.variance(self.mean) + (line.slope * self.mean_error).square()
        reach = float(student.isf(tail, len(self.solved) - 2)) * variance.sqrt()
        return self.corrected_mean - reach, self.corrected_mean + reach

    @cached_property
    def _line(self) -> "_Line":
        if not len(self.solved):
            raise InputError(
                "there were no reference solves; ask propagate(..., reference_solves=50)"
            )
        return _Line.of(self.predicted, self.solved)

    @cached_property
    def _expected(self) -> Tensor:
        """f that goes with each g, (n_draws, n)."""
        return self._line.at(self.values) if len(self.solved) else self.values

    def _distribution(self, at: Tensor) -> Tensor:
        """P(q <= at), (n,)."""
        # Values without an error have a step.
        s = self.surrogate_error.clamp(min=torch.finfo(self.values.dtype).tiny)
        return torch.special.ndtr((at - self._expected) / s).mean(0)

    def _levels(self, value: "float | Tensor", name: str) -> Tensor:
        found = torch.as_tensor(numbers_of(value, name))
        if found.shape not in ((), (self.quantity.n,)):
            raise InputError(
                f"{name} must be a number or {self.quantity.n} of them, one for each of the "
                f"quantity {self.quantity.name!r}, got shape {tuple(found.shape)}"
            )
        return found.expand(self.quantity.n)


@dataclass(frozen=True)
class _Line:
    """f on g by least squares, of m pairs, for each of n numbers.

    Attributes:
        f, g: means, (n,).
        slope: alpha, (n,); zero where g says the same everywhere.
        square: sum (g_j - g-)^2, (n,), infinite there.
        left: s, (n,).
        m: pairs.
    """

    f: Tensor
    g: Tensor
    slope: Tensor
    square: Tensor
    left: Tensor
    m: int

    @classmethod
    def of(cls, g: Tensor, f: Tensor) -> "_Line":
        df, dg, m = f - f.mean(0), g - g.mean(0), len(f)
        square = dg.square().sum(0)
        square = torch.where(square > 0, square, torch.inf)
        slope = (df * dg).sum(0) / square
        left = ((df - slope * dg).square().sum(0) / (m - 2)).sqrt()
        return cls(f.mean(0), g.mean(0), slope, square, left, m)

    def at(self, g: Tensor) -> Tensor:
        return self.f + self.slope * (g - self.g)

    def variance(self, g: Tensor) -> Tensor:
        return self.left.square() * (1 / self.m + (g - self.g).square() / self.square)


def propagate(
    model: LatentModel,
    quantity: Quantity,
    n: int = 10_000,
    *,
    reference_solves: int = 0,
    reference: Quantity | None = None,
    posterior: Posterior | None = None,
    seed: int = 0,
) -> Propagated:
    """Distribution of a quantity over the prior, or over a posterior.

    Args:
        model: a trained model.
        quantity: of `model.problem`.
        n: draws; of the prior as many as eight nets of Sobol have, which is more.
        reference_solves: reference solutions by which the mean is corrected, 0 or at least 3. They
            are computed side by side on the workers of `joblib.parallel_config`.
        reference: the same quantity of another problem, whose mean is meant: on a finer mesh for
            one, with the same parameters. By default that of the model.
        posterior: of one data set; by default the prior.
        seed: of the draws.

    Raises:
        InputError: a quantity of another problem, one or two reference solves, a batch of
            posteriors, a reference with other parameters.
        ConvergenceError: a reference solution failed.
    """
    check_kind(LatentModel, model=model)
    check_kind(Quantity, quantity=quantity)
    check_kind(Quantity | None, reference=reference)
    check_kind(Posterior | None, posterior=posterior)
    check_count(2, n=n)
    check_count(0, reference_solves=reference_solves)
    if 0 < reference_solves < _LEAST_SOLVES:
        raise InputError(
            f"reference_solves must be 0, or at least {_LEAST_SOLVES}: a slope and what it leaves "
            f"are fitted to them; got {reference_solves}"
        )
    answers, prior = Answers(model, quantity), model.problem.prior
    if reference is not None and repr(reference.problem.prior) != repr(prior):
        raise InputError(
            f"the reference is of problem {reference.problem.name!r} with the parameters "
            f"{reference.problem.prior!r}, the model has {prior!r}; they must be the same"
        )
    if reference is not None and reference.n != quantity.n:
        raise InputError(
            f"the reference has {reference.n} numbers and the quantity {quantity.n}; both must ask "
            "for the same"
        )
    check_seed(seed)
    if posterior is None:
        xi = even_draws(prior, n, seed)
        few = prior.sample((reference_solves,), seed=seed)
    else:
        _check_posterior(model, posterior)
        xi = prior.standardise(posterior.sample((n,), seed=seed).double().cpu())[:, None]
        few = posterior.sample((reference_solves,), seed=seed + 1).double().cpu()
    values = answers(xi)
    return Propagated(
        quantity=quantity,
        z=prior.unstandardise(xi.flatten(0, 1)),
        values=values.flatten(0, 1),
        mean_error=values.mean(1).std(0) / len(values) ** 0.5,
        solved_z=few,
        solved=solved(quantity if reference is None else reference, few),
        predicted=answers(prior.standardise(few)),
        _answers=answers,
        _model=Unchanged(model),
    )


def _check_posterior(model: LatentModel, posterior: Posterior) -> None:
    if posterior.batch:
        raise InputError(
            f"the posterior is that of a batch {tuple(posterior.batch)} of data sets; give that of "
            "one: model.infer(y[i], observation)"
        )
    if not is_like(model.problem, posterior.observation.problem):
        raise InputError(
            f"the posterior is of problem {posterior.observation.problem.name!r}, the model of "
            f"{model.problem.name!r} or of one with another mesh, other fields or other physics"
        )
