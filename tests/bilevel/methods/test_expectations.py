"""The mean of each method's direction over its batches, and what variance reduction removes."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.bilevel.methods import quadratic as q
from toolkit.bilevel import (
    AID,
    BOME,
    BSA,
    DARTS,
    F2SA,
    FSLA,
    HOAG,
    MRBO,
    PZOBO,
    SABA,
    SAMA,
    SOBA,
    SRBA,
    SUSTAIN,
    T1T2,
    TTSA,
    AmIGO,
    StocBiO,
)
from toolkit.bilevel.methods import saba
from toolkit.bilevel.parts import data_blocks

ETA = 0.2
DRAWS = 60_000


def _one(data: Any, i: int) -> Any:
    return {k: jnp.asarray(v[i : i + 1]) for k, v in data.items()}


def _all_pairs() -> list[tuple[Any, Any]]:
    """Every batch of one example of each data."""
    pairs = itertools.product(range(q.I), range(q.J))
    return [(_one(q.INNER, i), _one(q.OUTER, j)) for i, j in pairs]


def _triple(y: np.ndarray, v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """SOBA's three directions on the whole data."""
    m = q.MEAN
    slope = m["F"] @ y + m["K"].T @ x + m["p"]
    return np.concatenate(
        [
            m["A"] @ y + m["C"].T @ x + m["a"],
            m["A"] @ v - slope,
            m["E"] @ x + m["K"] @ y + m["e"] - m["C"] @ v,
        ]
    )


def test_the_mean_direction_of_soba_is_the_full_batch_direction() -> None:
    """At any (y, theta, v), for all three variables, by enumeration."""
    v = jnp.asarray([0.7, -0.3])

    def moves(inner_data: Any, outer_data: Any) -> np.ndarray:
        init, step = SOBA(1.0, 1.0)(q.problem(inner_data, outer_data))
        state = init(jax.random.key(0), q.Y0, q.X0)._replace(v=v)
        new, _ = step(state)
        return np.concatenate([q.Y0 - new.y, v - new.v, q.X0 - new.theta])

    each = [moves(*pair) for pair in _all_pairs()]
    expected = _triple(np.asarray(q.Y0), np.asarray(v), np.asarray(q.X0))
    np.testing.assert_allclose(np.mean(each, axis=0), expected, atol=1e-12)


def _repeated(data: Any) -> Any:
    """Two more examples: with blocks of 2, a last block of 1."""
    return {k: np.concatenate([v, 2 * v[:2]]) for k, v in data.items()}


@pytest.mark.parametrize("full_start", [False, True])
def test_the_mean_direction_of_saba_is_the_full_batch_direction_whatever_it_remembers(
    full_start: bool,
) -> None:
    """By enumeration of the block, after three steps elsewhere; with a last block of another size."""
    data = _repeated(q.INNER)
    outer_data = {k: np.concatenate([v, 3 * v[:1]]) for k, v in q.OUTER.items()}
    problem = q.problem(data, outer_data)
    init, step = SABA(0.1, 0.1, batch_size=2, full_start=full_start)(problem)
    step, state = jax.jit(step), init(jax.random.key(1), q.Y0, q.X0)
    for _ in range(3):
        state, _ = step(state)
    weights = data_blocks.weights(data, 2)
    table = state.memory.inner
    np.testing.assert_allclose(weights, [0.4, 0.4, 0.2], rtol=1e-12)
    mean = jax.tree.map(lambda rows: jnp.tensordot(weights, rows, 1), table.rows)
    for kept, recomputed in zip(jax.tree.leaves(table.mean), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(kept, recomputed, rtol=1e-12, atol=1e-15)
    curved = lambda block: saba.curved(problem, state.y, state.theta, state.v, block)
    term = jax.jit(lambda i: data_blocks.on_block(curved, data, 2, i))
    terms = [term(i) for i in jnp.arange(3)]
    directions = [saba._averaged(table, term, i, weights)[0] for i, term in enumerate(terms)]
    A, C, a = (data[name].mean(0) for name in "ACa")
    gradient = A @ state.y + C.T @ state.theta + a
    np.testing.assert_allclose(np.mean([d.gradient for d in directions], 0), gradient, rtol=1e-12)
    np.testing.assert_allclose(np.mean([d.hvp for d in directions], 0), A @ state.v, rtol=1e-12)
    np.testing.assert_allclose(np.mean([d.cross for d in directions], 0), C @ state.v, rtol=1e-12)
    # The outer blocks, of 2 and of 1 example, by what the method makes of them: over many draws of its key.
    steps = jax.jit(jax.vmap(lambda key: step(state._replace(key=key))[0].theta))
    seen = np.unique(np.round(steps(jax.random.split(jax.random.key(2), 300)), 12), axis=0)
    F_y = [outer_data[name].mean(0) for name in "EKe"]
    slope = F_y[0] @ state.theta + F_y[1] @ state.y + F_y[2] - C @ state.v
    assert len(seen) == 3 * 2
    np.testing.assert_allclose(state.theta - seen.mean(0), 0.1 * slope, rtol=1e-9)


def _settled(settings: Any, steps: int) -> float:
    """Distance to the minimiser."""
    init, step = settings(q.problem())
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: (step(s)[0], None), s, length=steps)[0])
    state = run(init(jax.random.key(0), q.Y0, q.X0))
    return float(np.linalg.norm(state.theta - q.solution()[0]))


