"""Flow with inertia: orders of a manufactured solution, and published velocities at Re = 100."""

import math

import numpy as np
import pytest
import torch
from manufactured import manufactured, material, observed_orders, vortex, wave

import pddlvm
from pddlvm import fem
from problems.navier_stokes import make, navier_stokes
from problems.stokes import taylor_hood


def flow(u, du, p, x, amplitude):
    return navier_stokes(u, du, p, 20 * amplitude / material(x))


def law(u, du, p, x, amplitude):
    advection = du[:, 0] * u[0] + du[:, 1] * u[1]
    stress = material(x) / (20 * amplitude) * du - torch.diag(torch.stack([p, p]))
    return {"u": (advection, stress), "p": (-du[0, 0] - du[1, 1], 0.0)}


def test_orders_of_a_manufactured_solution():
    exact = {"u": vortex, "p": wave}
    held = [pddlvm.Dirichlet(None, vortex)]

    def make(n):
        space = taylor_hood(fem.unit_square(n))
        return manufactured(space, flow, law, exact, held, constraints=[pddlvm.MeanValue("p")])

    found = observed_orders(make, exact, (6, 12, 24))
    # Three and two in theory.
    assert found["u"] == pytest.approx(3.0, abs=0.15)
    assert found["p"] == pytest.approx(2.0, abs=0.15)


@pytest.fixture(scope="module")
def driven():
    """Velocity at points (n, 2) for Re = 100 where the whole lid has the velocity one."""
    space = taylor_hood(fem.unit_square(24))
    problem = pddlvm.Problem(
        "uniform lid",
        space,
        [pddlvm.Flux(space.interior(), navier_stokes)],
        {"Re": pddlvm.Constant(pddlvm.Uniform(90.0, 110.0))},
        [
            pddlvm.Dirichlet("top", 0.0, component=1),
            pddlvm.Dirichlet("top", 1.0, component=0),
            *(pddlvm.Dirichlet(side) for side in ("left", "right", "bottom")),
        ],
        constraints=[pddlvm.MeanValue("p")],
    )
    u = problem.solve(torch.tensor([100.0], dtype=torch.float64)).numpy()
    return lambda x: (problem.evaluation(x) @ u).reshape(-1, 2)


U_ON_X_HALF = {
    0.9531: 0.68717, 0.8516: 0.23151, 0.7344: 0.00332, 0.6172: -0.13641, 0.5: -0.20581,
    0.4531: -0.21090, 0.2813: -0.15662, 0.1719: -0.10150, 0.1016: -0.06434, 0.0625: -0.04192,
}  # fmt: skip
V_ON_Y_HALF = {
    0.9453: -0.10313, 0.8594: -0.22445, 0.8047: -0.24533, 0.5: 0.05454, 0.2344: 0.17527,
    0.1563: 0.16077, 0.0938: 0.12317, 0.0625: 0.09233,
}  # fmt: skip
"""U. Ghia, K. N. Ghia, C. T. Shin, J. Comput. Phys. 48, 387-411, 1982, tables I and II."""


def test_published_velocities_on_the_centre_lines(driven):
    u = driven([[0.5, y] for y in U_ON_X_HALF])[:, 0]
    v = driven([[x, 0.5] for x in V_ON_Y_HALF])[:, 1]
    # Finer meshes change ours by 3e-4. The table is off by up to 0.0085: next test.
    np.testing.assert_allclose(u, list(U_ON_X_HALF.values()), atol=0.01)
    np.testing.assert_allclose(v, list(V_ON_Y_HALF.values()), atol=0.01)


def test_published_extrema_on_the_centre_lines(driven):
    s = np.linspace(0.01, 0.99, 981)
    half = np.full_like(s, 0.5)
    u, v = driven(np.column_stack([half, s]))[:, 0], driven(np.column_stack([s, half]))[:, 1]
    # O. Botella, R. Peyret, Comput. Fluids 27, 421-433, 1998, by a spectral method.
    found = [u.min(), s[u.argmin()], v.max(), s[v.argmax()], v.min(), s[v.argmin()]]
    expected = [-0.2140424, 0.4581, 0.1795728, 0.2370, -0.2538030, 0.8104]
    np.testing.assert_allclose(found[::2], expected[::2], atol=2e-4)
    # Cells are 0.04 wide.
    np.testing.assert_allclose(found[1::2], expected[1::2], atol=5e-3)


def test_the_flow_is_steady_over_the_whole_prior():
    problem = make(8)
    z = problem.prior.sample((4,), seed=0)
    z[:2, 0], z[2:, 0] = math.log(10.0), math.log(100.0)
    u = problem.solve(z)
    start = u.clone()
    start[:, problem.free_dofs] = 0.0
    r = problem.residual(u, z).norm(dim=1) / problem.residual(start, z).norm(dim=1)
    # Newton's tolerance.
    assert (r < 1e-9).all()
    assert problem.parameter_field(z)[:, 0].tolist() == pytest.approx([10, 10, 100, 100])


def test_inertia_carries_the_vortex_with_the_lid():
    problem = make(12)
    z = torch.tensor([[math.log(10.0), 0.0], [math.log(100.0), 0.0]], dtype=torch.float64)
    x = np.linspace(0.02, 0.98, 97)
    line = np.column_stack([x, np.full_like(x, 0.75)])
    v = (problem.evaluation(line) @ problem.solve(z).T.numpy())[1::2]
    # Where the flow turns downwards: next to the middle at Re = 0, by symmetry.
    centres = [x[np.flatnonzero((column[:-1] > 0) & (column[1:] <= 0))[0]] for column in v.T]
    assert 0.5 < centres[0] < centres[1]


def test_reynolds_numbers_are_log_uniform():
    problem = make(2)
    logs = problem.parameter_field(problem.prior.sample((2000,), seed=0))[:, 0].log10()
    # 1 and 2 but for a few thousandths of the range.
    assert logs.aminmax() == pytest.approx((1.0, 2.0), abs=5e-3)
    # Three standard errors of a uniform variable.
    assert float(logs.mean()) == pytest.approx(1.5, abs=0.02)
