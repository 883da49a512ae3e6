"""The simulated quadratic of the bilevel benchmark, with everything in closed form.

`N` inner and `M` outer variables; `I` inner and `J` outer examples. For each example, of both levels,

    loss_i = (h_i'y)^2 / 2 + (k_i'x)^2 / 2 + (l_i'x) (r_i'y) + a_i'y + b_i'x

The vectors `h_i` and `k_i` are normal. The eigenvalues of their covariances are spread evenly in
logarithm over [mu, L], except that one of the outer variable's is 0. The singular values of the mean of
`l_i r_i'` are spread over [mu, L_cross] in the same way, and the linear terms are standard normal. The
Hessian of a single example has rank one; only its mean over all examples is definite.

Source: the simulated data set of the public bilevel benchmark (Dagreou et al. 2022).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit.problems.instance import Instance

ATTEMPTS = 20


class Terms(NamedTuple):
    """Examples of one level; `E` examples."""

    h: Array  # [E, N]
    k: Array  # [E, M]
    left: Array  # [E, M]
    right: Array  # [E, N]
    a: Array  # [E, N]
    b: Array  # [E, M]


class Quadratic(NamedTuple):
    """Means over the examples of one level, in float64."""

    H: np.ndarray  # [N, N]
    K: np.ndarray  # [M, M]
    C: np.ndarray  # [M, N]
    a: np.ndarray  # [N]
    b: np.ndarray  # [M]


class KnownSolution(NamedTuple):
    """Of the whole problem, in float64."""

    x: np.ndarray  # [M] the minimiser of F
    y: np.ndarray  # [N] y*(x)
    value: float  # F(x)


def quadratic(
    key: Array,
    inner_examples: int = 1024,
    outer_examples: int = 1024,
    inner_size: int = 100,
    outer_size: int = 100,
    mu: float = 0.1,
    largest: float = 1.0,
    largest_cross: float = 0.1,
) -> Instance:
    """A random quadratic problem whose F is strongly convex.

    `measure` gives `suboptimality` = F(x) - min F, `gradient_norm` = |grad F(x)|^2 (the benchmark's
    value; squared) and `inner_distance` = |y - y*(x)|^2, all exact.

    Args:
      key: as many draws as it takes to find an F that is strongly convex, 20 at most.
      mu, largest: smallest and largest eigenvalue of the Hessians' expectations.
      largest_cross: largest singular value of the mixed derivatives'.

    Raises:
      ValueError: no draw had a strongly convex F; fewer examples than variables.
    """
    if min(inner_examples, outer_examples) < inner_size:
        raise ValueError(
            "`inner_examples` and `outer_examples` must be at least `inner_size`, or the mean of the "
            f"rank-one Hessians is singular: got {inner_examples}, {outer_examples} and {inner_size}."
        )
    spectrum = (mu, largest, largest_cross)
    # The mixed derivatives can make F concave in some direction, so keys are tried until it is convex.
    for attempt in jax.random.split(key, ATTEMPTS):
        inner_key, outer_key = jax.random.split(attempt)
        g = _draw(inner_key, inner_examples, inner_size, outer_size, *spectrum)
        f = _draw(outer_key, outer_examples, inner_size, outer_size, *spectrum)
        means = _mean(g), _mean(f)
        if np.linalg.eigvalsh(_outer_hessian(*means))[0] > 0:
            return _instance(g, f, *means)
    raise ValueError(
        f"none of {ATTEMPTS} draws had a strongly convex outer function: lower `largest_cross` (got "
        f"{largest_cross}) or raise `mu` (got {mu})."
    )


def loss(y: Array, x: Array, batch: Terms) -> Array:
    """Mean over the examples of a batch; y [N], x [M]."""
    quadratic = (
        (batch.h @ y) ** 2 / 2 + (batch.k @ x) ** 2 / 2 + (batch.left @ x) * (batch.right @ y)
    )
    return jnp.mean(quadratic + batch.a @ y + batch.b @ x)


def solve(g: Quadratic, f: Quadratic) -> KnownSolution:
    """The minimiser of F, in closed form."""
    response, constant = _response(g)
    slope = f.C @ constant + f.b + response.T @ (f.H @ constant + f.a)
    x = -np.linalg.solve(_outer_hessian(g, f), slope)
    y = response @ x + constant
    return KnownSolution(x, y, _value(f, y, x))


def _instance(g: Terms, f: Terms, mean_g: Quadratic, mean_f: Quadratic) -> Instance:
    response, constant = _response(mean_g)
    parts = response, constant, _outer_hessian(mean_g, mean_f), solve(mean_g, mean_f).x
    known = tuple(jnp.asarray(part) for part in parts)

    def measure(y: Array, x: Array, known: tuple[Array, ...] = known) -> dict[str, Array]:
        response, constant, hessian, best = known
        # F(x) - min F = (x - x*)' Hess F (x - x*) / 2. The difference of the two values would lose all its
        # digits near the minimum, where they agree.
        gap = x - best
        slope = hessian @ gap
        return {
            "suboptimality": gap @ slope / 2,
            "gradient_norm": slope @ slope,
            "inner_distance": jnp.sum((y - response @ x - constant) ** 2),
        }

    y0, x0 = jnp.zeros(g.h.shape[1]), jnp.full(g.k.shape[1], -2.0)
    return Instance(loss, loss, g, f, y0, x0, measure, known)


def _draw(
    key: Array, examples: int, N: int, M: int, mu: float, largest: float, largest_cross: float
) -> Terms:
    keys = jax.random.split(key, 7)
    sizes = (
        jnp.geomspace(mu, largest, M).at[0].set(0.0)
    )  # one flat direction of x, as in the benchmark
    cross = jnp.geomspace(mu, largest_cross, min(N, M))
    U, V = _rotation(keys[2], M), _rotation(keys[3], N)
    r = jax.random.normal(keys[4], (examples, min(N, M)))
    return Terms(
        _normal(keys[0], examples, jnp.geomspace(mu, largest, N)),
        _normal(keys[1], examples, sizes),
        (r * cross) @ U[:, : min(N, M)].T,
        r @ V[:, : min(N, M)].T,
        jax.random.normal(keys[5], (examples, N)),
        jax.random.normal(keys[6], (examples, M)),
    )


def _normal(key: Array, examples: int, eigenvalues: Array) -> Array:
    """Rows of a normal distribution whose covariance has these eigenvalues."""
    rotation_key, normal_key = jax.random.split(key)
    rotation = _rotation(rotation_key, len(eigenvalues))
    draws = jax.random.normal(normal_key, (examples, len(eigenvalues)))
    return (draws * jnp.sqrt(eigenvalues)) @ rotation.T


def _rotation(key: Array, size: int) -> Array:
    return jax.random.orthogonal(key, size)


def _mean(terms: Terms) -> Quadratic:
    h, k, left, right, a, b = (np.asarray(leaf, np.float64) for leaf in terms)
    count = len(h)
    return Quadratic(h.T @ h / count, k.T @ k / count, left.T @ right / count, a.mean(0), b.mean(0))


def _response(g: Quadratic) -> tuple[np.ndarray, np.ndarray]:
    """S, s of `y*(x) = S x + s`, where the gradient `H y + C'x + a` of g is zero."""
    solved = -np.linalg.solve(g.H, np.column_stack([g.C.T, g.a]))
    return solved[:, :-1], solved[:, -1]


def _outer_hessian(g: Quadratic, f: Quadratic) -> np.ndarray:
    # F(x) = f(S x + s, x), so its Hessian collects what x does to f directly and through y = S x + s.
    S, _ = _response(g)
    return f.K + f.C @ S + S.T @ f.C.T + S.T @ f.H @ S


def _value(f: Quadratic, y: np.ndarray, x: np.ndarray) -> float:
    return float(y @ f.H @ y / 2 + x @ f.K @ x / 2 + x @ f.C @ y + f.a @ y + f.b @ x)
