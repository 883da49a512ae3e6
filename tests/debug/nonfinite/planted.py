"""Planted bugs: each line that makes the first non-finite value ends with `# here: NAME`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import toolkit as tk


class Bug(NamedTuple):
    """A function that returns something non-finite, and what the report must say."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    operation: str  # a part of the operation's words
    phase: str = "forward"
    iterations: tuple[tuple[str, int], ...] = ()
    depends_on: tuple[str, ...] | None = None
    says: str = ""  # a part of the suggestion
    line: str = ""  # the marker, where it is not the case's own name


def line_of(name: str) -> int:
    """The line marked with `# here: name`."""
    marked = [
        number
        for number, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if text.endswith(f"# here: {name}")
    ]
    assert len(marked) == 1, f"{name}: {marked}"
    return marked[0]


PARAMS = {"dense": {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array(0.5)}, "scale": jnp.array(2.0)}


# Straight through


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


# Slopes


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


# Loops


def scan_sqrt(params, x):
    def body(carry, t):
        m = jnp.sqrt(37.0 - t + 0 * carry)  # here: scan
        return carry + m * params["enc"]["w"], m

    return lax.scan(body, x, jnp.arange(50.0))[0]


def nested_scans(w):
    def outer(carry, i):
        def inner(carry, j):
            return carry / (3.0 - i * j), None  # here: nested scans

        return lax.scan(inner, carry, jnp.arange(4.0))[0], None

    return lax.scan(outer, w, jnp.arange(4.0))[0]


def halve(x):
    def body(state):
        step, x = state
        return step + 1, x - 1.0 + 0 * jnp.log(x)  # here: while

    return lax.while_loop(lambda state: state[0] < 9, body, (0, x))[1]


def while_in_scan(x):
    def outer(x, t):
        def body(state):
            k, x = state
            return k + 1, x + 0 * jnp.log(7.5 - 3 * t - k)  # here: while in scan

        return lax.while_loop(lambda state: state[0] < 3, body, (0, x))[1], None

    return lax.scan(outer, x, jnp.arange(4))[0]


def counted(x):
    return lax.fori_loop(
        0,
        6,
        lambda i, x: x + jnp.log(4.0 - i),  # here: fori_loop
        x,
    )


def mapped(xs):
    return lax.map(lambda x: 1.0 / x, xs)  # here: lax.map


def backwards(xs):
    def body(carry, x):
        return carry + jnp.log(x), carry  # here: reverse scan

    return lax.scan(body, 0.0, xs, reverse=True)[1]


def branch(x):
    return lax.cond(
        x[0] > 0,
        lambda x: jnp.sum(1 / x),  # here: cond
        lambda x: jnp.sum(x),
        x,
    )


def switched(i, x):
    branches = [
        jnp.sin,
        lambda x: jnp.log(x - 5.0),  # here: switch
        jnp.cos,
    ]
    return lax.switch(i, branches, x)


def late_arrival(x):
    """Bad in one leaf of the carry at 3, in the returned one only at 9."""

    def body(carry, t):
        kept, shown = carry
        kept = kept + jnp.sqrt(2.5 - t) * (t < 4)  # here: carried from an earlier iteration
        shown = jnp.where(t == 9, kept, shown)
        return (kept, shown), None

    return lax.scan(body, (x, x), jnp.arange(12.0))[0][1]


def running_maximum(xs):
    def body(carry, x):
        best, total = carry
        best = jnp.maximum(best, x)
        total = total + jnp.log(best)  # here: after a running maximum
        return (best, total), None

    return lax.scan(body, (-jnp.inf, 0.0), xs)[0][1]


def all_skipped(xs):
    def body(carry, x):
        best, total = carry
        new = jnp.maximum(best, x)
        total = total * jnp.exp(best - new)  # here: online softmax of a masked row
        return (new, total + jnp.exp(x - new)), None

    return lax.scan(body, (-jnp.inf, 0.0), xs)[0][1]


def slope_in_scan(w, xs):
    def body(carry, x):
        safe = jnp.sqrt(w * x)  # here: slope in a scan
        return carry + jnp.where(x > 0, safe, 0.0), None

    return lax.scan(body, 0.0, xs)[0]


def stacked_with_a_mask(x):
    def body(carry, t):
        wanted = jnp.sqrt(6.5 - t)  # here: later part of a stack
        return carry, jnp.where(t < 2, jnp.log(-1.0 - t), wanted)

    return lax.scan(body, x, jnp.arange(12.0))[1][5:]


def summed(x):
    def body(total, t):
        return total + jnp.sqrt(x - t), None  # here: gradient of a batched scan

    return lax.scan(body, 0.0, jnp.arange(6.0))[0]


