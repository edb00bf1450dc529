"""Physics-informed DeepONet (Wang et al., 2021) by DeepXDE, with zero coordinate shift.

    laplace(u) + grad(log kappa) . grad(u) + f / kappa = 0,   u = x (1 - x) y (1 - y) net

The branch reads log kappa at 10 x 10 places, the trunk the place; the boundary values are built in.
Networks, activation and optimiser are those of its examples of aligned operators.
"""

import os
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.case import Case

__all__ = ["run"]

SOURCE = 10.0
N_FUNCTIONS, N_POINTS, BATCH = 2000, 400, 50
RATES = (5e-4, 1e-3, 2e-3)
_STEP = 1e-4


def run(case: Case, seconds: float, seed: int = 0) -> list[dict[str, Any]]:
    """One row for each learning rate."""
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    return [_trained(case, seconds, rate, seed) for rate in RATES]


def _trained(case: Case, seconds: float, rate: float, seed: int) -> dict[str, Any]:
    import deepxde as dde

    start = time.perf_counter()
    dde.config.set_random_seed(seed)
    prior = case.problem.prior
    sensors = np.stack(np.meshgrid(*[np.linspace(0.05, 0.95, 10)] * 2), axis=-1).reshape(-1, 2)

    def shapes(x: np.ndarray) -> np.ndarray:
        return case.shapes(x).numpy()

    class Prior(dde.data.function_spaces.FunctionSpace):
        """log kappa at the sensors, and with its gradient at collocation points."""

        def random(self, size: int) -> np.ndarray:
            return prior.sample((size,), seed=seed).numpy()

        def eval_one(self, feature: np.ndarray, x: np.ndarray) -> np.ndarray:
            return self.eval_batch(feature[None], x)[0]

        def eval_batch(self, features: np.ndarray, xs: np.ndarray) -> np.ndarray:
            values = features @ shapes(xs).T
            if xs is sensors:
                return values.astype(np.float32)
            steps = _STEP * np.eye(2)
            slopes = [features @ (shapes(xs + h) - shapes(xs - h)).T / (2 * _STEP) for h in steps]
            return np.stack([values, *slopes], axis=-1).astype(np.float32)

    def residual(zcs: Any, u: Tensor, aux: Tensor) -> Tensor:
        of = dde.zcs.LazyGrad(zcs, u)
        laplacian = of.compute((2, 0)) + of.compute((0, 2))
        first = aux[..., 1] * of.compute((1, 0)) + aux[..., 2] * of.compute((0, 1))
        return laplacian + first + SOURCE * torch.exp(-aux[..., 0])

    def zero_at_the_boundary(inputs: tuple[Tensor, Tensor], u: Tensor) -> Tensor:
        x, y = inputs[1].T
        return u * (16 * x * (1 - x) * y * (1 - y))

    square = dde.geometry.Rectangle([0, 0], [1, 1])
    pde = dde.data.PDE(square, residual, [], num_domain=N_POINTS, train_distribution="Hammersley")
    data = dde.zcs.PDEOperatorCartesianProd(
        pde, Prior(), sensors, N_FUNCTIONS, num_test=10, batch_size=BATCH
    )
    net = dde.nn.DeepONetCartesianProd(
        [len(sensors), 128, 128, 128], [2, 128, 128, 128], "tanh", "Glorot normal"
    )
    net.apply_output_transform(zero_at_the_boundary)
    model = dde.zcs.Model(data, net)
    model.compile("adam", lr=rate, decay=("step", 2000, 0.9))
    left = seconds - (time.perf_counter() - start)
    model.train(iterations=10**7, display_every=10**6, callbacks=[dde.callbacks.Timer(left / 60)])
    taken = time.perf_counter() - start
    at_sensors = torch.from_numpy(shapes(sensors)).float()
    nodes = torch.from_numpy(case.problem.space.dof_points).float()

    @torch.no_grad()
    def predict(z: Tensor) -> Tensor:
        return net((z.float() @ at_sensors.T, nodes))

    setting = f"{model.train_state.step} steps, rate {rate:g}"
    return case.row(f"DeepXDE {dde.__version__}, PI-DeepONet", setting, taken, predict)
