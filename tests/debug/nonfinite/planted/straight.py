"""Bugs in straight-line code, forward."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from tests.debug.nonfinite.planted.bug import PARAMS, ROOT, Bug


def log_of_a_count(params, counts):
    return params["scale"] * jnp.sum(jnp.log(counts))  # here: log at zero


def normalised(rows):
    return rows / jnp.sum(rows, axis=1, keepdims=True)  # here: empty row


def softmax_by_hand(params, x):
    logits = params["dense"]["w"] * x
    scores = jnp.exp(logits)  # here: softmax by hand
    return scores / scores.sum()


def logsumexp_by_hand(x):
    total = jnp.sum(jnp.exp(x))  # here: logsumexp by hand
    return jnp.log(total)


def spread(x):
    variance = jnp.mean(x**2) - jnp.mean(x) ** 2
    return jnp.sqrt(variance - 1e-3)  # here: cancelled variance


def fractional_power(params):
    return jnp.sum(params["dense"]["w"] ** 0.3)  # here: power of a negative number


def fully_masked(scores, allowed):
    masked = jnp.where(allowed, scores, -jnp.inf)
    shifted = masked - masked.max(axis=1, keepdims=True)  # here: fully masked row
    weights = jnp.exp(shifted)
    return weights / weights.sum(axis=1, keepdims=True)


def gated(gate, x):
    rate = 1.0 / x  # here: zero times infinity
    return jnp.sum(gate * rate)


def half_precision(params, x):
    hidden = params["dense"]["w"].astype(jnp.float16) * x.astype(jnp.float16)
    energy = hidden * hidden  # here: float16 overflow
    return jnp.mean(energy.astype(jnp.float32))


def factorial(n):
    count = jnp.prod(jnp.arange(1, 35, dtype=jnp.int32), dtype=jnp.int32) * n
    return 1.0 / count  # here: integer overflow


def cross_entropy(params, labels):
    probabilities = jax.nn.softmax(1000.0 * params["dense"]["w"])
    return -jnp.sum(labels * jnp.log(probabilities))  # here: cross entropy


def two_faults(x):
    ignored = jnp.log(x)
    wanted = jnp.sqrt(x - 1.0)  # here: beside a masked fault
    both = ignored + wanted
    return both[1]


def ratio(x):
    size = jnp.log(x)  # here: spoilt before a division
    return size / (x + 1.0)


def bad_matrix(a):
    return jnp.linalg.cholesky(a).sum()  # here: indefinite matrix


_TABLE = jnp.array([1.0, jnp.nan, 3.0])


def with_table(x):
    return jnp.sum(x * _TABLE)  # here: constant


def inner_most(x):
    return jnp.log1p(x)  # here: nested jit


@jax.jit
def middle(x):
    return jax.jit(inner_most)(x) + 1.0


def outer_most(x):
    return jnp.sum(middle(x))


def per_example(w, x):
    return jnp.log(w * x)  # here: vmap


@functools.partial(jax.jit, static_argnums=1)
def with_static(x, power):
    return jnp.prod(jnp.stack([jnp.log(x)] * power))  # here: number as a number


def standardised(x):
    return jnp.sum(((x - x.mean()) / x.std()) ** 2)  # here: constant features


BUGS = {
    "log at zero": Bug(
        log_of_a_count,
        (PARAMS, jnp.array([3.0, 0.0])),
        "log",
        depends_on=("counts",),
        says="maximum",
    ),
    "empty row": Bug(
        normalised, (jnp.array([[1.0, 2.0], [0.0, 0.0]]),), "div", says="division by 0"
    ),
    "softmax by hand": Bug(
        softmax_by_hand,
        (PARAMS, 1000.0),
        "exp",
        depends_on=("params['dense']['w']", "x"),
        says="jax.nn.softmax",
    ),
    "logsumexp by hand": Bug(
        logsumexp_by_hand, (jnp.array([800.0, 1.0]),), "exp", says="logsumexp"
    ),
    "cancelled variance": Bug(spread, (jnp.array([1.0, 1.0]),), "sqrt", says="jnp.var"),
    "power of a negative number": Bug(
        fractional_power,
        (PARAMS,),
        "pow",
        depends_on=("params['dense']['w']",),
        says="negative base",
    ),
    "fully masked row": Bug(
        fully_masked,
        (jnp.ones((2, 2)), jnp.array([[True, False], [False, False]])),
        "sub",
        depends_on=("allowed", "scores"),
        says="masked",
    ),
    "zero times infinity": Bug(gated, (jnp.array([0.0, 1.0]), ROOT), "div", depends_on=("x",)),
    "float16 overflow": Bug(half_precision, (PARAMS, jnp.array([200.0])), "mul", says="float16"),
    "integer overflow": Bug(factorial, (1,), "div"),
    "cross entropy": Bug(
        cross_entropy, (PARAMS, jnp.array([0.0, 0.0, 1.0])), "log", says="log_softmax"
    ),
    "beside a masked fault": Bug(two_faults, (jnp.array([0.0, 0.5]),), "sqrt"),
    "spoilt before a division": Bug(ratio, (-1.0,), "log"),
    "indefinite matrix": Bug(
        bad_matrix, (jnp.array([[1.0, 2.0], [2.0, 1.0]]),), "cholesky", says="eye"
    ),
    "constant": Bug(with_table, (2.0,), "constant"),
    "nested jit": Bug(outer_most, (jnp.array([-3.0]),), "log1p", depends_on=("x",)),
    "number as a number": Bug(with_static, (-1.0, 3), "log", depends_on=("x",)),
    "constant features": Bug(jax.grad(standardised), (jnp.ones(3),), "div", says="division by 0"),
    "vmap": Bug(jax.vmap(per_example, (None, 0)), (2.0, jnp.array([1.0, -1.0])), "log"),
}
