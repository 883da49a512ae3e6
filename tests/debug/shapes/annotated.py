"""Programs with the annotation that each line must get, behind `# =>`; all other lines get none.

Sizes differ, so that a wrong array rarely has the right shape by chance. The tests run with 64 bits:
a counter is int64, while the arrays given are float32.
"""

# ruff: noqa: B007, E701, E702, F841, RUF059
# fmt: off

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

import toolkit as tk
from tests.debug.shapes import annotated_elsewhere


class Program(NamedTuple):
    """A function to annotate."""

    name: str
    fn: Callable[..., Any]
    specs: tuple[Any, ...]


PROGRAMS: list[Program] = []


def spec(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


X = spec(32, 8)
W = spec(8, 16)
ROW = spec(8)
KEY = jax.eval_shape(lambda: jax.random.key(0))


def program(*specs: Any, wrap: Callable[..., Any] = lambda fn: fn) -> Callable[..., Any]:
    """Marks a function as a row of the table, annotated as `wrap` makes it."""

    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        PROGRAMS.append(Program(getattr(fn, "__name__", str(fn)), wrap(fn), specs))
        return fn

    return add


@program(W, X)
def plain(w, x):  # => w: float32[8,16], x: float32[32,8]
    h = jnp.tanh(x @ w)  # => float32[32,16]
    return jnp.mean(jnp.square(h))  # => float32[]


@program({"w": W, "b": spec(16)}, (X, spec(32, dtype=jnp.int32)))
def unpacked(params, batch):  # => params: {'b': float32[16], 'w': float32[8,16]}, batch: (float32[32,8], int32[32])
    w, b = params["w"], params["b"]  # => w: float32[8,16], b: float32[16]
    x, y = batch  # => x: float32[32,8], y: int32[32]
    (first, *rest), last = (x, y, w), b  # => first: float32[32,8], rest: [int32[32], float32[8,16]], last: float32[16]
    alias = w  # => float32[8,16]
    n = x.shape[0]
    return x @ alias + last  # => float32[32,16]


@program(X)
def over_lines(x):  # => x: float32[32,8]
    y = (  # => float32[8]
        jnp.sum(
            x * 2,
            axis=0,
        )
    )
    z = jnp.concatenate(  # => float32[16]
        [y, y]
    )
    return (  # => float32[]
        z
        .sum()
    )


@program(
    X,
    W,
)
def parameters_over_lines(
    x,  # => x: float32[32,8]
    w,  # => w: float32[8,16]
    *rest,
    scale=2.0,
):
    return x @ w  # => float32[32,16]


@program(X)
def one_line(x):  # => x: float32[32,8]
    a = x.T; b = a @ x  # => a: float32[8,32], b: float32[8,8]
    if True: c = b[0]  # => float32[8]
    return (d := c[:3])  # => float32[3]


@program(X)
def scanned(x):  # => x: float32[32,8]
    def body(carry, row):  # => carry: float32[8], row: float32[8], x32 inside scan
        new = carry + row  # => float32[8], x32 inside scan
        return new, jnp.sum(new)  # => (float32[8], float32[]), x32 inside scan

    last, sums = lax.scan(body, jnp.zeros_like(x[0]), x)  # => last: float32[8], sums: float32[32]
    return last, sums  # => (float32[8], float32[32])


@program(X)
def nested_loops(x):  # => x: float32[32,8]
    def outer(total, row):  # => total: float32[], row: float32[8], x32 inside scan
        def inner(i, acc):  # => i: int64[], acc: float32[], x32 inside scan, x8 inside fori_loop
            term = row[i] * 2  # => float32[], x32 inside scan, x8 inside fori_loop
            return acc + term  # => float32[], x32 inside scan, x8 inside fori_loop

        total = lax.fori_loop(0, 8, inner, total)  # => float32[], x32 inside scan
        return total, None  # => (float32[], None), x32 inside scan

    total, nothing = lax.scan(outer, jnp.float32(0), x)  # => float32[]
    return total  # => float32[]


@program(ROW, spec(dtype=jnp.int32))
def loops_of_unknown_length(x, n):  # => x: float32[8], n: int32[]
    def going(carry):  # => carry: (float32[8], int32[]), inside while_loop
        y, i = carry  # => y: float32[8], i: int32[], inside while_loop
        return jnp.sum(y) < 10  # => bool[], inside while_loop

    def step(carry):  # => carry: (float32[8], int32[]), inside while_loop
        y, i = carry  # => y: float32[8], i: int32[], inside while_loop
        y *= 2  # => float32[8], inside while_loop
        return y, i + 1  # => (float32[8], int32[]), inside while_loop

    y, i = lax.while_loop(going, step, (x, n))  # => y: float32[8], i: int32[]

    def more(k, y):  # => k: int32[], y: float32[8], inside fori_loop
        return y + k  # => float32[8], inside fori_loop

    return lax.fori_loop(0, n, more, y)  # => float32[8]


@program(X, spec(dtype=jnp.int32))
def conditions(x, which):  # => x: float32[32,8], which: int32[]
    def then(x):  # => x: float32[32,8], inside cond
        half = x[:16]  # => float32[16,8], inside cond
        return half.sum(0)  # => float32[8], inside cond

    def otherwise(x):  # => x: float32[32,8], inside cond
        return x[0]  # => float32[8], inside cond

    row = lax.cond(which > 0, then, otherwise, x)  # => float32[8]

    def third(r):  # => r: float32[8], inside switch
        return r[:3]  # => float32[3], inside switch

    return lax.switch(which, [third, lambda r: r[3:6]], row)  # => float32[3]


@program(X)
def mapped(x):  # => x: float32[32,8]
    def one(row):  # => row: float32[8], x32 inside map
        return row[:3]  # => float32[3], x32 inside map

    def some(row):  # => row: float32[8], x32 inside map
        return row[:4]  # => float32[4], x32 inside map

    a = lax.map(one, x)  # => float32[32,3]
    b = lax.map(some, x, batch_size=5)  # => float32[32,4]
    return a.sum() + b.sum()  # => float32[]


@program(X)
def batched(x):  # => x: float32[32,8]
    def one(row):  # => row: float32[8], x32 inside vmap
        return row @ row  # => float32[], x32 inside vmap

    def column(c, scale):  # => c: float32[32], scale: float32[], x8 inside vmap
        return c * scale  # => float32[32], x8 inside vmap

    a = jax.vmap(one)(x)  # => float32[32]
    b = jax.vmap(column, in_axes=(1, None), out_axes=1)(x, a[0])  # => float32[32,8]
    c = jax.vmap(  # => float32[32,16]
        lambda r: jnp.concatenate([r, r]),  # => lambda: float32[16], x32 inside vmap
    )(x)
    return b + c[:, :8]  # => float32[32,8]


@program(0, X)
def scan_with_a_carry_that_is_promoted(start, x):  # => x: float32[32,8]
    def body(total, row):  # => total: float32[], row: float32[8], x32 inside scan
        total = total + row.sum()  # => float32[], x32 inside scan
        return total, total  # => (float32[], float32[]), x32 inside scan

    return lax.scan(body, start, x)  # => (float32[], float32[32])


@program(W, X, wrap=lambda fn: jax.jit(jax.grad(fn)))
def differentiated(w, x):  # => w: float32[8,16], x: float32[32,8]
    h = jax.nn.softmax(x @ w)  # => float32[32,16]
    keep = h > 0.5  # => bool[32,16]
    h = jnp.where(keep, h, 0)  # => float32[32,16]
    return jnp.sum(h**2)  # => float32[]


@program(W, X, wrap=lambda fn: jax.value_and_grad(functools.partial(fn, scale=2.0), has_aux=True))
def with_aux(w, x, scale):  # => w: float32[8,16], x: float32[32,8]
    y = scale * (x @ w)  # => float32[32,16]
    return jnp.sum(y), {"y": y, "kind": "aux"}  # => (float32[], {'y': float32[32,16], 'kind': str})


@program(X, wrap=lambda fn: jax.vmap(jax.grad(fn)))
def gradient_of_each_entry(row):  # => row: float32[8], x32 inside vmap
    y = jnp.outer(row, row)  # => float32[8,8], x32 inside vmap
    return jnp.trace(y)  # => float32[], x32 inside vmap


@program(ROW, wrap=jax.hessian)
def second_derivative(x):  # => x: float32[8], x8 inside vmap
    y = jnp.outer(x, x)  # => float32[8,8], x8 inside vmap
    return jnp.sum(y**2)  # => float32[], x8 inside vmap


@program(X, wrap=jax.grad)
def recomputed(x):  # => x: float32[32,8]
    @jax.checkpoint
    def block(x):  # => x: float32[32,8]
        h = jnp.sin(x)  # => float32[32,8]
        return h[:, :4]  # => float32[32,4]

    @jax.jit
    def twice(x):  # => x: float32[32,4]
        return x * 2  # => float32[32,4]

    return jnp.sum(twice(twice(block(x))))  # => float32[]


@program(ROW)
def own_rules(x):  # => x: float32[8]
    @jax.custom_vjp
    def squared(x):  # => x: float32[8]
        return x**2  # => float32[8]

    squared.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))

    @jax.custom_jvp
    def total(x):  # => x: float32[8]
        return x.sum()  # => float32[]

    total.defjvp(lambda p, t: (p[0].sum(), t[0].sum()))
    return total(squared(x))  # => float32[]


