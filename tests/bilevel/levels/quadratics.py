"""Quadratic levels that numpy can eliminate, and the formulas of the rules on them.

Letters: variables `x` [2], `y` [3], `z` [4], `w` [2], from the top down; sizes differ on purpose.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import toolkit as tk
from toolkit.adjoint import Implicit
from toolkit.bilevel import Level
from toolkit.linear import CG

SIZES = {"x": 2, "y": 3, "z": 4, "w": 2}
NAMES = tuple(SIZES)
EXACT = Implicit(CG(30, 1e-13))
STEP = 0.5
DESCENT = tk.solver.GradientDescent(STEP, 120, momentum=0.3)  # to rounding on all problems here
X = jnp.asarray([0.3, -0.5])
_random = np.random.default_rng(3)


class Quadratic(NamedTuple):
    """`u'Q u / 2 + q'u` of all variables in a row; positive definite."""

    Q: np.ndarray
    q: np.ndarray

    def at(self, **values: Any) -> jax.Array:
        u = jnp.concatenate([values[name] for name in NAMES if name in values])
        return u @ self.Q @ u / 2 + self.q @ u


def random_quadratic(count: int) -> Quadratic:
    n = sum(itertools.islice(SIZES.values(), count))
    root = _random.normal(size=(n, n))
    return Quadratic(root @ root.T / n + 0.5 * np.eye(n), _random.normal(size=n))


def blocks_of(count: int) -> list[slice]:
    ends = np.cumsum([0, *itertools.islice(SIZES.values(), count)])
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def eliminate(functions: list[Quadratic]) -> tuple[np.ndarray, np.ndarray]:
    """`(P, p)`: all variables are `P x + p` at the exact solution; `functions` from level y down."""
    blocks = blocks_of(len(functions) + 1)
    P, p = np.eye(blocks[-1].stop), np.zeros(blocks[-1].stop)
    for block, (Q, q) in zip(reversed(blocks[1:]), reversed(functions), strict=True):
        reduced, slope = P.T @ Q @ P, P.T @ (Q @ p + q)
        own = np.linalg.inv(reduced[block, block])
        P, p = (
            P @ np.vstack([np.eye(block.start), -own @ reduced[block, : block.start]]),
            p + P[:, block] @ (-own @ slope[block]),
        )
    return P, p


def levels_of(functions: list[Quadratic]) -> list[Level]:
    return [
        Level(name, function.at, DESCENT, jnp.zeros(SIZES[name]), EXACT)
        for name, function in zip(NAMES[1:], functions, strict=False)
    ]


H, G, F = (random_quadratic(4 - 1) for _ in range(3))  # of levels z and y, and the outer function
AT_X, AT_Y, AT_Z = blocks_of(3)
CURVATURE, BY_X, BY_Y = (H.Q[AT_Z, block] for block in (AT_Z, AT_X, AT_Y))


class Response(NamedTuple):
    """`z = at_x x + at_y y + constant` as computed, and its derivatives as the rules have them."""

    at_x: np.ndarray
    at_y: np.ndarray
    constant: np.ndarray
    by_x: np.ndarray
    by_y: np.ndarray


def response_of(by_x: np.ndarray, by_y: np.ndarray, solved: np.ndarray | None = None) -> Response:
    """`z = -solved (BY_X x + BY_Y y + q)`, the exact one for None, with approximate inverses `by`."""
    solved = np.linalg.inv(CURVATURE) if solved is None else solved
    values = (-solved @ BY_X, -solved @ BY_Y, -solved @ H.q[AT_Z])
    return Response(*values, -by_x @ BY_X, -by_y @ BY_Y)


def by_rules(z: Response, inverse: Callable = np.linalg.inv) -> tuple[np.ndarray, np.ndarray]:
    """(y, hypergradient) at X: y where `g_y + by_y' g_z` vanishes, the derivative by the rules."""

    def point(y: np.ndarray) -> np.ndarray:
        return np.concatenate([X, y, z.at_x @ X + z.at_y @ y + z.constant])

    with_y = np.vstack([np.zeros((2, 3)), np.eye(3), z.by_y])
    with_x = np.vstack([np.eye(2), np.zeros((3, 2)), z.by_x])
    condition = lambda y: with_y.T @ (G.Q @ point(y) + G.q)
    zero = condition(np.zeros(3))
    y = np.linalg.solve(np.stack([condition(e) - zero for e in np.eye(3)], axis=1), -zero)
    y_by_x = -inverse(with_y.T @ G.Q @ with_y) @ with_y.T @ G.Q @ with_x
    slope = F.Q @ point(y) + F.q
    return y, with_x.T @ slope + y_by_x.T @ (with_y.T @ slope)


INVERSE, NONE, ONE = np.linalg.inv(CURVATURE), np.zeros((4, 4)), STEP * np.eye(4)
EXACT_Y, EXACT_GRADIENT = by_rules(response_of(INVERSE, INVERSE))
