"""Bugs whose value is finite and whose derivative is not, under every transformation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from tests.debug.nonfinite.planted.bug import PARAMS, ROOT, Bug


def where_log(params, x):
    kept = params["scale"] * x
    return jnp.sum(jnp.where(kept > 0, jnp.log(kept), 0.0))  # here: where around log


def where_sqrt(x):
    root = jnp.sqrt(x)  # here: where around sqrt
    return jnp.sum(jnp.where(x > 0, root, 0.0))


def where_negative_sqrt(x):
    root = jnp.sqrt(x)  # here: where around sqrt of a negative number
    return jnp.sum(jnp.where(x > 0, root, 0.0))


def distance(params, target):
    return jnp.linalg.norm(params["dense"]["w"] - target)  # here: norm at zero


def angle(u, v):
    cosine = u @ v
    return jnp.arccos(cosine)  # here: arccos at one


def deviation(x):
    return jnp.std(x)  # here: std of a constant


def both_bad(x):
    root = jnp.sum(jnp.sqrt(x))
    return jnp.log(-root)  # here: forward before slopes


@jax.custom_jvp
def bounded(x):
    return jnp.tanh(x)


@bounded.defjvp
def _bounded_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    slope = jnp.sin(x) / x  # here: custom jvp
    return bounded(x), slope * dx


@jax.custom_vjp
def straight(x):
    return jnp.round(x)


def _straight_forward(x):
    return jnp.round(x), x


def _straight_backward(x, bar):
    return (bar / jnp.abs(x),)


straight.defvjp(_straight_forward, _straight_backward)


def quantized(x):
    # JAX records the call of a function with a custom_vjp, not the lines of its backward rule.
    return jnp.sum(straight(x))  # here: custom vjp


@jax.checkpoint
def block(w, x):
    hidden = jnp.log(w * x)  # here: checkpoint
    return jnp.sin(hidden)


@jax.checkpoint
def masked_block(w, x):
    hidden = jnp.sqrt(w * x)  # here: slope in a checkpoint
    return jnp.where(x > 0, jnp.sin(hidden), 0.0)


def tangent(params):
    target = params["dense"]["w"]
    return jax.jvp(lambda p: distance(p, target), (params,), (params,))


def tangent_of_log(x):
    return jax.jvp(jnp.log, (x,), (1.0,))  # here: value in forward mode


def update(params, x):
    def loss(params):
        return jnp.sum(jnp.log(params["dense"]["w"]) * x)  # here: training step

    value, grads = jax.value_and_grad(loss)(params)
    new = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    return new, {"loss": jnp.mean(value)}


def adam_loss(params, rate):
    optimizer = optax.adam(rate)
    gradient = jax.grad(lambda p: jnp.sum(p["dense"]["w"] ** 2) * 0)(params)
    scaled = jax.tree.map(lambda g, p: g * p, gradient, params)
    updates, _ = optimizer.update(scaled, optimizer.init(params), params)  # here: Adam slope
    return jnp.sum(optax.apply_updates(params, updates)["dense"]["w"])


BUGS = {
    "where around log": Bug(
        jax.grad(where_log), (PARAMS, ROOT), "div", "backward", says="jnp.where(ok"
    ),
    "where around sqrt": Bug(
        jax.grad(where_sqrt), (ROOT,), "div", "derivative", says="jnp.where(ok"
    ),
    "where around sqrt of a negative number": Bug(
        jax.value_and_grad(where_negative_sqrt), (jnp.array([-1.0, 4.0]),), "sqrt", "derivative"
    ),
    "norm at zero": Bug(
        jax.jit(jax.grad(distance)),
        (PARAMS, PARAMS["dense"]["w"]),
        "div",
        "derivative",
        depends_on=("params['dense']['w']", "target"),
        says="1e-12",
    ),
    "arccos at one": Bug(
        jax.grad(angle),
        (jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0])),
        "rsqrt",
        "derivative",
        says="clip",
    ),
    "std of a constant": Bug(
        jax.grad(deviation), (jnp.ones(3),), "div", "derivative", says="1e-12"
    ),
    "forward before slopes": Bug(jax.value_and_grad(both_bad), (ROOT,), "log"),
    "custom jvp": Bug(jax.grad(bounded), (0.0,), "div", "derivative"),
    "custom vjp": Bug(jax.grad(quantized), (ROOT,), "div", "backward"),
    "checkpoint": Bug(jax.grad(lambda w, x: block(w, x).sum()), (1.0, -ROOT), "log"),
    "slope in a checkpoint": Bug(
        jax.grad(lambda w, x: masked_block(w, x).sum()), (1.0, ROOT), "div", "derivative"
    ),
    "forward mode": Bug(tangent, (PARAMS,), "div", "derivative", line="norm at zero"),
    "value in forward mode": Bug(tangent_of_log, (-1.0,), "log"),
    "training step": Bug(
        jax.jit(update), (PARAMS, 1.0), "log", depends_on=("params['dense']['w']",)
    ),
    "Adam slope": Bug(jax.grad(adam_loss), (PARAMS, 0.1), "div", "derivative", says="eps_root"),
}
