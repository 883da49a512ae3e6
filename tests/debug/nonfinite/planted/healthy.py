"""Programs in which something is infinite or NaN on the way, and nothing is wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.debug.nonfinite.planted.bug import ROOT


def attention(q, k, v, allowed):
    scores = jnp.where(allowed, q @ k.T, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1) @ v


def best_of(xs):
    return lax.scan(lambda best, x: (jnp.maximum(best, x), None), -jnp.inf, xs)[0]


def online_logsumexp(xs):
    def body(carry, x):
        best, total = carry
        new = jnp.maximum(best, x)
        return (new, total * jnp.exp(best - new) + jnp.exp(x - new)), None

    best, total = lax.scan(body, (-jnp.inf, 0.0), xs)[0]
    return best + jnp.log(total)


def safe_log(x):
    return jnp.sum(jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), 0.0))


def masked_log(x):
    return jnp.sum(jnp.where(x > 0, jnp.log(x), 0.0))


def top_two(x):
    kept = jnp.where(x >= lax.top_k(x, 2)[0][-1], x, -jnp.inf)
    return jax.nn.softmax(kept)


def nearest(x):
    distances = jnp.abs(x[:, None] - x[None, :])
    return jnp.min(jnp.where(jnp.eye(len(x), dtype=bool), jnp.inf, distances), axis=1)


def causal(x):
    total = jnp.full((3, 3), -jnp.inf).at[jnp.tril_indices(3)].set(x)
    return jax.nn.logsumexp(total, axis=1)


def search(x):
    def body(state):
        low, best = state
        return low + 1, jnp.minimum(best, (low - x) ** 2)

    return lax.while_loop(lambda state: state[0] < 5, body, (0, jnp.inf))[1]


HEALTHY = {
    "masked attention": (
        attention,
        (jnp.eye(3), jnp.eye(3), jnp.eye(3), jnp.tril(jnp.ones((3, 3), bool))),
    ),
    "gradient of masked attention": (
        jax.grad(lambda *a: attention(*a).sum()),
        (jnp.eye(3), jnp.eye(3), jnp.eye(3), jnp.tril(jnp.ones((3, 3), bool))),
    ),
    "mask as an argument": (
        lambda x, mask: jax.nn.softmax(x + mask),
        (jnp.ones(3), jnp.array([0.0, -jnp.inf, 0.0])),
    ),
    "running maximum": (best_of, (jnp.array([-3.0, -1.0]),)),
    "online logsumexp": (online_logsumexp, (jnp.array([1.0, 1000.0, 3.0]),)),
    "gradient of a safe log": (jax.grad(safe_log), (ROOT,)),
    "masked log": (masked_log, (ROOT,)),
    "logsumexp with -inf": (jax.nn.logsumexp, (jnp.array([1.0, -jnp.inf]),)),
    "clip at infinity": (lambda x: jnp.clip(x, 0.0, jnp.inf), (ROOT,)),
    "top two": (top_two, (jnp.array([1.0, 5.0, 3.0]),)),
    "nearest neighbour": (nearest, (jnp.array([1.0, 5.0, 3.0]),)),
    "causal logsumexp": (causal, (jnp.arange(6.0),)),
    "smallest of a search": (search, (2.2,)),
    "exp of -inf": (lambda x: jnp.exp(jnp.log(x)), (ROOT,)),
    "nothing but integers": (lambda x: x // 2, (jnp.arange(3),)),
    "numpy arguments": (lambda x: jnp.sum(x), (np.arange(3.0),)),
    "no floating result": (lambda x: jnp.argmax(jnp.log(x)), (ROOT,)),
}
