"""Classical problems within bounds, each with its published minimum, or one in closed form.

HS n: problem n of Hock & Schittkowski, Test Examples for Nonlinear Programming Codes, 1981.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

INF = np.inf


class Bounded(NamedTuple):
    fun: Callable[[Any], Any]
    start: Any
    lower: Any
    upper: Any
    minimum: float | None  # None: that of scipy's L-BFGS-B
    at: Any = None  # the minimiser, where it is known


def _rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def _hs25(x):
    i = jnp.arange(1, 100) / 100
    u = 25 + (-50 * jnp.log(i)) ** (2 / 3)
    return jnp.sum((jnp.exp(-((u - x[1]) ** x[2]) / x[0]) - i) ** 2)


def _wood(x):
    return (
        _rosenbrock(x)
        + 90 * (x[3] - x[2] ** 2) ** 2
        + (1 - x[2]) ** 2
        + 10.1 * ((x[1] - 1) ** 2 + (x[3] - 1) ** 2)
        + 19.8 * (x[1] - 1) * (x[3] - 1)
    )


def _beale(x):
    powers = 1 - x[1] ** jnp.arange(1, 4)
    return jnp.sum((jnp.array([1.5, 2.25, 2.625]) - x[0] * powers) ** 2)


def _chained(x):
    """The sample problem of L-BFGS-B (Zhu, Byrd, Lu & Nocedal 1997)."""
    return 4 * (0.25 * (x[0] - 1) ** 2 + jnp.sum((x[1:] - x[:-1] ** 2) ** 2))


def _powell(x):
    return (
        (x[0] + 10 * x[1]) ** 2
        + 5 * (x[2] - x[3]) ** 2
        + (x[1] - 2 * x[2]) ** 4
        + 10 * (x[0] - x[3]) ** 4
    )


_A = (598 / 1200) ** 0.5
_B = 400 * _A**3
_HS2 = 2 * _A * np.cos(np.arccos(1 / _B) / 3)

# An elastic string above a parabola, on which a part of it lies.
_N = 40
_GRID = np.arange(1, _N + 1) / (_N + 1)
_OBSTACLE = 0.3 - 4 * (_GRID - 0.5) ** 2


def _string(x):
    whole = jnp.concatenate([jnp.zeros(1), x, jnp.zeros(1)])
    return (_N + 1) * jnp.sum((whole[1:] - whole[:-1]) ** 2) / 2


# A quadratic with condition 10^4, made so that _AT fulfils the conditions of a minimum.
_random = np.random.default_rng(3)
_SCALES = 10.0 ** np.linspace(-2, 2, 30)
_Q = np.linalg.qr(_random.normal(size=(30, 30)))[0]
_HESSIAN = (_Q * _SCALES) @ _Q.T
_AT = np.where(np.arange(30) % 3 == 0, 0.0, _random.uniform(0.2, 0.8, 30))
_PUSH = np.where(np.arange(30) % 3 == 0, _random.uniform(0.1, 2.0, 30), 0.0)
_LINEAR = _PUSH - _HESSIAN @ _AT  # the gradient at _AT is _PUSH


def _quadratic(x):
    return x @ (_HESSIAN @ x) / 2 + _LINEAR @ x


_FIVE = np.arange(1, 6.0)
PROBLEMS = {
    "HS 1": Bounded(_rosenbrock, [-2.0, 1], [-INF, -1.5], [INF, INF], 0.0, [1.0, 1]),
    # From its published start (-2, 1) descent ends in another minimum, 4.94122932, as L-BFGS-B does.
    "HS 2": Bounded(_rosenbrock, [2.0, 1], [-INF, 1.5], [INF, INF], 0.0504261879, [_HS2, 1.5]),
    "HS 3": Bounded(
        lambda x: x[1] + 1e-5 * (x[1] - x[0]) ** 2, [10.0, 1], [-INF, 0], [INF, INF], 0.0, [0.0, 0]
    ),
    "HS 4": Bounded(
        lambda x: (x[0] + 1) ** 3 / 3 + x[1], [1.125, 0.125], [1.0, 0], [INF, INF], 8 / 3, [1.0, 0]
    ),
    "HS 5": Bounded(
        lambda x: jnp.sin(x[0] + x[1]) + (x[0] - x[1]) ** 2 - 1.5 * x[0] + 2.5 * x[1] + 1,
        [0.0, 0],
        [-1.5, -3],
        [4.0, 3],
        -(3**0.5) / 2 - np.pi / 3,
        [-np.pi / 3 + 0.5, -np.pi / 3 - 0.5],
    ),
    "HS 25": Bounded(_hs25, [100.0, 12.5, 3], [0.1, 0, 0], [100, 25.6, 5], 0.0, [50.0, 25, 1.5]),
    "HS 38": Bounded(_wood, [-3.0, -1, -3, -1], [-10.0] * 4, [10.0] * 4, 0.0, [1.0] * 4),
    "HS 45": Bounded(lambda x: 2 - jnp.prod(x) / 120, [2.0] * 5, [0.0] * 5, _FIVE, 1.0, _FIVE),
    "HS 110": Bounded(
        lambda x: jnp.sum(jnp.log(x - 2) ** 2 + jnp.log(10 - x) ** 2) - jnp.prod(x) ** 0.2,
        [9.0] * 10,
        [2.001] * 10,
        [9.999] * 10,
        -45.77846971,
        [9.35025655] * 10,
    ),
    "Rosenbrock, cut off": Bounded(
        _rosenbrock, [-1.2, 1], [-INF, -INF], [0.5, INF], 0.25, [0.5, 0.25]
    ),
    "Beale, bounded": Bounded(_beale, [1.0, 1], [0.6, 0.5], [10, 100], 0.0, [3.0, 0.5]),
    "chained": Bounded(
        _chained, [3.0] * 25, np.where(np.arange(25) % 2, -100.0, 1), [100.0] * 25, 0.0
    ),
    "Powell, singular": Bounded(_powell, [3.0, -1, 0, 1], [0.1, -INF, -INF, -INF], [INF] * 4, None),
    "quadratic": Bounded(
        _quadratic, [0.5] * 30, [0.0] * 30, [1.0] * 30, float(_quadratic(_AT)), _AT
    ),
    "string on an obstacle": Bounded(_string, np.ones(_N), _OBSTACLE, [INF] * _N, None),
}
