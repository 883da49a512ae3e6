"""Where F2SA and BOME arrive: fixed points of their own."""

from __future__ import annotations

import numpy as np
import optax
import pytest

from tests.bilevel.methods import quadratic as q
from tests.bilevel.methods.equations import f_x, f_y, g_x, g_y
from toolkit.bilevel import BOME, F2SA


def _penalised_solution(penalty: float) -> np.ndarray:
    """x where (y, z, x) is stationary for `f + penalty (g - g at z)`, y the minimiser, z that of g."""
    dims = q.N + q.N + q.M

    def residual(u: np.ndarray) -> np.ndarray:
        y, z, x = u[: q.N], u[q.N : 2 * q.N], u[2 * q.N :]
        return np.concatenate(
            [
                f_y(y, x) + penalty * g_y(y, x),
                g_y(z, x),
                f_x(y, x) + penalty * (g_x(y, x) - g_x(z, x)),
            ]
        )

    at_0 = residual(np.zeros(dims))
    return np.linalg.solve(np.stack([residual(e) - at_0 for e in np.eye(dims)], 1), -at_0)[
        2 * q.N :
    ]


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_f2sa_arrives_at_the_penalised_solution(momentum: float | None) -> None:
    """And that is off by O(1 / penalty)."""
    steps = {"inner_steps": 1 if momentum else 5, "momentum": momentum}
    state = q.final_state(F2SA(0.3, 0.01, penalty=10.0, **steps), 20_000)
    np.testing.assert_allclose(state.theta, _penalised_solution(10.0), rtol=1e-8)
    x, _ = q.solution()
    gaps = [np.linalg.norm(_penalised_solution(p) - x) for p in (10.0, 1e3, 1e4)]
    assert gaps[0] > 1e-3
    # Of a ratio, whose next term is of the order of L / (mu penalty), about 1e-2 at a penalty of 1e3.
    np.testing.assert_allclose(gaps[1] / gaps[2], 10, rtol=0.02)


def test_bome_nears_the_truncated_solution_as_its_steps_shrink() -> None:
    """At a distance proportional to the steps."""
    x, _ = q.solution(q.truncated(0.3, 3))
    exact, _ = q.solution()
    gaps = []
    for shrink in (1.0, 0.1):
        settings = BOME(
            0.3,
            0.02 * shrink,
            inner_steps=3,
            inner_optimizer=optax.sgd(0.02 * shrink),
        )
        gaps.append(np.linalg.norm(q.final_state(settings, int(20_000 / shrink)).theta - x))
    assert gaps[1] < gaps[0] / 5
    assert gaps[1] < np.linalg.norm(x - exact) / 5
