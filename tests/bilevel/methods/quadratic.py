"""A quadratic bilevel problem of a few examples, with everything in closed form.

`g_i = y'A_i y / 2 + x'C_i y + a_i'y`, `f_j = y'F_j y / 2 + x'E_j x / 2 + x'K_j y + p_j'y + e_j'x`, theta = x.
Letters: `I` inner and `J` outer examples, `N` inner and `M` outer variables, M != N on purpose.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import toolkit as tk

I, J, N, M = 3, 2, 2, 3
_random = np.random.default_rng(7)


def _definite(count: int, size: int, floor: float) -> np.ndarray:
    roots = _random.normal(size=(count, size, size))
    return roots @ roots.transpose(0, 2, 1) / size + floor * np.eye(size)


INNER = {
    "A": _definite(I, N, 0.4),
    "C": 0.5 * _random.normal(size=(I, M, N)),
    "a": _random.normal(size=(I, N)),
}
OUTER = {
    "F": _definite(J, N, 0.2),
    "E": _definite(J, M, 0.5),
    "K": 0.3 * _random.normal(size=(J, M, N)),
    "p": _random.normal(size=(J, N)),
    "e": _random.normal(size=(J, M)),
}
MEAN = {name: array.mean(0) for name, array in (INNER | OUTER).items()}
Y0, X0 = jnp.asarray([0.3, -0.4]), jnp.asarray([0.5, 0.1, -0.2])


def inner(y: Any, x: Any, batch: Any) -> Any:
    each = (
        jnp.einsum("n,inm,m->i", y, batch["A"], y) / 2
        + jnp.einsum("m,imn,n->i", x, batch["C"], y)
        + batch["a"] @ y
    )
    return jnp.mean(each)


def outer(y: Any, x: Any, batch: Any) -> Any:
    each = (
        jnp.einsum("n,jnm,m->j", y, batch["F"], y) / 2
        + jnp.einsum("m,jmk,k->j", x, batch["E"], x) / 2
        + jnp.einsum("m,jmn,n->j", x, batch["K"], y)
        + batch["p"] @ y
        + batch["e"] @ x
    )
    return jnp.mean(each)


def problem(inner_data: Any = INNER, outer_data: Any = OUTER) -> tk.bilevel.Problem:
    return tk.bilevel.Problem(inner, outer, inner_data, outer_data)


def hypergradient(x: np.ndarray, y: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """`grad_x f - C inverse grad_y f` at (x, y), by numpy."""
    m = MEAN
    slope = m["F"] @ y + m["K"].T @ x + m["p"]
    return m["E"] @ x + m["K"] @ y + m["e"] - m["C"] @ inverse @ slope


def solution(inverse: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) where the hypergradient with `inverse` for `A^{-1}` vanishes, y being the exact minimum."""
    m = MEAN
    exact = np.linalg.inv(m["A"])
    inverse = exact if inverse is None else inverse
    y_of = lambda x: -exact @ (m["C"].T @ x + m["a"])
    at = lambda x: hypergradient(x, y_of(x), inverse)
    linear = np.stack([at(e) - at(np.zeros(M)) for e in np.eye(M)], axis=1)
    x = np.linalg.solve(linear, -at(np.zeros(M)))
    return x, y_of(x)


def truncated(step_size: float, terms: int) -> np.ndarray:
    """`(I - P^terms) A^{-1}`, `P = I - step_size A`."""
    P = np.eye(N) - step_size * MEAN["A"]
    return (np.eye(N) - np.linalg.matrix_power(P, terms)) @ np.linalg.inv(MEAN["A"])


def final_state(settings: Any, steps: int) -> Any:
    """The state after so many steps from the common start."""
    init, step = settings(problem())
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: (step(s)[0], None), s, length=steps)[0])
    return run(init(jax.random.key(0), Y0, X0))
