"""The training of a collocation model: the forward map, then the inverse map."""

import torch
from torch import Tensor

from pddlvm.collocation import calibration
from pddlvm.collocation.model import CollocationMaps
from pddlvm.collocation.projection import fit_branch
from pddlvm.latent.core import Stage
from pddlvm.latent.elbo import AntitheticELBO
from pddlvm.latent.rows import Rows

__all__ = ["stages"]

_INVERSE_SHARE = 0.25
_N_SCALING = 256
_SEED = 1
"""That of `calibrate`, which then finds its draws there."""


def stages(model: CollocationMaps, calibrate: bool) -> tuple[Stage, ...]:
    """The forward map by its part of the ELBO, then the inverse map by the other.

    With u detached the two parts share no parameter; the inverse map learns from the final
    forward map (see `pddlvm.collocation.projection`), with the errors that it was found to have.
    """
    elbo = AntitheticELBO(scored=("c",)).per_draw(model)

    def forward_draw(rows: Rows, generator: torch.Generator) -> dict[str, Tensor]:
        return {"points": model.draw_points(generator)} | model.draw_sites(rows, generator)

    def forward_loss(rows: Rows, drawn: dict[str, Tensor]) -> Tensor:
        model.place(drawn["points"])
        with model.forward_map.alone():
            return elbo(rows, {name: x for name, x in drawn.items() if name != "points"})

    def half(rows: Rows) -> Rows:
        return rows.until(max(1, rows.total // 2))

    def inverse_draw(rows: Rows, generator: torch.Generator) -> dict[str, Tensor]:
        return model.draw_sites(half(rows), generator)

    def inverse_loss(rows: Rows, drawn: dict[str, Tensor]) -> Tensor:
        rows, xi, known = half(rows), drawn["xi"], drawn.get("known")
        with torch.no_grad():
            u = model.sample_fields(xi, model.problem.prior.unstandardise(xi.double()), rows)
        xi_known = None if known is None else xi * known
        mean, log_variance = model.read_field(u, xi_known, known)
        score = 0.5 * ((xi - mean).square() * (-log_variance).exp() + log_variance)
        return (score if known is None else score * (1 - known)).sum(-1).sum() / rows.total

    def hand_over() -> None:
        model.basis.freeze()
        fit_branch(model, model.seed + 1)
        if calibrate:
            calibration.calibrate_forward(model, calibration.default_n_samples(), _SEED)
        z = model.problem.prior.sample((_N_SCALING,), seed=model.seed)
        z = z.to(model.sigma_residual.device)
        with torch.no_grad():
            xi = model.problem.prior.standardise(z).to(model.sigma_residual)
            model.inverse_map.fit_scaling(model.basis.on_grid(model.forward_map(xi)[0], z))

    trained = (model.forward_map, model.basis.trunk)
    return (
        Stage("forward map", 1 - _INVERSE_SHARE, trained, forward_draw, forward_loss, model.begin),
        Stage(
            "inverse map",
            _INVERSE_SHARE,
            (model.inverse_map,),
            inverse_draw,
            inverse_loss,
            hand_over,
        ),
    )
