"""Functions whose arguments can all learn, however strange the way is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental.ode import odeint

from tests.debug.dead.planted import MATRIX, SCALAR, VECTOR, straight_through


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
KEY = jax.random.key(0)
_MLP = {"w1": MATRIX, "b1": VECTOR, "w2": VECTOR}
HEALTHY: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "mlp": (_mlp, (_MLP, MATRIX)),
    "relu": (lambda x: jnp.sum(jax.nn.relu(x)), (VECTOR,)),
    "rnn": (_rnn, (MATRIX, MATRIX)),
    "dropout": (_dropout, (VECTOR, KEY)),
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
    "score function": (_estimated, (VECTOR, KEY)),
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
