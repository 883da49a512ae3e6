"""Programs of one argument `x` of 8 numbers that a careless annotation would get wrong, or fail on."""

# ruff: noqa: E702, F841, SIM105
# fmt: off

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P


def retries(x):
    for k in range(3):
        try:
            y = x[: 2 + k] @ x[:4]
        except TypeError:
            continue
        finally:
            z = x[k]
    return y


def recursive(x):
    if x.shape[0] == 1:
        return x[0]
    half = x[: x.shape[0] // 2]
    return recursive(half)


def without_arrays(x):
    n = 3
    name = "a"
    return None


def keeps_state(x):
    keeps_state.last = x[:2]
    global _LEFT
    _LEFT = x[:3]
    return x


def deletes(x):
    y = x[:2]; del y
    z = w = x[:3]
    return w


def closes_over(x):
    y = x[:2]

    def inner():
        nonlocal y
        y = x[:3]
        return y

    inner()
    return y


def matches(x):
    match x.shape:
        case (n,):
            y = x[: n - 1]
        case _:
            y = x
    return y


def sharded(x):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))

    def part(x):
        y = x * 2
        return y

    return jax.shard_map(part, mesh=mesh, in_specs=P("d"), out_specs=P("d"))(x)


def trained(x):
    optimizer = optax.adam(1e-2)
    state = optimizer.init(x)
    g = jax.grad(lambda x: jnp.sum(x**2))(x)
    updates, state = optimizer.update(g, state)
    x = optax.apply_updates(x, updates)
    return x


def summed_by_scan(x):
    return jax.lax.associative_scan(lambda a, b: a + b, x)


def empty(x):
    pass


def in_with(x):
    with jax.named_scope("a"), jax.default_matmul_precision("float32") as p:
        y = x.sum()
        return y


def carried_scan(x):
    def body(c, _):
        c = c * 2
        return c, None

    for n in (2, 3):
        x = jax.lax.scan(body, x, length=n)[0]
    return x


def fails_midway(x):
    y = x[:2]
    try:
        y = y @ x
    except TypeError:
        pass
    return y
