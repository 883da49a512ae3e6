"""Functions with a dead argument; the line that kills it ends with `# dead`. A new one is one function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

VECTOR = jax.ShapeDtypeStruct((3,), jnp.float64)
MATRIX = jax.ShapeDtypeStruct((3, 3), jnp.float64)
SCALAR = jax.ShapeDtypeStruct((), jnp.float64)


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


def dead_line(fn: Callable[..., Any]) -> int:
    """The line of `fn` that ends with `# dead`, or its first line."""
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
def quantised_elsewhere(x):
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