def test_constant_steps_on_single_examples_arrive_only_with_variance_reduction() -> None:
    assert _settled(SABA(0.05, 0.05, batch_size=1), 12_000) < 1e-10
    assert _settled(SRBA(0.05, 0.05, batch_size=1, period=4), 12_000) < 1e-10
    assert _settled(SOBA(0.05, 0.05, batch_size=1), 12_000) > 1e-3


MAKE = {
    "AmIGO": (lambda **k: AmIGO(1e-12, 1.0, inner_steps=1, **k), 2),
    "StocBiO": (lambda **k: StocBiO(1e-12, 1.0, inner_steps=1, **k), 3),
    "BSA": (lambda **k: BSA(1e-12, 1.0, inner_steps=1, **k), 2),
    "TTSA": (lambda **k: TTSA(1e-12, 1.0, **k), 2),
    "SUSTAIN": (lambda **k: SUSTAIN(1e-12, 1.0, **k), 2),
    "MRBO": (lambda **k: MRBO(1e-12, 1.0, **k), 3),
}


def _assert_mean(draws: Any, expected: Any, unlike: Any) -> None:
    """The mean of the draws is `expected` within 5 standard errors, and not `unlike` within 10."""
    mean, error = np.mean(draws, axis=0), np.std(draws, axis=0) / len(draws) ** 0.5
    assert np.all(np.abs(mean - expected) < 5 * error)
    assert np.any(np.abs(mean - unlike) > 10 * error)


@pytest.mark.parametrize("name", MAKE)
def test_the_mean_direction_is_that_of_the_truncated_inverse(name: str) -> None:
    """One step of theta with y held."""
    make, terms = MAKE[name]
    init, step = make(batch_size=1, linear_steps=2, linear_step_size=ETA)(q.problem())

    def direction(key: jax.Array) -> jax.Array:
        return q.X0 - step(init(key, q.Y0, q.X0))[0].theta

    draws = jax.jit(jax.vmap(direction))(jax.random.split(jax.random.key(5), DRAWS))
    y, x = np.asarray(q.Y0), np.asarray(q.X0)
    exact = q.hypergradient(x, y, np.linalg.inv(q.MEAN["A"]))
    _assert_mean(draws, q.hypergradient(x, y, q.truncated(ETA, terms)), exact)


def test_the_mean_direction_of_f2sa_is_the_penalised_one() -> None:
    """After one step of y and z that are held; its noise does not grow with the penalty."""
    m, y, x = q.MEAN, np.asarray(q.Y0), np.asarray(q.X0)
    expected = m["E"] @ x + m["K"] @ y + m["e"]  # y = z: the difference is 0 in each sample
    spread = []
    for penalty in (1.0, 1e4):
        settings = F2SA(1e-14, 1.0, batch_size=1, inner_steps=1, penalty=penalty)
        init, step = settings(q.problem())

        def direction(key: jax.Array, init: Any = init, step: Any = step) -> jax.Array:
            return q.X0 - step(init(key, q.Y0, q.X0))[0].theta

        draws = jax.jit(jax.vmap(direction))(jax.random.split(jax.random.key(5), DRAWS))
        _assert_mean(draws, expected, 0 * expected)
        spread.append(np.std(draws, axis=0))
    np.testing.assert_allclose(spread[0], spread[1], rtol=1e-6)


def _outcomes(settings: Any, of: Any, draws: int = 400) -> np.ndarray:
    """What one step on single examples can lead to: the different values of `of(state)`."""
    init, step = settings(q.problem())
    one = lambda key: of(step(init(key, q.Y0, q.X0))[0])
    values = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(4), draws))
    return np.unique(np.round(np.asarray(values), 10), axis=0)