@jax.custom_vjp
def rounded(x):  # => NOT RUN
    return jnp.round(x)


def rounded_forward(x):
    return jnp.round(x), x.shape


rounded.defvjp(rounded_forward, lambda shape, g: (g,))


@program(ROW, wrap=jax.grad)
def with_a_custom_rule_under_grad(x):  # => x: float32[8]
    y = rounded(x)  # => float32[8]
    return jnp.sum(y)  # => float32[]


@program(ROW)
@tk.control_flow
def staged(x):  # => x: float32[8]
    total = jnp.zeros_like(x)  # => float32[8]
    for i in range(5):  # => int64[], x5 inside for
        h = x * i  # => float32[8], x5 inside for
        if h.sum() > 3:
            total = total + h  # => float32[8], x5 inside for, inside if
        else:
            total -= 1  # => float32[8], x5 inside for, inside if
    while total.sum() < 10:
        total = total + 1  # => float32[8], inside while
        half = total[:4]  # => float32[4], inside while
        if half[0] > 7:
            return half.sum()  # => float32[], inside while, inside if
    return jnp.prod(total)  # => float32[]


@program(X)
@tk.control_flow
def staged_with_a_number_that_becomes_an_array(x):  # => x: float32[32,8]
    total = 0
    rows = []
    for row in x:  # => float32[8], x32 inside for
        total = total + row  # => float32[8], x32 inside for
        rows.append(total[:3])
    stacked = jnp.stack(rows)  # => float32[32,3]
    return total if stacked.sum() > 0 else -total  # => float32[8]


