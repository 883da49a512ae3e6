"""Dead inputs are named with their line, and nothing that can learn is."""

from __future__ import annotations

import inspect
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.debug.dead import planted
from tests.debug.dead.healthy import HEALTHY, KEY
from tests.debug.dead.planted import MATRIX, PLANTED, SCALAR, VECTOR, Planted, dead_line
from toolkit.debug import dead_gradients

HERE = str(Path(__file__))


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: case.fn.__name__)
def test_planted(case: Planted):
    (found,) = dead_gradients(case.fn, *case.specs)
    name = next(iter(inspect.signature(case.fn).parameters))
    assert (found.path, found.file, found.line) == (name, planted.__file__, dead_line(case.fn)), (
        found.reason
    )
    for word in case.words:
        assert word in found.reason
    if "not used" not in found.reason:
        source = inspect.getsource(case.fn).splitlines()
        dead = next(line for line in source if line.endswith("# dead"))
        assert f"planted.py:{found.line}: {dead.strip()}" in found.reason


@pytest.mark.parametrize(
    "case",
    # A `while_loop` has no reverse mode: that one is tested forwards, below.
    [case for case in PLANTED if case.fn is not planted.loop_limit],
    ids=lambda case: case.fn.__name__,
)
def test_planted_gradients_are_zero(case: Planted):
    random = np.random.default_rng(0)
    for _ in range(3):
        values = [jnp.asarray(random.normal(size=spec.shape)) for spec in case.specs]
        assert not np.any(jax.grad(case.fn)(*values))


def test_loop_limit_has_zero_tangent():
    _, dot = jax.jvp(lambda limit: planted.loop_limit(limit, 0.5), (20.0,), (1.0,))
    assert dot == 0


def test_integers_and_keys_are_reported_as_such():
    params = {"n": jax.ShapeDtypeStruct((), jnp.int32), "w": VECTOR, "key": jax.random.key(0)}

    def loss(params):
        noise = jax.random.normal(params["key"], (3,))
        return jnp.sum(params["w"] * noise) + params["n"]

    found = {dead.path: dead.reason for dead in dead_gradients(loss, params)}
    assert found == {
        "params['n']": "is int32: integers have no gradient",
        "params['key']": "is key<fry>: key<fry> values have no gradient",
    }


def test_paths_name_argument_and_leaf():
    spec = {"layer": [{"w": MATRIX, "b": VECTOR}], "temperature": SCALAR}

    def loss(x, params, scale):
        return jnp.sum(params["layer"][0]["w"] @ x) / jnp.round(params["temperature"])

    found = dead_gradients(loss, VECTOR, spec, SCALAR, argnums=(1, 2))
    assert [dead.path for dead in found] == [
        "params['layer'][0]['b']",
        "params['temperature']",
        "scale",
    ]
    assert str(found[1]).startswith("params['temperature']: the gradient is always zero: `round`")


def test_flags_beside_the_arguments_stay_python():
    def loss(w, train, power):
        return jnp.sum(w**power) if train else jnp.sum(jnp.round(w))

    assert dead_gradients(loss, VECTOR, True, 2) == ()
    assert len(dead_gradients(loss, VECTOR, False, 2)) == 1


def test_arrays_serve_as_specs_and_nothing_is_run():
    ran = []

    def loss(x):
        jax.debug.callback(lambda: ran.append(1))
        return jnp.sum(jnp.where(jnp.isnan(x), 0.0, x))

    assert dead_gradients(loss, jnp.full(3, jnp.nan)) == ()
    assert not ran


def test_empty_arrays_are_no_alarm():
    assert dead_gradients(lambda x: jnp.sum(x), jax.ShapeDtypeStruct((0,), jnp.float64)) == ()


def test_composites_are_followed():
    # Their parameter of jax 0.10 has another name in jax 0.12.
    alive = jax.lax.composite(lambda x: 2 * x, name="test.double")
    dead = jax.lax.composite(jnp.round, name="test.round")
    assert dead_gradients(lambda x: alive(x).sum(), VECTOR) == ()
    (found,) = dead_gradients(lambda x: dead(x).sum(), VECTOR)
    assert "round" in found.reason


def test_a_line_in_a_jitted_function_is_its_own():
    planted.quantised_elsewhere(jnp.ones(3))  # cached, from another place
    (found,) = dead_gradients(lambda x: jnp.sum(planted.quantised_elsewhere(x)), VECTOR)
    assert found.line == inspect.getsourcelines(planted.quantised_elsewhere)[1] + 2


@pytest.mark.parametrize("name", HEALTHY)
def test_no_alarm(name: str):
    fn, specs = HEALTHY[name]
    floating = tuple(i for i, s in enumerate(specs) if not hasattr(s, "dtype") or s.dtype == float)
    first = floating if name in ("layer norm", "soft choice") else (0,)
    assert dead_gradients(fn, *specs, argnums=first) == ()


@pytest.mark.parametrize("name", ["relu", "counted", "score function", "leaky", "shifted carry"])
def test_the_healthy_have_gradients(name: str):
    fn, specs = HEALTHY[name]
    random = np.random.default_rng(0)
    values = [jnp.asarray(random.normal(size=s.shape)) if s is not KEY else s for s in specs]
    assert np.any(jax.grad(fn)(*values))


class Linen(nn.Module):
    """A classifier with one parameter that is rounded, if `rounded`."""

    rounded: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.relu(nn.Dense(4)(x)))
        gain = self.param("gain", nn.initializers.ones, ())
        return nn.Dense(2)(x * (jnp.round(gain) if self.rounded else gain))  # dead


@pytest.mark.parametrize("rounded", [False, True])
def test_linen(rounded: bool):
    model, x, labels = Linen(rounded), jnp.ones((5, 3)), jnp.zeros(5, int)

    def loss(params):
        entropy = optax.softmax_cross_entropy_with_integer_labels
        return jnp.mean(entropy(model.apply(params, x), labels))

    found = dead_gradients(loss, jax.eval_shape(model.init, jax.random.key(0), x))
    assert [dead.path for dead in found] == ["params['params']['gain']"] * rounded
    assert all("`round`" in dead.reason and dead.file == HERE for dead in found)


def test_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.embed, self.cell = nnx.Embed(7, 4, rngs=rngs), nnx.LSTMCell(4, 4, rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)
            self.spare = nnx.Linear(4, 2, use_bias=False, rngs=rngs)

        def __call__(self, tokens):
            x = self.embed(tokens)
            carry = self.cell.initialize_carry(x[0].shape, nnx.Rngs(0))
            for one in x:
                carry, h = self.cell(carry, one)
            return self.head(h)

    graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
    loss = lambda params: jnp.sum(nnx.merge(graph, params)(jnp.arange(3)) ** 2)
    (found,) = dead_gradients(loss, params)
    assert "spare" in found.path
    assert "not used" in found.reason


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="`fn` must be callable: got int"):
        dead_gradients(3, VECTOR)
    with pytest.raises(ValueError, match="`argnums` must point at one of the 1 `specs`: got 1"):
        dead_gradients(planted.signed, VECTOR, argnums=1)
    with pytest.raises(TypeError, match="`argnums` must be an int"):
        dead_gradients(planted.signed, VECTOR, argnums="x")
    with pytest.raises(ValueError, match="floating array to differentiate: got int64"):
        dead_gradients(lambda x: jnp.argmax(x), VECTOR)