@pytest.mark.parametrize(
    "settings",
    [
        SOBA(0.1, 0.1, batch_size=1),
        HOAG(0.1, 0.1, batch_size=1, inner_steps=2, linear_steps=1, tol=1e-9),
        AID(0.1, 0.1, batch_size=1, inner_steps=2, linear_steps=1),
        BOME(0.01, 0.01, batch_size=1, inner_steps=2),
        T1T2(0.1, 0.1, batch_size=1),
        DARTS(0.1, 0.1, batch_size=1),
        SAMA(0.1, 0.1, batch_size=1),
        F2SA(0.1, 0.1, batch_size=1, inner_steps=1, momentum=0.5),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_one_batch_of_each_data_a_step(settings: Any) -> None:
    """Each pair of an inner and an outer example leads elsewhere, and nothing else does."""
    both = lambda s: jnp.append(s.y, s.theta)
    assert len(_outcomes(settings, both)) == q.I * q.J


@pytest.mark.parametrize(
    ("make", "outcomes"),
    [
        # inner batch, outer batch, product, cross product; HIA: of length 0 or 1
        (lambda: StocBiO(0.2, 0.2, batch_size=1, inner_steps=1, linear_steps=1), 3 * 2 * 3 * 3),
        (lambda: MRBO(0.2, 0.2, batch_size=1, linear_steps=1), 3 * 2 * 3 * 3),
        (lambda: BSA(0.2, 0.2, batch_size=1, inner_steps=1, linear_steps=2), 3 * 2 * 3 * (1 + 3)),
        (lambda: TTSA(0.2, 0.2, batch_size=1, linear_steps=2), 3 * 2 * 3 * (1 + 3)),
        (lambda: SUSTAIN(0.2, 0.2, batch_size=1, linear_steps=2), 3 * 2 * 3 * (1 + 3)),
        # v is 0 at first, and so is its product
        (lambda: AmIGO(0.2, 0.2, batch_size=1, inner_steps=1, linear_steps=1), 3 * 2 * 3),
        (lambda: FSLA(0.2, 0.2, batch_size=1), 3 * 2 * 2 * 3),
    ],
    ids=["StocBiO", "MRBO", "BSA", "TTSA", "SUSTAIN", "AmIGO", "FSLA"],
)
def test_every_role_draws_a_batch_of_its_own(make: Any, outcomes: int) -> None:
    """A batch that serves twice would leave fewer ways in which a step can go."""
    both = lambda s: jnp.append(s.y, s.theta)
    assert len(_outcomes(make(), both, draws=6000)) == outcomes


def test_every_inner_step_has_a_batch_of_its_own() -> None:
    """Two steps: each ordered pair of examples leads elsewhere."""
    for make in (AmIGO, StocBiO, BSA, PZOBO):
        settings = make(0.1, 0.1, batch_size=1, inner_steps=2)
        assert len(_outcomes(settings, lambda s: s.y)) == q.I**2
    of_z = lambda s: s.memory.z
    assert len(_outcomes(F2SA(0.1, 0.1, batch_size=1, inner_steps=2), of_z)) == q.I**2


@pytest.mark.parametrize(
    ("make", "terms"),
    [
        (lambda **k: TTSA(0.2, 1.0, **k), 2),
        (lambda **k: StocBiO(0.2, 1.0, inner_steps=1, **k), 3),
        (lambda **k: AmIGO(0.2, 1.0, inner_steps=1, **k), 2),
    ],
    ids=["TTSA", "StocBiO", "AmIGO"],
)
def test_given_the_new_y_the_direction_has_the_mean_of_all_batches(make: Any, terms: int) -> None:
    """The batch of y is not that of the cross product: for each of the values that y may take."""
    init, step = make(batch_size=1, linear_steps=2, linear_step_size=ETA)(q.problem())

    def moved(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        new, _ = step(init(key, q.Y0, q.X0))
        return new.y, q.X0 - new.theta

    y, directions = map(
        np.asarray, jax.jit(jax.vmap(moved))(jax.random.split(jax.random.key(6), DRAWS))
    )
    values, which = np.unique(np.round(y, 10), axis=0, return_inverse=True)
    assert len(values) == q.I
    for i, at in enumerate(values):
        part = directions[which.ravel() == i]
        expected = q.hypergradient(np.asarray(q.X0), at, q.truncated(ETA, terms))
        assert np.all(np.abs(part.mean(0) - expected) < 5 * part.std(0) / len(part) ** 0.5)


def test_pzobo_s_trajectories_share_their_batches() -> None:
    """Else a difference over a small radius explodes."""
    settings = PZOBO(0.1, 1.0, batch_size=1, inner_steps=2, directions=1, radius=1e-6)
    assert np.max(np.abs(_outcomes(settings, lambda s: s.theta))) < 1e3