@program(X, wrap=jax.grad)
def our_loops(x):  # => x: float32[32,8]
    def body(carry, row):  # => carry: float32[8], row: float32[8], x32 inside loop
        carry = carry * row  # => float32[8], x32 inside loop
        return carry, carry[0]  # => (float32[8], float32[]), x32 inside loop

    y, firsts = tk.loop(body, x[0], x, gradient=tk.control.checkpoint())  # => y: float32[8], firsts: float32[32]

    def going(y):  # => y: float32[8], at most x7 inside while_loop
        return jnp.sum(y) < 1  # => bool[], at most x7 inside while_loop

    y = tk.while_loop(going, lambda y: y + 1, y, max_steps=7)  # => float32[8]
    return jnp.sum(y) + firsts[-1]  # => float32[]


@program({"centre": spec(3)}, wrap=jax.grad)
def solved(theta):  # => theta: {'centre': float32[3]}
    def inner(y, theta):  # => y: float32[3], theta: {'centre': float32[3]}, x100 inside argmin
        r = y - theta["centre"]  # => float32[3], x100 inside argmin
        return jnp.sum(r**2)  # => float32[], x100 inside argmin

    solve = tk.argmin(inner, tk.solver.GradientDescent(0.1, 100))
    found = solve(jnp.zeros_like(theta["centre"]), theta)  # => Solution of 4 arrays, 6 numbers
    y = found.value  # => float32[3]
    return jnp.sum(y**3)  # => float32[]


