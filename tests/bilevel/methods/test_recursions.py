"""Directions that are carried from step to step: what they are where nothing moves, and their mean."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.bilevel.methods import quadratic as q
from toolkit.bilevel import F2SA, FSLA, MRBO, SRBA, SUSTAIN, VRBO

ETA = 0.2
DRAWS = 60_000
STILL = 1e-30  # a step size at which nothing moves
SERIES = {"linear_steps": 2, "linear_step_size": ETA}
RECURSIONS = {
    "FSLA": lambda m: FSLA(STILL, STILL, batch_size=1, linear_step_size=STILL, momentum=m),
    "SUSTAIN": lambda m: SUSTAIN(STILL, STILL, batch_size=1, momentum=m, **SERIES),
    "MRBO": lambda m: MRBO(STILL, STILL, batch_size=1, momentum=m, **SERIES),
    "F3SA": lambda m: F2SA(
        STILL, STILL, batch_size=1, inner_steps=1, penalised_step_size=STILL, momentum=m
    ),
}


@pytest.mark.parametrize("name", RECURSIONS)
def test_where_nothing_moves_recursive_momentum_is_an_average(name: str) -> None:
    """`d = m G + (1 - m) d`, exactly: both samples of a step are of the same batches."""
    m, paths = 0.3, {}
    for momentum in (m, 1.0):  # the second keeps the samples themselves
        init, step = RECURSIONS[name](momentum)(q.problem())
        state, step, path = init(jax.random.key(8), q.Y0, q.X0), jax.jit(step), []
        for _ in range(4):
            state, _ = step(state)
            memory = state.memory
            path.append(memory.parts if name == "F3SA" else memory.direction)
        paths[momentum] = path
    leaves = lambda path: [np.concatenate([*map(np.ravel, jax.tree.leaves(d))]) for d in path]
    kept, samples = leaves(paths[m]), leaves(paths[1.0])
    np.testing.assert_array_equal(kept[0], samples[0])
    assert np.max(np.ptp(samples, axis=0)) > 1e-3
    for t in range(1, 4):
        np.testing.assert_allclose(kept[t], m * samples[t] + (1 - m) * kept[t - 1], rtol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        SRBA(STILL, STILL, batch_size=1, linear_step_size=STILL, period=9),
        VRBO(STILL, STILL, batch_size=1, inner_steps=2, period=9, **SERIES),
    ],
    ids=["SRBA", "VRBO"],
)
def test_where_nothing_moves_differences_are_zero(settings: Any) -> None:
    """The direction of the whole data stays, to rounding."""
    init, step = settings(q.problem())
    state, step = init(jax.random.key(8), q.Y0, q.X0), jax.jit(step)
    first, _ = step(state)
    last = first
    for _ in range(3):
        last, _ = step(last)
    for a, b in zip(
        jax.tree.leaves(first.memory.direction), jax.tree.leaves(last.memory.direction), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def _drift(settings: Any, expected: Any, steps: int = 3) -> np.ndarray:
    """[draws, ...] what is kept for a direction less the full-batch one at the same point."""
    init, step = settings(q.problem())

    def advance(state: Any, _: None) -> tuple[Any, Any]:
        new, _ = step(state)
        return new, expected(state, new)

    def drift(key: jax.Array) -> Any:
        return jax.lax.scan(advance, init(key, q.Y0, q.X0), length=steps)[1][-1]

    return np.asarray(jax.jit(jax.vmap(drift))(jax.random.split(jax.random.key(9), DRAWS // 3)))


@pytest.mark.parametrize(
    "name", ["FSLA", "SUSTAIN", "MRBO", "SRBA", pytest.param("VRBO", marks=pytest.mark.slow)]
)
def test_the_memory_of_a_recursion_adds_no_bias(name: str) -> None:
    """d - D(u) has mean zero in all after three noisy steps of theta."""
    m = {name: jnp.asarray(value) for name, value in q.MEAN.items()}
    series = {"linear_steps": 2, "linear_step_size": ETA}
    f_x = lambda s: m["E"] @ s.theta + m["K"] @ s.y + m["e"]
    f_y = lambda s: m["F"] @ s.y + m["K"].T @ s.theta + m["p"]
    truncated = lambda s, terms: f_x(s) - m["C"] @ jnp.asarray(q.truncated(ETA, terms)) @ f_y(s)
    # Where d belongs to: the state before the step, or (VRBO) after it.
    settings, expected = {
        "FSLA": (
            FSLA(1e-12, 1e-3, batch_size=1, linear_step_size=1e-12, momentum=0.3),
            lambda before, after: after.memory.direction - f_x(before),  # v stays near 0
        ),
        "SUSTAIN": (
            SUSTAIN(1e-2, 1e-2, batch_size=1, momentum=0.3, **series),
            lambda before, after: after.memory.direction.theta - truncated(before, 2),
        ),
        "MRBO": (
            MRBO(1e-2, 1e-2, batch_size=1, momentum=0.3, **series),
            lambda before, after: after.memory.direction.theta - truncated(before, 3),
        ),
        "SRBA": (
            SRBA(1e-2, 1e-2, batch_size=1, period=5),
            lambda before, after: after.memory.direction.theta - (f_x(before) - m["C"] @ before.v),
        ),
        "VRBO": (
            VRBO(1e-2, 1e-2, batch_size=1, inner_steps=2, period=5, **series),
            lambda before, after: after.memory.direction.theta - truncated(after, 3),
        ),
    }[name]
    draws = _drift(settings, expected)
    assert np.all(np.abs(np.mean(draws, axis=0)) < 5 * np.std(draws, axis=0) / len(draws) ** 0.5)
    assert np.all(np.std(draws, axis=0) > 1e-6)
