"""pyMOR's greedy basis for a parabolic problem with its certified bound: one JSON row a size.

    M (u_n - u_{n-1}) / dt + (K_0 + sum_i sigma_i K_i) u_n = f,     u_0 = 0

Matrices come from a folder that `benchmarks.parabolic` has written, and what is found goes there:
the basis, and reduced trajectories of the test parameters for each size. Run where pyMOR is
installed, it needs nothing of pddlvm:

    python benchmarks/pymor_parabolic.py FOLDER SIZE [SIZE ...]
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from pymor.algorithms.greedy import rb_greedy
from pymor.algorithms.timestepping import ImplicitEulerTimeStepper
from pymor.core.logger import set_log_levels
from pymor.models.basic import InstationaryModel
from pymor.operators.constructions import LincombOperator, VectorOperator
from pymor.operators.numpy import NumpyMatrixOperator
from pymor.parameters.functionals import (
    ExpressionParameterFunctional,
    ProjectionParameterFunctional,
)
from pymor.reductors.parabolic import ParabolicRBReductor


def model(folder: Path) -> InstationaryModel:
    """The model on the mesh."""
    mass, *parts = (
        NumpyMatrixOperator(sp.load_npz(path).tocsc())
        for path in [folder / "mass.npz", *sorted(folder.glob("k*.npz"))]
    )
    given = np.load(folder / "given.npz")
    n = len(parts) - 1
    sigma = [ProjectionParameterFunctional("sigma", n, i) for i in range(n)]
    return InstationaryModel(
        T=1.0,
        initial_data=mass.source.zeros(1),
        operator=LincombOperator(parts, [1.0, *sigma]),
        rhs=VectorOperator(mass.source.from_numpy(given["f"][:, None])),
        mass=mass,
        time_stepper=ImplicitEulerTimeStepper(nt=int(given["n_steps"])),
        products={"l2": mass, "h1": LincombOperator(parts, [1.0] * len(parts)).assemble()},
    )


def run(folder: Path, sizes: list[int]) -> None:
    """Build the largest basis, and measure all sizes of it."""
    set_log_levels({"pymor": "ERROR"})
    fom, given = model(folder), np.load(folder / "given.npz")
    train, test = (
        [fom.parameters.parse({"sigma": row}) for row in given[name]] for name in ("train", "test")
    )
    # K(sigma) >= min(1, sigma_i) K(1).
    coercivity = ExpressionParameterFunctional("min([1., min(sigma)])", fom.parameters)
    reductor = ParabolicRBReductor(fom, product=fom.h1_product, coercivity_estimator=coercivity)
    start = time.process_time()
    most = max(sizes)
    rb_greedy(
        fom, reductor, train, max_extensions=most, atol=1e-9, extension_params={"method": "pod"}
    )
    seconds = time.process_time() - start
    np.save(folder / "basis.npy", reductor.bases["RB"].to_numpy())
    for n in sizes:
        part = reductor.reduce(dims={"RB": n})
        found, bounds, times, certified = [], [], [], []
        for mu in test:
            start = time.perf_counter()
            u = part.solve(mu)
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
            both = part.compute(solution=True, solution_error_estimate=True, mu=mu)
            certified.append(time.perf_counter() - start)
            bounds.append(float(both["solution_error_estimate"][-1]))
            # A column a vector, and the first of them the initial value.
            found.append(u.to_numpy()[:, 1:].T)
        np.save(folder / f"reduced_{n}.npy", np.stack(found))
        row = {
            "n": n,
            "query_ms": 1e3 * float(np.median(times)),
            "with_bound_ms": 1e3 * float(np.median(certified)),
            "set_up_s": seconds,
            "bounds": bounds,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
