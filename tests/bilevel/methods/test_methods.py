"""The laws of every bilevel method, on a quadratic whose minimiser and estimators are known.

A new method is one row in METHODS.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from tests import held_arrays
from tests.bilevel.methods import quadratic as q
from toolkit.bilevel import (
    AID,
    BOME,
    BSA,
    DARTS,
    F2SA,
    FSLA,
    HOAG,
    ITD,
    MRBO,
    PZOBO,
    SABA,
    SAMA,
    SOBA,
    SRBA,
    SUSTAIN,
    T1T2,
    TTSA,
    VRBO,
    AmIGO,
    StocBiO,
)

ETA = 0.2
STEP_SIZES = ("inner_step_size", "outer_step_size")


class Method(NamedTuple):
    make: Callable[..., Any]  # batch_size and overrides -> settings
    inverse: Callable[[], np.ndarray]  # what stands for A^{-1} at its full-batch fixed point
    gradients: Any  # a step's, with batches of 2; or those of three steps
    hvps: Any  # likewise; a range where they are random


def _exact() -> np.ndarray:
    return np.linalg.inv(q.MEAN["A"])


def _one_step() -> np.ndarray:
    return 0.2 * np.eye(q.N)


DOUBLE = {"inner_steps": 4, "linear_steps": 3}
SERIES = {"linear_steps": 3, "linear_step_size": ETA}
METHODS = {
    "SOBA": Method(lambda **k: SOBA(0.2, 0.2, **k), _exact, 2, 2),
    "SABA": Method(lambda **k: SABA(0.2, 0.2, **k), _exact, 2, 2),
    # batches of 2: two of the inner and one of the outer data
    "SRBA": Method(lambda **k: SRBA(0.2, 0.2, period=2, **k), _exact, (3, 4, 3), (4, 4, 4)),
    "FSLA": Method(lambda **k: FSLA(0.2, 0.2, **k), _exact, 4, 3),
    "AmIGO": Method(lambda **k: AmIGO(0.2, 0.2, **DOUBLE, **k), _exact, 5, 4),
    "AID": Method(lambda **k: AID(0.2, 0.2, **DOUBLE, **k), _exact, 5, range(2, 8)),
    "HOAG": Method(lambda **k: HOAG(0.2, 0.2, **k), _exact, range(2, 999), range(1, 99)),
    "ITD": Method(lambda **k: ITD(0.2, 0.2, inner_steps=4, **k), lambda: q.truncated(0.2, 4), 5, 4),
    "StocBiO": Method(
        lambda **k: StocBiO(0.2, 0.2, inner_steps=4, **SERIES, **k),
        lambda: q.truncated(ETA, 4),
        5,
        4,
    ),
    "BSA": Method(
        lambda **k: BSA(0.2, 0.2, inner_steps=4, **SERIES, **k),
        lambda: q.truncated(ETA, 3),
        5,
        range(1, 4),
    ),
    "TTSA": Method(
        lambda **k: TTSA(0.2, 0.2, **SERIES, **k), lambda: q.truncated(ETA, 3), 2, range(1, 4)
    ),
    "SUSTAIN": Method(
        lambda **k: SUSTAIN(0.2, 0.2, **SERIES, **k),
        lambda: q.truncated(ETA, 3),
        4,
        range(2, 7, 2),
    ),
    "MRBO": Method(lambda **k: MRBO(0.2, 0.2, **SERIES, **k), lambda: q.truncated(ETA, 4), 4, 8),
    "VRBO": Method(
        lambda **k: VRBO(0.2, 0.2, inner_steps=2, period=2, **SERIES, **k),
        lambda: q.truncated(ETA, 4),
        (15, 12, 15),
        (32, 24, 32),
    ),
    "T1T2": Method(lambda **k: T1T2(0.2, 0.2, **k), _one_step, 2, 1),
    "DARTS": Method(lambda **k: DARTS(0.2, 0.2, **k), _one_step, 5, 0),
    "SAMA": Method(lambda **k: SAMA(0.2, 0.2, **k), _one_step, 4, 0),
    # The next have fixed points of their own, see below.
    "F2SA": Method(lambda **k: F2SA(0.2, 0.05, inner_steps=3, **k), None, 12, 0),
    "F3SA": Method(lambda **k: F2SA(0.2, 0.05, inner_steps=1, momentum=0.3, **k), None, 6, 0),
    "BOME": Method(lambda **k: BOME(0.2, 0.2, inner_steps=4, **k), None, 7, 0),
    "PZOBO": Method(lambda **k: PZOBO(0.2, 0.2, inner_steps=2, directions=3, **k), None, 9, 0),
}
every = pytest.mark.parametrize("name", METHODS)
# The others run what these run, by the same functions: they are left to the slow tests.
COMPILE_LONG = (
    "VRBO",
    "SUSTAIN",
    "MRBO",
    "FSLA",
    "F3SA",
    "BSA",
    "F2SA",
    "TTSA",
    "StocBiO",
    "PZOBO",
)  # 8 to 60 s each
FEW = ("SOBA", "FSLA", "AID", "T1T2")
few = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in METHODS],
)


def _run(settings: Any, steps: int, key: int = 0) -> tuple[Any, Any]:
    init, step = settings(q.problem())
    state = init(jax.random.key(key), q.Y0, q.X0)
    return jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s), s, None, steps))(state)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].inverse])
def test_full_batch_arrives_at_the_minimiser_or_at_the_stated_bias(name: str) -> None:
    method = METHODS[name]
    state, info = _run(method.make(), 4000)
    x, y = q.solution(method.inverse())
    np.testing.assert_allclose(state.theta, x, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(state.y, y, rtol=1e-9, atol=1e-10)
    assert info.gradient_norm[-1] < 1e-9 < info.gradient_norm[0]
    if hasattr(state, "v"):
        slope = q.MEAN["F"] @ y + q.MEAN["K"].T @ x + q.MEAN["p"]
        np.testing.assert_allclose(state.v, np.linalg.solve(q.MEAN["A"], slope), rtol=1e-8)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in COMPILE_LONG else ())
        for name in METHODS
    ],
)
def test_costs_are_documented_and_seeds_are_lanes(name: str) -> None:
    """Each row as its docstring counts; same key, same bits; a lane of `vmap` is a run of its own."""
    init, step = METHODS[name].make(batch_size=2)(q.problem())

    def run(seed: jax.Array) -> tuple[jax.Array, Any]:
        state, info = jax.lax.scan(
            lambda s, _: step(s), init(jax.random.key(seed), q.Y0, q.X0), None, 3
        )
        return state.theta, info

    theta, info = jax.jit(jax.vmap(run))(jnp.asarray([0, 0, 1]))
    np.testing.assert_array_equal(theta[0], theta[1])
    assert np.any(theta[0] != theta[2])
    alone = jax.jit(run)
    np.testing.assert_array_equal(alone(0)[0], alone(0)[0])
    np.testing.assert_allclose(theta[2], alone(1)[0], rtol=1e-12)
    for counted, documented in (
        (info.gradient_evals[0], METHODS[name].gradients),
        (info.hvp_evals[0], METHODS[name].hvps),
    ):
        if isinstance(documented, range):
            assert all(int(count) in documented for count in counted)
        else:
            assert list(counted) == list(np.broadcast_to(documented, 3))


@every
def test_data_are_arguments_of_the_compiled_step(name: str) -> None:
    wide = {key: np.repeat(array, 50, axis=0) for key, array in q.INNER.items()}
    start, data = (jax.random.key(0), q.Y0, q.X0), (wide, q.OUTER)
    init, step = METHODS[name].make(batch_size=2)(tk.bilevel.Problem(q.inner, q.outer))
    begun, state = jax.make_jaxpr(init, return_shape=True)(*start, data)
    assert held_arrays.largest(begun) < 200
    assert held_arrays.largest(jax.make_jaxpr(step)(state, data)) < 200
    if name == "SOBA":  # the problem's own data are constants
        init, step = METHODS[name].make(batch_size=2)(tk.bilevel.Problem(q.inner, q.outer, *data))
        assert jax.eval_shape(init, *start) == state
        assert held_arrays.largest(jax.make_jaxpr(step)(state)) > 1000


@pytest.mark.parametrize("name", ["SOBA", "AID"])
def test_given_data_are_those_of_a_problem_made_on_them(name: str) -> None:
    method, start = METHODS[name].make(batch_size=2), (jax.random.key(0), q.Y0, q.X0)
    others = jax.tree.map(lambda leaf: leaf[::-1] * 1.1, (q.INNER, q.OUTER))
    init, step = method(tk.bilevel.Problem(q.inner, q.outer, *others))
    expected, _ = tk.bilevel.iterate(step, init(*start), 3)
    init, step = method(q.problem())
    state, _ = tk.bilevel.iterate(step, init(*start, others), 3, data=others)
    np.testing.assert_allclose(state.theta, expected.theta, rtol=1e-12)


@few
def test_optax_in_place_of_step_sizes_and_schedules_of_the_step(name: str) -> None:
    rates = optax.polynomial_schedule(0.2, 0.1, 1, 4)
    make, words = type(METHODS[name].make()), _words(METHODS[name].make())
    by_number, _ = _run(make(0.2, 0.2, **words), 4)
    optimizers = {"outer_optimizer": optax.sgd(0.2)}
    if "inner_optimizer" in words:
        optimizers["inner_optimizer"] = optax.sgd(0.2)
    by_optax, _ = _run(make(0.2, 0.2, **words | optimizers), 4)
    np.testing.assert_allclose(by_optax.theta, by_number.theta, rtol=1e-12)
    scheduled, _ = _run(make(0.2, rates, **words), 4)
    assert np.all(scheduled.theta != by_number.theta)


def _words(settings: Any) -> dict[str, Any]:
    """All settings but the step sizes."""
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {name: fields[name] for name in fields if name not in STEP_SIZES}


@few
def test_trees_and_carried_leaves(name: str) -> None:
    """The same path on dicts that also hold an integer and a name."""
    plain, _ = _run(METHODS[name].make(), 6)
    wrapped = tk.bilevel.Problem(
        lambda y, t, batch: q.inner(y["w"], t["x"], batch),
        lambda y, t, batch: q.outer(y["w"], t["x"], batch),
        q.INNER,
        q.OUTER,
    )
    init, step = METHODS[name].make()(wrapped)
    state = init(jax.random.key(0), {"w": q.Y0, "n": 3}, {"x": q.X0, "name": None})
    for _ in range(6):
        state, _ = step(state)
    np.testing.assert_allclose(state.theta["x"], plain.theta, rtol=1e-12)
    assert state.y["n"] == 3 and state.theta["name"] is None


# ---------------------------------------------------------------------------------------- refusals


def test_bad_settings_and_data_are_refused() -> None:
    for make in (FSLA, SOBA, AmIGO, StocBiO):
        with pytest.raises(ValueError, match=r"`inner_step_size` must be a positive number"):
            make(-0.1, 0.1)
        with pytest.raises(ValueError, match=r"`outer_step_size` must be a positive number"):
            make(0.1, "fast")
        with pytest.raises(ValueError, match=r"`batch_size` must be an int of at least 1: got 0"):
            make(0.1, 0.1, batch_size=0)
        init, _ = make(0.1, 0.1)(q.problem())
        with pytest.raises(
            ValueError, match=r"`y0` must have floating leaves.*got complex128\[2\]"
        ):
            init(jax.random.key(0), q.Y0 + 0j, q.X0)
        with pytest.raises(ValueError, match=r"`theta0` must have floating leaves.*got int64\[\]"):
            init(jax.random.key(0), q.Y0, jnp.asarray(3))
        with pytest.raises(TypeError, match=r"`key` must be one key.*got 0"):
            init(0, q.Y0, q.X0)
        with pytest.raises(TypeError, match=r"`problem` must be a tk.bilevel.Problem"):
            make(0.1, 0.1)(q.inner)
        with pytest.raises(TypeError, match=r"`inner_optimizer` must be an optax transformation"):
            make(0.1, 0.1, inner_optimizer=optax.adam)
        vector = tk.bilevel.Problem(q.inner, lambda y, x, batch: y, q.INNER, q.OUTER)
        with pytest.raises(
            ValueError, match=r"`outer` must return a real scalar.*got float64\[2\]"
        ):
            make(0.1, 0.1)(vector).init(jax.random.key(0), q.Y0, q.X0)
    with pytest.raises(TypeError, match=r"`key` must be one key.*got"):
        init(jax.random.split(jax.random.key(0)), q.Y0, q.X0)
    init, step = SOBA(np.float32(0.1), 0.1, np.int64(4))(q.problem())
    assert np.all(step(init(jax.random.PRNGKey(0), q.Y0, q.X0))[0].theta != q.X0)  # an older key
    with pytest.raises(TypeError, match=r"`inner` must take \(y, theta, batch\): got \(y, x\)"):
        tk.bilevel.Problem(lambda y, x: 0.0, q.outer)
    with pytest.raises(ValueError, match=r"`linear_steps` must be an int of at least 1: got 0"):
        AID(0.1, 0.1, linear_steps=0)
    with pytest.raises(
        ValueError, match=r"`momentum` must be a number in \(0, 1\], or an optax schedule .*: got 2"
    ):
        FSLA(0.1, 0.1, momentum=2)
    with pytest.raises(ValueError, match=r"`inner_steps` must be an int of at least 1: got 0"):
        AmIGO(0.1, 0.1, inner_steps=0)
    with pytest.raises(ValueError, match=r"`linear_step_size` must be a number, and given where"):
        StocBiO(optax.constant_schedule(0.1), 0.1)
    with pytest.raises(ValueError, match=r"`inner_data` must have leaves that share"):
        tk.bilevel.Problem(q.inner, q.outer, {"a": jnp.ones(3), "b": jnp.ones(4)}, q.OUTER)
    with pytest.raises(TypeError, match=r"`outer` must be callable"):
        tk.bilevel.Problem(q.inner, 3.0)


def test_bad_data_are_refused() -> None:
    init, step = SABA(0.1, 0.1, batch_size=1)(q.problem())
    start = jax.random.key(0), q.Y0, q.X0
    state, pair = init(*start), r"`data` must be the pair \(inner_data, outer_data\): got"
    one = tk.data.Labelled(jnp.ones((3, 2)), jnp.zeros(3))
    for data in (q.INNER, 3, one, (q.INNER,), [q.INNER, q.OUTER, None]):
        for call in (lambda d: init(*start, d), lambda d: step(state, d)):
            with pytest.raises(ValueError, match=pair):
                call(data)
        with pytest.raises(ValueError, match=pair):
            tk.bilevel.iterate(step, state, 1, data=data)
    # Columns of one data set in place of two data sets.
    with pytest.raises(ValueError, match=r"`data` must be .* the structure of the problem's: got"):
        step(state, (q.INNER["A"], q.INNER["C"]))
    with pytest.raises(ValueError, match=r"`inner_data` must have leaves that share"):
        step(state, (q.INNER | {"a": q.INNER["a"][:2]}, q.OUTER))
    # SABA remembers every block: on other blocks its memory would be read in the wrong rows.
    fewer = {name: array[:2] for name, array in q.INNER.items()}
    with pytest.raises(ValueError, match="`data` must be those that `init` had: the state has 3"):
        step(state, (fewer, q.OUTER))


@few
def test_a_method_that_diverges_ends_in_not_finite_with_its_step_and_name(name: str) -> None:
    settings = METHODS[name].make()
    init, step = dataclasses.replace(settings, inner_step_size=1e30, outer_step_size=1e30)(
        q.problem()
    )
    state = init(jax.random.key(0), q.Y0, q.X0)
    named = name
    with pytest.raises(
        FloatingPointError, match=rf"^{named}: not finite at step \d+: .*lower its"
    ) as e:
        tk.bilevel.iterate(step, state, 60, every=20)
    at = int(str(e.value).split("at step ")[1].split(":")[0])
    # The step named is the first: the one before is still finite.
    for _ in range(at - 1):
        state, _ = step(state)
    assert np.all(np.isfinite(state.theta)) and np.all(np.isfinite(state.y))


def test_hoag_does_not_take_nan_for_solved() -> None:
    inner = lambda y, t, _: jnp.mean((y - jnp.asarray([1.0, jnp.nan])) ** 2) + t * jnp.sum(y**2)
    problem = tk.bilevel.Problem(inner, lambda y, t, _: jnp.sum(y**2))
    init, step = HOAG(0.1, 0.1)(problem)
    with pytest.raises(FloatingPointError, match="HOAG: not finite at step 1: theta, y"):
        tk.bilevel.iterate(step, init(jax.random.key(0), jnp.ones(2), jnp.asarray(0.5)), 5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_hoag_solves_in_every_type_at_every_scale(dtype: Any) -> None:
    """Its floor is relative: a small loss is still solved; the state keeps its types under scan."""
    for scale in (1.0, 1e-4):
        inner = lambda y, t, _, scale=scale: scale * jnp.sum((y - t) ** 2).astype(dtype)
        problem = tk.bilevel.Problem(inner, lambda y, t, _: jnp.sum(y - 1).astype(dtype) ** 2)
        init, step = HOAG(0.4 / scale, 0.1, tol=0.1 * scale)(problem)
        start = init(jax.random.key(0), jnp.zeros(1, dtype), jnp.asarray(0.5, dtype))
        state, _ = tk.bilevel.iterate(step, start, 60, every=60)
        # bfloat16 has a unit of 0.008 at 1; what does not solve stays at 0.5.
        np.testing.assert_allclose(np.asarray(state.theta, float), 1, atol=0.05)


@few
def test_a_donated_state_takes_nothing_of_the_caller_s(name: str) -> None:
    init, step = METHODS[name].make()(q.problem())
    key, y0, x0 = jax.random.key(0), q.Y0 + 0, q.X0 + 0
    state, step = init(key, y0, x0), jax.jit(step, donate_argnums=0)
    for _ in range(2):
        state, _ = step(state)
    assert np.all(np.isfinite([*(y0 + 1), *(x0 + 1), jax.random.uniform(key)]))


def test_saba_writes_its_table_in_place() -> None:
    """In a donated step, and in a loop of them: no copy of the table among the temporary bytes."""
    data = {name: np.repeat(array, 500, axis=0) for name, array in q.INNER.items()}
    init, step = SABA(0.1, 0.1, batch_size=1)(q.problem(data))
    state = init(jax.random.key(0), q.Y0, q.X0)
    table = sum(leaf.nbytes for leaf in jax.tree.leaves(state.memory))
    loop = lambda s: jax.lax.fori_loop(0, 9, lambda _, s: step(s)[0], s)
    for program in (step, loop):
        compiled = jax.jit(program, donate_argnums=0).lower(state).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < table / 10


@few
def test_an_infinite_log_penalty_is_a_start_like_another(name: str) -> None:
    """theta = -inf where `exp(theta)` penalises: no memory is made of it by multiplication with 0."""
    inner = lambda y, t, _: jnp.sum((y - 1) ** 2) + jnp.exp(t[0]) * y[0] ** 2 + t[1] * y[1] ** 2
    problem = tk.bilevel.Problem(inner, lambda y, t, _: jnp.sum(y**2))
    init, step = METHODS[name].make()(problem)
    start = init(jax.random.key(0), q.Y0, jnp.asarray([-jnp.inf, 0.5]))
    state, _ = jax.jit(step)(start)
    assert np.all(np.isfinite(state.y))
    assert np.isneginf(state.theta[0]) and np.isfinite(state.theta[1])