@program(KEY, spec(32, dtype=jnp.bool_))
def keys_and_integers(key, mask):  # => key: key<fry>[], mask: bool[32]
    key, sub = jax.random.split(key)  # => key: key<fry>[], sub: key<fry>[]
    many = jax.random.split(sub, 4)  # => key<fry>[4]
    order = jax.random.permutation(key, 32).astype(jnp.int32)  # => int32[32]
    count = jnp.sum(mask, dtype=jnp.int8)  # => int8[]
    low = order.astype(jnp.bfloat16)  # => bfloat16[32]
    return order[mask.argmax()], many, count, low  # => (int32[], key<fry>[4], int8[], bfloat16[32])


@program([spec(8, 16), spec(16, 4)], X)
def layers_in_python(ws, x):  # => ws: [float32[8,16], float32[16,4]], x: float32[32,8]
    for i, w in enumerate(ws):  # => float32[8,16] | float32[16,4]
        x = x @ w  # => float32[32,16] | float32[32,4]
    with jax.named_scope("end"):
        return x.sum()  # => float32[]


def helper(x):  # => HELPER x: float32[32,8] | x: float32[8]
    return x * 2  # => HELPER float32[32,8] | float32[8]


@program(X)
def calls_others(x):  # => x: float32[32,8]
    a = helper(x)  # => float32[32,8]
    b = helper(a[0])  # => float32[8]
    return annotated_elsewhere.total(b)  # => float32[]


class State(NamedTuple):
    y: Any
    step: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pair:
    a: Any
    b: Any


@program(ROW)
def containers(x):  # => x: float32[8]
    state = State(x, 0)  # => State(y=float32[8], step=int)
    state = state._replace(y=state.y[:3])  # => State(y=float32[3], step=int)
    pair = Pair(x, {"n": x[:4]})  # => Pair(a=float32[8], b['n']=float32[4])
    table = {}
    table["x"] = x.sum()  # => float32[]
    pair.b = x[:3]  # => float32[3]
    many = [x] * 12  # => list of 12 arrays, 96 numbers
    try:
        y = x @ x[:3]
    except TypeError:
        y = x[:4]  # => float32[4]
    return (y, None)  # => (float32[4], None)


class Model:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x):  # => x: float32[32,8]
        self.seen = x[0]  # => float32[8]
        return self.inner(x)  # => float32[32,8]

    def inner(self, x):  # => METHOD x: float32[32,8]
        return x * self.scale  # => METHOD float32[32,8]


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):  # => x: float32[32,8]
        h = nn.Dense(16)(x)  # => float32[32,16]
        return nn.relu(h).sum(-1)  # => float32[32]


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(8, 16, rngs=rngs)

    def __call__(self, x):  # => self: Net of 2 arrays, 144 numbers, x: float32[32,8]
        h = self.first(x)  # => float32[32,16]
        return h.mean(1)  # => float32[32]


@program(X)
def with_generators(x):  # => x: float32[32,8]
    def rows(k):
        for i in range(k):
            r = x[i]  # => float32[8]
            yield r[:3]

    total = sum(rows(4))  # => float32[3]
    squares = [r @ r for r in x[:4]]  # => [float32[], float32[], float32[], float32[]]
    first = next(r.sum() for r in x)  # => float32[]
    return total.sum() + first  # => float32[]


@program(spec(8, dtype=jnp.complex64))
def numpy_inside(z):  # => z: complex64[8]
    table = np.ones((3, 4), np.float16)  # => float16[3,4]
    size = np.float32(2)  # => float32[]
    return z.real * size  # => float32[8]
