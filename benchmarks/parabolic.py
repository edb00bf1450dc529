"""The thermal block in time: ours beside pyMOR's parabolic greedy basis, where it is installed.

Run:  python -m benchmarks.parabolic [--pymor PYTHON] [--seconds 60] [--n 84]

Both have the same matrices and the same 100 steps of backward Euler, for which pyMOR has its bound.
Errors are those of 50 draws, root mean squares relative in space and time: in L2, and in the
seminorm of H1, in which the bound is. A query is a trajectory in its basis. pyMOR is run by a
Python of its own: it is no part of our environment.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

import pddlvm
from benchmarks.run import table
from pddlvm.trajectory.steps import ReducedSteps
from problems import nonstationary_thermal_block as block

PYMOR = Path(__file__).parent / "pymor_parabolic.py"
SIZES = (8, 16, 24, 32)
N_STEPS, N_TEST, N_TRAIN = 100, 50, 200

Array = NDArray[np.float64]


class Truth:
    """The problem, its matrices on the free degrees of freedom, and solutions to compare with."""

    def __init__(self, n: int) -> None:
        steps = pddlvm.Stepping(1.0, N_STEPS, pddlvm.BackwardEuler())
        self.problem = problem = pddlvm.TransientProblem(block.make(n).steady, stepping=steps)
        self.free = problem.steady.free_dofs
        self.mass = problem.mass[self.free][:, self.free]
        nothing, one = torch.zeros(problem.n_dofs).double(), torch.zeros(4).double()
        self.whole = self.stiffness(one)
        # K is linear in sigma: twice the conductivity of one disc adds its part.
        twice = np.log(2.0) * torch.eye(4).double()
        self.parts = [self.stiffness(z) - self.whole for z in twice]
        self.plate = self.whole - sum(self.parts)
        self.f = -problem.steady.residual(nothing, one).numpy()
        self.z = problem.prior.sample((N_TEST,), seed=99)
        self.u = problem.solve(self.z)[..., self.free].numpy()

    def stiffness(self, z: Tensor) -> sp.csc_matrix:
        """K(z)."""
        return self.problem.steady.solver.matrix(torch.zeros(self.problem.n_dofs).double(), z)

    def write(self, folder: Path) -> None:
        """What pyMOR needs."""
        sp.save_npz(folder / "mass.npz", self.mass.tocsc())
        for i, part in enumerate([self.plate, *self.parts]):
            sp.save_npz(folder / f"k{i}.npz", part.tocsc())
        np.savez(
            folder / "given.npz",
            f=self.f,
            n_steps=N_STEPS,
            test=self.z.exp().numpy(),
            train=self.problem.prior.sample((N_TRAIN,), seed=98).exp().numpy(),
        )

    def errors(self, u: Array) -> dict[str, float]:
        """Of trajectories on the free degrees of freedom, (N_TEST, N, n_free)."""
        return {
            f"error in {name}": float(np.sqrt(np.mean(squares(u - self.u, k) / squares(self.u, k))))
            for name, k in (("L2", self.mass), ("H1", self.whole))
        }

    def bounded(self, u: Array) -> Array:
        """What the bound is of, (sum_n dt |e_n|_H1^2 + |e_N|_L2^2 / C)^{1/2}, (N_TEST,)."""
        e = u - self.u
        coercivity = self.z.exp().amin(1).clamp(max=1).numpy()
        last = squares(e[:, -1:], self.mass) * N_STEPS
        found: Array = np.sqrt(squares(e, self.whole) + last / coercivity)
        return found


def squares(u: Array, k: sp.csc_matrix) -> Array:
    """sum_n dt u_n . K u_n, (batch, N, n_free) -> (batch,)."""
    flat = u.reshape(-1, u.shape[-1])
    found: Array = (flat * (k @ flat.T).T).sum(1).reshape(u.shape[:2]).sum(1) / N_STEPS
    return found


def ours(truth: Truth, seconds: float) -> list[dict[str, Any]]:
    """The march in bases of all sizes, and the map and its corrections of one trained model."""
    problem, z = truth.problem, truth.z
    start = time.process_time()
    model = pddlvm.LatentVariableModel(problem, seed=0)
    set_up = time.process_time() - start
    rows = []
    for n in SIZES:
        steps = model.reduction.steps.first(n)

        def march(z: Tensor, steps: ReducedSteps = steps) -> Tensor:
            return steps.march(steps.drive(z))

        u = (march(z) @ steps.v.T).numpy()
        row = {"who": "pddlvm", "how": "march", "n": n, **truth.errors(u)}
        rows.append(row | {"query_ms": timed(march, z), "set_up_s": set_up})
    start = time.process_time()
    pddlvm.train(model, max_seconds=seconds)
    trained = time.process_time() - start
    for corrections, how in enumerate(("map", "modes")):

        def query(z: Tensor, corrections: int = corrections) -> Tensor:
            return model.forward(z, corrections=corrections).coefficients

        u = model.forward(z, corrections=corrections).mean[..., truth.free].numpy()
        row = {"who": "pddlvm", "how": how, "n": model.n_modes, **truth.errors(u)}
        row |= {"query_ms": timed(query, z), "set_up_s": set_up, "training_s": trained}
        rows.append(row | {"batch_ms": timed(query, z, len(z))})
    return rows


def pymor(python: str, truth: Truth) -> list[dict[str, Any]]:
    """The same by pyMOR."""
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        truth.write(folder)
        command = [python, str(PYMOR), name, *map(str, SIZES)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        basis = np.load(folder / "basis.npy")
        for line in found.splitlines():
            if not line.startswith("{"):
                continue
            row = json.loads(line)
            reduced = np.load(folder / f"reduced_{row['n']}.npy")
            u = np.einsum("fn,btn->btf", basis[:, : row["n"]], reduced)
            ratio = np.array(row.pop("bounds")) / truth.bounded(u)
            rows.append(
                {"who": "pyMOR", "how": "march", **row, **truth.errors(u)}
                | {"effectivity": float(np.median(ratio)), "least": float(ratio.min())}
            )
    return rows


def timed(query: Callable[[Tensor], Tensor], z: Tensor, size: int = 1) -> float:
    """Median over the draws, some at once, of the time for each, in ms."""
    times = []
    for part in z.split(size):
        start = time.perf_counter()
        query(part)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times) / size


def main() -> None:
    """One table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pymor", help="a Python that has pyMOR")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training")
    parser.add_argument("--n", type=int, default=84, help="cells a side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    truth = Truth(options.n)
    rows = pymor(options.pymor, truth) if options.pymor else []
    rows += ours(truth, options.seconds)
    names = list(dict.fromkeys(name for row in rows for name in row))
    table("The thermal block in time", [{k: row.get(k, "") for k in names} for row in rows])


if __name__ == "__main__":
    main()
