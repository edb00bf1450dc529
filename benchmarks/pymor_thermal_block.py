"""pyMOR's greedy reduced basis with its certified bound, on its thermal block: one JSON row a size.

Run where pyMOR is installed, it needs nothing of pddlvm:

    python benchmarks/pymor_thermal_block.py BLOCKS SIZE [SIZE ...]
"""

import json
import sys
import time

import numpy as np
from pymor.algorithms.greedy import rb_greedy
from pymor.analyticalproblems.thermalblock import thermal_block_problem
from pymor.core.logger import set_log_levels
from pymor.discretizers.builtin import discretize_stationary_cg
from pymor.discretizers.builtin.grids.tria import TriaGrid
from pymor.parameters.functionals import ExpressionParameterFunctional
from pymor.reductors.coercive import CoerciveRBReductor

N_TEST, N_TRAIN = 100, 300


def run(blocks: int, sizes: list[int]) -> None:
    """Build the largest basis, and measure all sizes of it."""
    set_log_levels({"pymor": "ERROR"})
    problem = thermal_block_problem((blocks, blocks), parameter_range=(0.1, 1.0))
    fom, _ = discretize_stationary_cg(problem, diameter=1 / 30, grid_type=TriaGrid)
    product = fom.h1_0_semi_product
    # K(mu) >= min(mu) K(1): the bound at points, for this product.
    coercivity = ExpressionParameterFunctional("min(diffusion)", fom.parameters)
    space = problem.parameter_space
    test = space.sample_randomly(N_TEST)
    truth = [fom.solve(mu) for mu in test]
    reductor = CoerciveRBReductor(fom, product=product, coercivity_estimator=coercivity)
    train = space.sample_randomly(N_TRAIN)
    start = time.process_time()
    rb_greedy(fom, reductor, train, max_extensions=max(sizes), atol=1e-9)
    seconds = time.process_time() - start
    for n in sizes:
        part = reductor.reduce(dims={"RB": n})
        errors, effectivities, times = [], [], []
        for mu, u in zip(test, truth, strict=True):
            start = time.perf_counter()
            c, bound = part.solve(mu), part.estimate_error(mu)
            times.append(time.perf_counter() - start)
            error = (u - reductor.reconstruct(c)).norm(product)[0]
            errors.append(error / u.norm(product)[0])
            effectivities.append(float(np.ravel(bound)[0]) / error)
        row = {
            "n": n,
            "dofs": fom.order,
            "error": float(np.sqrt(np.mean(np.square(errors)))),
            "effectivity": float(np.median(effectivities)),
            "query_ms": 1e3 * float(np.median(times)),
            "set_up_s": seconds,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    run(int(sys.argv[1]), [int(size) for size in sys.argv[2:]])
