"""Bugs in loops and branches, by the iteration in which they come up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

import toolkit as tk
from tests.debug.nonfinite.planted.bug import Bug


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


BUGS = {
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
}

XS = jnp.array([1.0, 2.0, 0.0, 3.0])
# Of a loop cut into segments, the step is counted within them.
POLICIES = {
    "store": (tk.control.store(), (("scan", 2),)),
    "checkpoint": (tk.control.checkpoint(), (("scan", 1), ("scan", 0))),
    "truncate": (tk.control.truncate(3), (("scan", 1),)),
}