def training_run(params, x):
    def loss(params):
        return jnp.mean((x @ params["w"] - x) ** 4)  # here: diverging training run

    def step(params, _):
        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 3.0 * g, params, grads), value

    return lax.scan(step, params, None, length=30)


def log_in_scan(w, xs):
    def body(carry, x):
        carry = carry + jnp.where(x > 0, jnp.log(w * x), 0.0)  # here: backward in a scan
        return carry, None

    return lax.scan(body, 0.0, xs)[0]


def policy_loop(policy):
    def run(w, xs):
        def body(carry, x):
            carry = carry + jnp.where(x > 0, jnp.sqrt(w * x), 0.0)  # here: tk.loop
            return carry, None

        return tk.loop(body, jnp.asarray(0.0), xs, gradient=policy)[0]

    return jax.grad(run)


@tk.control_flow
def plain_python(x):
    total = x
    for t in range(20):
        if x > 0:
            total = total + jnp.log(11.0 - t)  # here: plain Python
    return total


# Solves


def inner_objective(y, theta):
    far = jnp.sqrt(y + theta["shift"])  # here: inner objective
    return jnp.sum((y - 1.0) ** 2) + 0 * jnp.sum(far)


def hyper(adjoint):
    solve = tk.argmin(
        inner_objective, tk.solver.GradientDescent(step_size=0.25, num_steps=20), adjoint=adjoint
    )
    return lambda theta: jnp.sum(solve(jnp.zeros(2), theta).value)


def diverging(theta):
    solve = tk.argmin(
        lambda y, theta: jnp.sum(theta["rate"] * y**4),  # here: diverging inner problem
        tk.solver.GradientDescent(step_size=1.0, num_steps=50),
        adjoint=tk.adjoint.Unroll(),
    )
    return jnp.sum(solve(jnp.full(2, 3.0), theta).value)


def linear_solve(b):
    def solve(matvec, b):
        return b / (matvec(b) - b)  # here: custom_linear_solve

    return lax.custom_linear_solve(lambda v: v, b, solve=solve, symmetric=True)


