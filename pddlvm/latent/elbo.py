"""Pyro's ELBO, with less noise in the expectation of the residual likelihood.

With u drawn from q = N(m, S), and l(u) = log p(r^ = 0 | u, z),

    E_q l  =  l(m)  +  E_d [ (l(m + d) + l(m - d)) / 2 - l(m) ],      d ~ N(0, S).

The first term has no noise. The second is the effect of the spread of q; wherever l is quadratic
its gradient with respect to m is exactly zero (for a linear PDE, E_q Pi = Pi(m) + tr(K S) / 2), and
a small part of the batch estimates it without bias. Processes that share out a batch add up what
they find for their rows of it, and of that part.
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from pddlvm.latent.core import LatentModel, Stage
from pddlvm.latent.rows import Rows

__all__ = ["AntitheticELBO", "both_maps"]

_SHARE = 8
"""One sample in this many estimates the effect of the spread."""


class AntitheticELBO(Trace_ELBO):
    """The negative ELBO of a model and a guide with sites `c`, `xi` and `residual`.

    `c` must be reparametrised, and both programs take the batch size, or rows of a batch, as their
    first argument.

    Args:
        scored: sites that count, "c" for the forward map, "xi" for the inverse map, or both. In the
            detached objective they do not share a parameter and can be trained apart.
    """

    def __init__(self, scored: tuple[str, ...] = ("c", "xi")) -> None:
        super().__init__()
        self.scored = scored

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """- E_q [log p - log q], differentiable, summed over the rows that are here."""
        rows, rest = Rows.given(args[0]), args[1:]
        guided: Any = poutine.trace(guide).get_trace(*args, **kwargs)
        names = ("c", "xi", *(["known"] if "known" in guided.nodes else []))
        values = {name: guided.nodes[name]["value"] for name in names}
        c, mean = values["c"], guided.nodes["c"]["fn"].mean
        few = rows.until(-(-rows.total // _SHARE))
        n = len(few)

        def score(rows: Rows, values: dict[str, Tensor], *sites: str) -> Tensor:
            """Log densities of some sites of the model, (batch,), where others have values."""
            conditioned = poutine.condition(model, data=values)
            trace: Any = poutine.trace(conditioned).get_trace(rows, *rest, **kwargs)
            shown = [trace.nodes[site] for site in sites]
            return torch.stack([n["fn"].log_prob(n["value"]).to(c) for n in shown]).sum(0)

        d = c[:n] - mean[:n]
        points = {k: torch.cat([x, x[:n], x[:n]]) for k, x in values.items()}
        points["c"] = torch.cat([mean, mean[:n] + d, mean[:n] - d])
        at = score(rows + few + few, points, "residual")
        at_mean, plus, minus = at.split([len(rows), n, n])
        spread = 0.5 * (plus + minus) - at_mean[:n]
        likelihood = at_mean.sum() + rows.total / few.total * spread.sum()
        sites = [guided.nodes[name] for name in self.scored]
        log_q = torch.stack([node["fn"].log_prob(node["value"]) for node in sites]).sum()
        return log_q - likelihood - score(rows, values, *self.scored).sum()

    def per_draw(self, model: LatentModel) -> Callable[[Rows, dict[str, Tensor]], Tensor]:
        """Rows of a batch, values of some sites of the guide -> their share of the loss per draw.

        Args:
            model: the maps.
        """

        def loss(rows: Rows, drawn: dict[str, Tensor]) -> Tensor:
            guide = poutine.condition(model.guide, data=drawn)
            return self.differentiable_loss(model.model, guide, rows) / rows.total

        return loss


def both_maps(model: LatentModel, prepare: Callable[[], None]) -> Stage:
    """The stage that trains both maps at once, by the whole ELBO.

    Args:
        model: the maps.
        prepare: see `Stage`.
    """
    loss = AntitheticELBO().per_draw(model)
    networks = (model.forward_map, model.inverse_map)
    return Stage("both maps", 1.0, networks, model.draw_sites, loss, prepare)
