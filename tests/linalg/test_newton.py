"""Newton for many systems: c^3 + k c = f of known roots, in two numbers that are coupled."""

import pytest
import torch

from pddlvm.linalg.newton import newton

EXACT = torch.tensor([[0.1, -0.2], [1.0, 2.0], [-3.0, 0.5], [0.0, 0.0]], dtype=torch.float64)
COUPLING = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)


class Systems:
    """c^3 + K c - f, zero at EXACT; counts what is asked."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.load = strength * EXACT**3 + EXACT @ COUPLING
        self.residuals: list[torch.Tensor] = []
        self.matrices: list[torch.Tensor] = []

    def residual(self, rows: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        self.residuals.append(rows)
        return self.strength * c**3 + c @ COUPLING - self.load[rows]

    def matrix(self, rows: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        self.matrices.append(rows)
        return torch.diag_embed(3 * self.strength * c**2) + COUPLING

    def solve(self, start: torch.Tensor) -> torch.Tensor:
        return newton(self.residual, self.matrix, start, 1e-12)


@pytest.mark.parametrize("strength", [0.0, 0.01, 1.0])
def test_all_systems_are_solved(strength):
    torch.testing.assert_close(
        Systems(strength).solve(torch.zeros_like(EXACT)), EXACT, rtol=1e-10, atol=1e-10
    )


def test_linear_systems_take_one_matrix_and_one_step():
    systems = Systems(0.0)
    systems.solve(torch.zeros_like(EXACT))
    assert len(systems.matrices) == 1 and len(systems.residuals) == 2
    # The last one is solved where it starts, and is not asked again.
    assert systems.matrices[0].tolist() == [0, 1, 2]


def test_a_residual_of_rounding_is_solved_where_it_is():
    systems = Systems(1.0)
    noise = torch.full((4,), 1e-9, dtype=torch.float64)
    start = EXACT + 1e-12
    assert torch.equal(newton(systems.residual, systems.matrix, start, 1e-12, noise), start)
    assert not systems.matrices
    # From afar it ends a search, long before the tolerance does.
    noise[:] = 1.0
    newton(systems.residual, systems.matrix, torch.zeros_like(EXACT), 1e-12, noise)
    few = len(systems.matrices)
    assert systems.residual(torch.arange(4), EXACT).norm() == 0
    newton(systems.residual, systems.matrix, torch.zeros_like(EXACT), 1e-12)
    assert 0 < few < len(systems.matrices) - few


def test_weakly_nonlinear_systems_keep_their_matrix():
    systems = Systems(0.001)
    systems.solve(torch.zeros_like(EXACT))
    # Slowest is the third: its residual shrinks by 3 * 0.001 * 9 / 2 in each step.
    assert len(systems.matrices) == 1


def test_a_system_that_is_solved_waits_for_no_other():
    systems = Systems(1.0)
    systems.solve(torch.zeros_like(EXACT))
    assert len(systems.residuals[1]) == 3 and len(systems.residuals[-1]) == 1


def test_a_failure_stays_with_its_system():
    def residual(rows: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        # exp has no root.
        return torch.where(rows[:, None] == 0, c.exp(), c - 1)

    def matrix(rows: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.where(rows[:, None] == 0, c.exp(), torch.ones_like(c))[..., None]

    found = newton(residual, matrix, torch.zeros(2, 1, dtype=torch.float64), 1e-12)
    assert float(found[1]) == 1.0
