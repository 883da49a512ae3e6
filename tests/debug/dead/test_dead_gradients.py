"""Dead inputs are named with their line, and nothing that can learn is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.experimental.ode import odeint
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import toolkit as tk
from toolkit.debug import dead_gradients
from toolkit.solver import GradientDescent

VECTOR = jax.ShapeDtypeStruct((3,), jnp.float64)
MATRIX = jax.ShapeDtypeStruct((3, 3), jnp.float64)
SCALAR = jax.ShapeDtypeStruct((), jnp.float64)
HERE = str(Path(__file__))


class Planted(NamedTuple):
    """A function whose argument 0 is dead, by the line that ends with `# dead`."""

    fn: Callable[..., Any]
    words: tuple[str, ...]  # of the reason
    specs: tuple[Any, ...]


PLANTED: list[Planted] = []


def planted(*words: str, specs: tuple[Any, ...] = (VECTOR,)) -> Callable[..., Any]:
    """Marks a function as a row of the table."""

    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        PLANTED.append(Planted(fn, words, specs))
        return fn

    return add


def _dead_line(fn: Callable[..., Any]) -> int:
    lines, first = inspect.getsourcelines(fn)
    marked = [i for i, line in enumerate(lines) if line.rstrip().endswith("# dead")]
    return first + marked[0] if marked else fn.__code__.co_firstlineno


@planted("`round`", "derivative is zero everywhere")
def rounded(x):
    y = 2 * x
    return jnp.sum(jnp.round(y) ** 2)  # dead


@planted("`floor`")
def floored(x):
    return jnp.sum(jnp.floor(x) * x.shape[0])  # dead


@planted("`ceil`")
def raised(x):
    z = jnp.ceil(x)  # dead
    return jnp.sum(jnp.tanh(z))


@planted("`sign`")
def signed(x):
    return jnp.sum(jnp.sign(x))  # dead


@planted("`trunc`")
def truncated(x):
    return jnp.sum(jnp.trunc(x))  # dead


@planted("`floor_divide`")
def divided(x):
    return jnp.sum(x // 2.0)  # dead


@planted("`argmax`")
def largest(x):
    i = jnp.argmax(x)  # dead
    return jnp.arange(3.0)[i]


@planted("`argmax`")
def one_hot(x):
    hard = jax.nn.one_hot(jnp.argmax(x), 3)  # dead
    return jnp.sum(hard * jnp.arange(3.0))


@planted("cast to int32", "integers have no gradient")
def cast(x):
    return jnp.sum(x.astype(jnp.int32) * 0.5)  # dead


@planted("cast to bool")
def cast_to_bool(x):
    return jnp.sum(x.astype(bool) * 0.5)  # dead


@planted("cast to int32")
def index(x):
    table = jnp.arange(10.0)
    return jnp.sum(table[jnp.clip(x, 0, 9).astype(jnp.int32)])  # dead


@planted("cast to int32")
def start_of_slice(x):
    start = x[0].astype(jnp.int32)  # dead
    return jnp.sum(jax.lax.dynamic_slice(jnp.arange(10.0), (start,), (2,)))


@planted("comparison `>`")
def accuracy(x):
    return jnp.mean((x > 0.5) * 1.0)  # dead


@planted("only used as the condition of `where`", "`>`", specs=(VECTOR, VECTOR))
def threshold(tau, x):
    return jnp.sum(jnp.where(x > tau, x, 0.0))  # dead


@planted("only used as the condition of `where`", "`<`", specs=(VECTOR, VECTOR))
def mask_kept_for_later(tau, x):
    keep = x < tau  # dead
    y = jnp.sin(x)
    return jnp.sum(jnp.where(keep, y, 0.0))


@planted("only used as the condition of `cond`", specs=(VECTOR, VECTOR))
def branch(p, x):
    total = jnp.sum(p)
    return jax.lax.cond(total > 0, lambda x: jnp.sum(x), lambda x: -jnp.sum(x), x)  # dead


@planted("only used as the condition of the loop", specs=(SCALAR, SCALAR))
def loop_limit(limit, x):
    return jax.lax.while_loop(
        lambda c: jnp.abs(c) < limit,  # dead
        lambda c: 2 * c + 1,
        x,
    )


@planted("`stop_gradient`", "stops the gradient")
def stopped(x):
    target = jax.lax.stop_gradient(jnp.exp(x))  # dead
    return jnp.sum(target**2)


@planted("`round`")
def rounded_after_a_side_path(x):
    # Inside, logsumexp stops the gradient of the maximum.
    z = jax.nn.logsumexp(x) + jnp.sum(jnp.where(x > 0, x, 0.0))
    return jnp.round(z)  # dead


@planted("`floor`")
def floored_and_compared(x):
    y = jnp.floor(x)  # dead
    return jnp.sum(jnp.where(x > 0, y, 2 * y))


@planted("not used by the function", specs=(VECTOR, VECTOR))
def unused(x, y):
    return jnp.sum(y**2)


@planted("not used by the function", specs=(VECTOR, VECTOR))
def computed_and_thrown_away(x, y):
    jnp.floor(x)
    return jnp.sum(y**2)


@planted("multiplication by zero")
def times_zero(x):
    return jnp.sum(x * 0.0)  # dead


@planted("multiplication by zero")
def times_a_mask_of_zeros(x):
    mask = jnp.zeros(3)
    return jnp.sum(jnp.exp(x) * mask)  # dead


@planted("multiplication by zero", specs=(MATRIX, VECTOR))
def zero_input(w, x):
    h = jnp.zeros_like(x)
    return jnp.sum(w @ h)  # dead


@planted("`x - x`")
def minus_itself(x):
    return jnp.sum(x - x)  # dead


@planted("`x ** 0`")
def to_the_zeroth(x):
    return jnp.sum(x**0)  # dead


@planted("`relu`", "other operand")
def negative_relu(x):
    return jnp.sum(jax.nn.relu(-jnp.exp(x)))  # dead


@planted("`max`", "other operand")
def never_the_larger(x):
    return jnp.sum(jnp.maximum(-jnp.square(x), 1.0))  # dead


@planted("`min`", "other operand")
def never_the_smaller(x):
    return jnp.sum(jnp.minimum(3.0, 5 + jnp.tanh(x)))  # dead


@planted("`clip`", "always")
def always_clipped(x):
    return jnp.sum(jnp.clip(jax.nn.sigmoid(x), 2.0, 3.0))  # dead


@planted("`where`", "never chooses", specs=(VECTOR, VECTOR))
def never_chosen(x, y):
    return jnp.sum(jnp.where(jnp.exp(y) >= 0, y, x))  # dead


@planted("`floor`", "inside the loop")
def floored_in_a_scan(x):
    def body(carry, t):
        carry = jnp.floor(carry)  # dead
        return carry + t, carry * t

    return jax.lax.scan(body, x[0], jnp.arange(4.0))[0]


@planted("cast to int32", "inside the loop")
def cast_in_a_fori_loop(x):
    def body(i, y):
        return y + x.astype(jnp.int32) * 0.5  # dead

    return jnp.sum(jax.lax.fori_loop(0, 5, body, jnp.zeros(3)))


@planted("`round`", "inside the loop")
def rounded_in_nested_loops(x):
    def inner(y, t):
        return jnp.round(y) * t, None  # dead

    def outer(y, _):
        return jax.lax.scan(inner, y, jnp.arange(1.0, 4.0))

    return jnp.sum(jax.lax.scan(outer, x, length=2)[0])


@jax.jit
def _quantised(x):
    return jnp.round(4 * x) / 4


@planted("`round`")
def rounded_under_jit(x):
    @jax.jit
    def quantised(x):
        return jnp.round(4 * x) / 4  # dead

    return jnp.sum(quantised(x))


@planted("`sign`")
def signed_under_remat(x):
    @jax.checkpoint
    def layer(x):
        return jnp.sign(jnp.sin(x))  # dead

    return jnp.sum(layer(x))


@planted("`floor`")
def floored_under_vmap(x):
    return jnp.sum(jax.vmap(lambda t: jnp.floor(t) * t.ndim + 1)(x))  # dead


@jax.custom_vjp
def scaled(x, scale):
    """A product whose backward pass forgets the scale."""
    return x * scale


scaled.defvjp(lambda x, s: (x * s, s), lambda s, bar: (bar * s, jnp.zeros_like(s)))


@planted("derivative rule of `scaled`", "zero", specs=(VECTOR, VECTOR))
def backward_of_zeros(scale, x):
    return jnp.sum(scaled(x, scale))  # dead


@jax.custom_jvp
def flat(x):
    """An identity whose tangent is zero."""
    return x


flat.defjvp(lambda primals, tangents: (primals[0], 0 * tangents[0]))


@planted("derivative rule of `flat`")
def tangent_of_zeros(x):
    return jnp.sum(flat(x))  # dead


@jax.custom_vjp
def straight_through(x):
    """`round` with the derivative of the identity."""
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, bar: (bar,))


@planted("`stop_gradient`")
def straight_through_then_stopped(x):
    y = straight_through(x)
    return jnp.sum(jax.lax.stop_gradient(y))  # dead


@planted("`floor`", specs=(VECTOR, MATRIX))
def matrix_of_a_solve(d, a):
    d = jnp.floor(d)  # dead
    product = lambda v: a @ a.T @ v + d * v
    return jnp.sum(
        jax.lax.custom_linear_solve(product, jnp.ones(3), lambda f, b: b, symmetric=True)
    )


@planted("`sign`")
def signed_in_a_shard_map(x):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(AxisType.Auto,))
    body = lambda x: jnp.sign(x)  # dead
    return jnp.sum(jax.shard_map(body, mesh=mesh, in_specs=P("i"), out_specs=P("i"))(x))


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: case.fn.__name__)
def test_planted(case: Planted):
    (found,) = dead_gradients(case.fn, *case.specs)
    name = next(iter(inspect.signature(case.fn).parameters))
    assert (found.path, found.file, found.line) == (name, HERE, _dead_line(case.fn)), found.reason
    for word in case.words:
        assert word in found.reason
    if "not used" not in found.reason:
        source = inspect.getsource(case.fn).splitlines()
        dead = next(line for line in source if line.endswith("# dead"))
        assert f"test_dead_gradients.py:{found.line}: {dead.strip()}" in found.reason


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: case.fn.__name__)
def test_planted_gradients_are_zero(case: Planted):
    if case.fn is loop_limit:
        pytest.skip("`while_loop` has no reverse mode: tested forwards below")
    random = np.random.default_rng(0)
    for _ in range(3):
        values = [jnp.asarray(random.normal(size=spec.shape)) for spec in case.specs]
        assert not np.any(jax.grad(case.fn)(*values))


def test_loop_limit_has_zero_tangent():
    _, dot = jax.jvp(lambda limit: loop_limit(limit, 0.5), (20.0,), (1.0,))
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
    _quantised(jnp.ones(3))  # cached, from another place
    (found,) = dead_gradients(lambda x: jnp.sum(_quantised(x)), VECTOR)
    assert found.line == inspect.getsourcelines(_quantised)[1] + 2


def _mlp(params, x):
    h = jax.nn.relu(x @ params["w1"] + params["b1"])
    return jnp.mean((h @ params["w2"]) ** 2)


def _rnn(w, xs):
    def cell(h, x):
        h = jnp.tanh(w @ h + x)
        return h, h

    return jnp.mean(jax.lax.scan(cell, jnp.zeros(3), xs)[1])


def _dropout(w, key):
    keep = jax.random.bernoulli(key, 0.5, (3,))
    return jnp.sum(jnp.where(keep, w / 0.5, 0.0) ** 2)


def _layer_norm(x, scale, bias):
    z = (x - jnp.mean(x)) / jnp.sqrt(jnp.var(x) + 1e-6)
    return jnp.sum((z * scale + bias) ** 3)


def _attention(w, x):
    scores = jnp.where(jnp.tril(jnp.ones((3, 3), bool)), x @ w @ x.T, -jnp.inf)
    return jnp.sum(jax.nn.softmax(scores) @ x)


def _carried_for_a_while(x):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, 2 * c[1]), (0, x))[1][0]


def _only_if_no_iteration(x):
    # A loop of unknown length may keep its start.
    return jnp.sum(jax.lax.while_loop(lambda c: c[0] > 3, jnp.floor, x))


def _shifted_carry(x):
    # x reaches the result only in the third iteration.
    body = lambda c, _: ((c[1], c[2], 0.0), None)
    return jax.lax.scan(body, (0.0, 0.0, x), length=2)[0][0]


def _remat_net(w, x):
    layer = jax.checkpoint(lambda h: jax.nn.gelu(w @ h))
    return jnp.sum(layer(layer(x)))


def _weights_by_sorting(x):
    order = jnp.argsort(x)
    return jnp.sum(x[order] * jnp.arange(3.0)) + jnp.max(jax.lax.top_k(x, 2)[0])


def _embedding(table, tokens):
    return jnp.sum(table[tokens] ** 2)


def _soft_choice(tau, x):
    return jnp.sum(jax.nn.sigmoid((x - tau) / 0.1) * x)


def _counted(x):
    # The first iterations alone would decide the comparison.
    body = lambda i, y: jnp.where(i >= 5, y + x, y)
    return jnp.sum(jax.lax.fori_loop(0, 10, body, jnp.zeros(3)))


def _estimated(logits, key):
    """A score-function surrogate: its value is constant, its gradient is not."""
    log_p = jax.nn.log_softmax(logits)[jax.random.categorical(key, logits)]
    return 3.0 * jnp.exp(log_p - jax.lax.stop_gradient(log_p))


@jax.custom_vjp
def _reversed(x):
    return x


_reversed.defvjp(lambda x: (x, None), lambda _, bar: (-bar,))


@jax.custom_vjp
def _constant_gradient(x):
    """Descends along ones, whatever the cotangent."""
    return jnp.sum(x)


_constant_gradient.defvjp(lambda x: (jnp.sum(x), x), lambda x, bar: (jnp.ones_like(x),))


def _ode(x):
    # Its rule calls itself.
    return jnp.sum(odeint(lambda y, t, p: -y * p, jnp.ones(3), jnp.linspace(0, 1.0, 3), x))


_STE = lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x)
_KEY = jax.random.key(0)
_MLP = {"w1": MATRIX, "b1": VECTOR, "w2": VECTOR}
HEALTHY: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "mlp": (_mlp, (_MLP, MATRIX)),
    "relu": (lambda x: jnp.sum(jax.nn.relu(x)), (VECTOR,)),
    "rnn": (_rnn, (MATRIX, MATRIX)),
    "dropout": (_dropout, (VECTOR, _KEY)),
    "layer norm": (_layer_norm, (VECTOR, VECTOR, VECTOR)),
    "attention": (_attention, (MATRIX, MATRIX)),
    "carried for a while": (_carried_for_a_while, (VECTOR,)),
    "only if no iteration": (_only_if_no_iteration, (VECTOR,)),
    "shifted carry": (_shifted_carry, (SCALAR,)),
    "remat": (_remat_net, (MATRIX, VECTOR)),
    "sorting": (_weights_by_sorting, (VECTOR,)),
    "embedding": (_embedding, (MATRIX, jax.ShapeDtypeStruct((5,), jnp.int32))),
    "soft choice": (_soft_choice, (SCALAR, VECTOR)),
    "counted": (_counted, (VECTOR,)),
    "score function": (_estimated, (VECTOR, _KEY)),
    "straight-through by stop_gradient": (lambda x: jnp.sum(_STE(x) ** 2), (VECTOR,)),
    "straight-through by rule": (lambda x: jnp.sum(straight_through(x) ** 2), (VECTOR,)),
    "straight-through, bounded": (lambda x: jnp.sum(_STE(jax.nn.sigmoid(x))), (VECTOR,)),
    "reversed": (lambda x: jnp.sum(_reversed(x)), (VECTOR,)),
    "constant gradient": (_constant_gradient, (VECTOR,)),
    "clip": (lambda x: jnp.sum(jnp.clip(x, -1, 1)), (VECTOR,)),
    "leaky": (lambda x: jnp.sum(jax.nn.leaky_relu(-jnp.exp(x))), (VECTOR,)),
    "max with zero of a norm": (lambda x: jnp.maximum(jnp.linalg.norm(x) - 0.1, 0), (VECTOR,)),
    "both sides of where": (lambda x: jnp.sum(jnp.where(x > 0, x, 2 * x)), (VECTOR,)),
    "remainder": (lambda x: jnp.sum(x % 0.7), (VECTOR,)),
    "logsumexp": (lambda x: jax.nn.logsumexp(x), (VECTOR,)),
    "huber": (lambda x: jnp.sum(optax.losses.huber_loss(x)), (VECTOR,)),
    "cosine of unit vectors": (lambda x: 1 - jnp.sum(x / jnp.linalg.norm(x)), (VECTOR,)),
    "one of two uses": (lambda x: jnp.sum(jnp.floor(x) + 0 * x + x), (VECTOR,)),
    "pytree of results": (lambda x: {"loss": jnp.sum(x), "hits": jnp.sum(x > 0)}, (VECTOR,)),
    "cholesky": (lambda a: jnp.sum(jnp.linalg.cholesky(a @ a.T + 3 * jnp.eye(3))), (MATRIX,)),
    "fft": (lambda x: jnp.sum(jnp.abs(jnp.fft.rfft(x)) ** 2), (VECTOR,)),
    "ode": (_ode, (VECTOR,)),
    "quantile": (lambda x: jnp.quantile(x, 0.4), (VECTOR,)),
    "interpolation": (lambda x: jnp.interp(0.3, jnp.arange(3.0), x), (VECTOR,)),
}


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
    values = [jnp.asarray(random.normal(size=s.shape)) if s is not _KEY else s for s in specs]
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


def inner_loss(y, theta):
    """Only `weight` can be learned: the two others are killed on the way."""
    degree = jnp.floor(theta["degree"])  # floored
    fixed = jax.lax.stop_gradient(theta["fixed"])  # fixed
    return jnp.sum((y - theta["weight"] * degree) ** 2) + 0.1 * jnp.sum((y - fixed) ** 2)


THETA = {"degree": SCALAR, "fixed": VECTOR, "weight": VECTOR}
DESCENT = GradientDescent(0.1, 8, 0.5)
ADJOINTS = {
    "implicit": tk.adjoint.Implicit(),
    "cg": tk.adjoint.Implicit(tk.linear.CG(5, 1e-6), damping=0.1),
    "dense": tk.adjoint.Implicit(tk.linear.Dense()),
    "unroll": tk.adjoint.Unroll(),
    "sqrt": tk.adjoint.Unroll(checkpoint="sqrt"),
    "unroll_forward": tk.adjoint.Unroll(forward_mode=True),
    "truncated": tk.adjoint.Truncated(3),
    "one_step": tk.adjoint.OneStep(),
    "forward": tk.adjoint.Forward(),
    "reversible": tk.adjoint.Reversible(),
    "centered": tk.adjoint.Nudged(0.1),
    "holomorphic": tk.adjoint.Nudged(0.1, "holomorphic"),
}


def _outer(y, theta):
    return jnp.sum((y - 1) ** 2)


def _inner_line(mark: str) -> int:
    lines, first = inspect.getsourcelines(inner_loss)
    return first + next(i for i, line in enumerate(lines) if line.rstrip().endswith(f"# {mark}"))


def _hyper_objective(solve, theta, y0):
    return _outer(solve(y0, theta).value, theta)


def _through_hypergradient(solve, theta, y0):
    return tk.hypergradient(_outer, solve)(y0, theta).value


@pytest.mark.parametrize("objective", [_hyper_objective, _through_hypergradient])
@pytest.mark.parametrize("rule", ADJOINTS)
def test_hyperparameters_killed_in_the_inner_objective(rule: str, objective: Any):
    solve = tk.argmin(inner_loss, DESCENT, adjoint=ADJOINTS[rule])
    found = dead_gradients(partial(objective, solve), THETA, VECTOR)
    assert [dead.path for dead in found] == ["theta['degree']", "theta['fixed']"]
    assert [dead.line for dead in found] == [_inner_line("floored"), _inner_line("fixed")]
    assert "`floor`" in found[0].reason
    assert "`stop_gradient`" in found[1].reason
    assert all(dead.file == HERE for dead in found)


@pytest.mark.parametrize("rule", ["implicit", "unroll", "one_step", "centered"])
def test_hypergradients_agree(rule: str):
    solve = tk.argmin(inner_loss, GradientDescent(0.1, 100, 0.5), adjoint=ADJOINTS[rule])
    theta = {"degree": jnp.array(2.5), "fixed": jnp.arange(3.0), "weight": jnp.ones(3)}
    gradient = jax.grad(partial(_hyper_objective, solve))(theta, jnp.zeros(3))
    assert not np.any(gradient["degree"]) and not np.any(gradient["fixed"])
    assert np.all(gradient["weight"])


def test_a_start_is_dead_by_theory_under_the_implicit_rule():
    solve = tk.argmin(inner_loss, DESCENT)

    def objective(y0, theta):
        return _outer(solve(y0, theta).value, theta)  # dead

    (found,) = dead_gradients(objective, VECTOR, THETA)
    assert (found.path, found.file, found.line) == ("y0", HERE, _dead_line(objective))
    assert "toolkit.adjoint.implicit" in found.reason
    unrolled = tk.argmin(inner_loss, DESCENT, adjoint=tk.adjoint.Unroll())
    assert dead_gradients(lambda y0, t: _outer(unrolled(y0, t).value, t), VECTOR, THETA) == ()


def test_a_stopped_solve_is_named_at_its_call():
    solve = tk.argmin(inner_loss, DESCENT, adjoint=tk.adjoint.Stopped())
    found = {d.path: d for d in dead_gradients(partial(_hyper_objective, solve), THETA, VECTOR)}
    assert set(found) == {"theta['degree']", "theta['fixed']", "theta['weight']"}
    assert found["theta['degree']"].line == _inner_line("floored")
    weight = found["theta['weight']"]
    assert "toolkit.adjoint.stopped" in weight.reason
    assert weight.line == _hyper_objective.__code__.co_firstlineno + 1


def test_step_sizes_are_dead_by_theory_under_the_implicit_rule():
    solver = GradientDescent(lambda theta, step: theta["rate"], 8)
    fun = lambda y, theta: jax.nn.logsumexp(y) + jnp.sum((y - theta["weight"]) ** 2)
    theta = {"rate": SCALAR, "weight": VECTOR}
    objective = partial(_hyper_objective, tk.argmin(fun, solver))
    (found,) = dead_gradients(objective, theta, VECTOR)
    assert found.path == "theta['rate']"
    assert "`stop_gradient` of toolkit.adjoint.implicit" in found.reason
    unrolled = tk.argmin(fun, solver, adjoint=tk.adjoint.Unroll())
    assert dead_gradients(partial(_hyper_objective, unrolled), theta, VECTOR) == ()


def test_no_warning_is_used_up(recwarn):
    solve = tk.argmin(lambda y, t: jnp.sum((y - t) ** 2), DESCENT)
    dead_gradients(lambda y0, t: _outer(solve(y0, t).value, t), VECTOR, VECTOR)
    assert not recwarn


@pytest.mark.parametrize("kind", ["root", "fixed_point"])
def test_other_solves(kind: str):
    if kind == "root":
        solve = tk.root(lambda y, t: y**3 + t["a"] - jnp.round(t["b"]), tk.solver.Newton(5, 1e-6))
    else:
        step = lambda y, t: 0.5 * jnp.cos(y * t["a"]) + jnp.round(t["b"])
        solve = tk.fixed_point(step, tk.solver.FixedPointIteration(20, 1e-6))
    theta = {"a": VECTOR, "b": VECTOR}
    (found,) = dead_gradients(lambda t: jnp.sum(solve(jnp.ones(3), t).value), theta)
    assert found.path == "t['b']"
    assert "`round`" in found.reason


@pytest.mark.parametrize(
    "policy",
    [tk.control.store(), tk.control.checkpoint(), tk.control.truncate(2), tk.control.forward()],
    ids=lambda policy: type(policy).__name__,
)
def test_loops_with_policies(policy: Any):
    def loss(theta):
        def body(carry, t):
            return carry * theta["a"] + jnp.floor(theta["b"]) * t, None  # dead

        return tk.loop(body, jnp.ones(()), jnp.arange(5.0), gradient=policy)[0]

    (found,) = dead_gradients(loss, {"a": SCALAR, "b": SCALAR})
    assert (found.path, found.line) == ("theta['b']", _dead_line(loss))


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="`fn` must be callable: got int"):
        dead_gradients(3, VECTOR)
    with pytest.raises(ValueError, match="`argnums` must point at one of the 1 `specs`: got 1"):
        dead_gradients(signed, VECTOR, argnums=1)
    with pytest.raises(TypeError, match="`argnums` must be an int"):
        dead_gradients(signed, VECTOR, argnums="x")
    with pytest.raises(ValueError, match="floating array to differentiate: got int64"):
        dead_gradients(lambda x: jnp.argmax(x), VECTOR)