def over_devices(x):
    def local(x):
        return lax.psum(jnp.sum(jnp.log(x)), "device")  # here: shard_map

    mesh = jax.make_mesh((1,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.sharding.PartitionSpec("device")
    whole = jax.sharding.PartitionSpec()
    return jax.shard_map(local, mesh=mesh, in_specs=sharded, out_specs=whole)(x)


def printing(x):
    jax.debug.print("x = {x}", x=x)
    return jnp.log(x)  # here: with a print


_ROOT = jnp.array([0.0, 4.0])

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
    "zero times infinity": Bug(gated, (jnp.array([0.0, 1.0]), _ROOT), "div", depends_on=("x",)),
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
    "where around log": Bug(
        jax.grad(where_log), (PARAMS, _ROOT), "div", "backward", says="jnp.where(ok"
    ),
    "where around sqrt": Bug(
        jax.grad(where_sqrt), (_ROOT,), "div", "derivative", says="jnp.where(ok"
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
    "forward before slopes": Bug(jax.value_and_grad(both_bad), (_ROOT,), "log"),
    "custom jvp": Bug(jax.grad(bounded), (0.0,), "div", "derivative"),
    "custom vjp": Bug(jax.grad(quantized), (_ROOT,), "div", "backward"),
    "checkpoint": Bug(jax.grad(lambda w, x: block(w, x).sum()), (1.0, -_ROOT), "log"),
    "slope in a checkpoint": Bug(
        jax.grad(lambda w, x: masked_block(w, x).sum()), (1.0, _ROOT), "div", "derivative"
    ),
    "forward mode": Bug(tangent, (PARAMS,), "div", "derivative", line="norm at zero"),
    "value in forward mode": Bug(tangent_of_log, (-1.0,), "log"),
    "training step": Bug(
        jax.jit(update), (PARAMS, 1.0), "log", depends_on=("params['dense']['w']",)
    ),
    "Adam slope": Bug(jax.grad(adam_loss), (PARAMS, 0.1), "div", "derivative", says="eps_root"),
    "scan": Bug(
        scan_sqrt,
        ({"enc": {"w": jnp.array(1.0)}, "unused": jnp.array(1.0)}, 1.0),
        "sqrt",
        iterations=(("scan", 38),),
        depends_on=("params['enc']['w']", "x"),
        says="maximum",
    ),
    "nested scans": Bug(nested_scans, (1.0,), "div", iterations=(("scan", 1), ("scan", 3))),
    "while": Bug(halve, (4.5,), "log", iterations=(("while", 5),), depends_on=("x",)),
    "while in scan": Bug(
        while_in_scan, (1.0,), "log", iterations=(("scan", 2), ("while", 2)), depends_on=()
    ),
    "fori_loop": Bug(counted, (1.0,), "log", iterations=(("scan", 4),)),
    "lax.map": Bug(mapped, (jnp.array([1.0, 2.0, 0.0, 3.0]),), "div", iterations=(("scan", 2),)),
    "reverse scan": Bug(
        backwards, (jnp.array([1.0, 0.0, 2.0, -1.0, 1.0]),), "log", iterations=(("scan", 3),)
    ),
    "cond": Bug(branch, (jnp.array([1.0, 0.0]),), "div"),
    "switch": Bug(switched, (1, jnp.array(2.0)), "log"),
    "carried from an earlier iteration": Bug(
        late_arrival, (1.0,), "sqrt", iterations=(("scan", 3),)
    ),
    "after a running maximum": Bug(
        running_maximum, (jnp.array([2.0, 1.0, 3.0]) - 2.5,), "log", iterations=(("scan", 0),)
    ),
    "online softmax of a masked row": Bug(
        all_skipped, (jnp.array([-jnp.inf, 1.0]),), "sub", iterations=(("scan", 0),)
    ),
    "slope in a scan": Bug(
        jax.grad(slope_in_scan),
        (1.0, jnp.array([1.0, 2.0, 0.0, 3.0])),
        "div",
        "derivative",
        (("scan", 2),),
        ("w", "xs"),
    ),
    "first of two bad slopes": Bug(
        jax.grad(slope_in_scan),
        (1.0, jnp.array([1.0, 0.0, 2.0, 0.0])),
        "div",
        "derivative",
        (("scan", 1),),
        line="slope in a scan",
    ),
    "backward in a scan": Bug(
        jax.grad(log_in_scan), (1.0, jnp.array([1.0, 0.0, 2.0])), "div", "backward", (("scan", 1),)
    ),
    "later part of a stack": Bug(stacked_with_a_mask, (1.0,), "sqrt", iterations=(("scan", 7),)),
    "gradient of a batched scan": Bug(
        jax.grad(lambda xs: jnp.sum(jax.vmap(summed)(xs))),
        (jnp.array([10.0, 3.5, 7.5]),),
        "sqrt",
        iterations=(("scan", 4),),
    ),
    "diverging training run": Bug(
        training_run,
        ({"w": 2.0 * jnp.eye(3, dtype=jnp.float32)}, 2.0 * jnp.eye(3, dtype=jnp.float32)),
        "pow",
        iterations=(("scan", 3),),
        depends_on=("params['w']", "x"),
        says="overflows",
    ),
    "plain Python": Bug(plain_python, (1.0,), "log", iterations=(("scan", 11),)),
    "inner objective": Bug(
        hyper(tk.adjoint.Unroll()), ({"shift": jnp.array(-0.5)},), "sqrt", iterations=(("scan", 0),)
    ),
    "slope of the inner objective": Bug(
        hyper(tk.adjoint.Unroll()),
        ({"shift": jnp.array(0.0)},),
        "div",
        "derivative",
        (("scan", 0),),
        line="inner objective",
    ),
    "diverging inner problem": Bug(
        diverging, ({"rate": jnp.array(1.0)},), "pow", iterations=(("scan", 5),), says="overflows"
    ),
    "custom_linear_solve": Bug(linear_solve, (jnp.ones(2),), "div"),
    "with a print": Bug(printing, (0.0,), "log"),
}

_XS = jnp.array([1.0, 2.0, 0.0, 3.0])
# Of a loop cut into segments, the step is counted within them.
POLICIES = {
    "store": (tk.control.store(), (("scan", 2),)),
    "checkpoint": (tk.control.checkpoint(), (("scan", 1), ("scan", 0))),
    "truncate": (tk.control.truncate(3), (("scan", 1),)),
}


# Nothing wrong


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
    "gradient of a safe log": (jax.grad(safe_log), (_ROOT,)),
    "masked log": (masked_log, (_ROOT,)),
    "logsumexp with -inf": (jax.nn.logsumexp, (jnp.array([1.0, -jnp.inf]),)),
    "clip at infinity": (lambda x: jnp.clip(x, 0.0, jnp.inf), (_ROOT,)),
    "top two": (top_two, (jnp.array([1.0, 5.0, 3.0]),)),
    "nearest neighbour": (nearest, (jnp.array([1.0, 5.0, 3.0]),)),
    "causal logsumexp": (causal, (jnp.arange(6.0),)),
    "smallest of a search": (search, (2.2,)),
    "exp of -inf": (lambda x: jnp.exp(jnp.log(x)), (_ROOT,)),
    "nothing but integers": (lambda x: x // 2, (jnp.arange(3),)),
    "numpy arguments": (lambda x: jnp.sum(x), (np.arange(3.0),)),
    "no floating result": (lambda x: jnp.argmax(jnp.log(x)), (_ROOT,)),
}
