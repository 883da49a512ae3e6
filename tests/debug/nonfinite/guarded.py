"""Training steps that go bad at a known call: the line at fault ends with `# here: NAME`."""

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


class Case(NamedTuple):
    """A step, called as in `run`, and what is to be found."""

    step: Callable[..., Any]
    state: Any
    batches: tuple[Any, ...]  # one a call, each the arguments after the state
    call: int = -1  # that goes bad, from 0
    operation: str = ""
    depends_on: tuple[str, ...] | None = None
    carries: int = 1  # leading arguments that the leading results replace


def line_of(name: str) -> int:
    """The line marked with `# here: name`."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = [i for i, text in enumerate(lines, 1) if text.endswith(f"# here: {name}")]
    return number


def run(guarded: Callable[..., Any], case: Case) -> None:
    """Calls a step as a training loop does."""
    state: Any = case.state if case.carries > 1 else (case.state,)
    for batch in case.batches:
        result = guarded(*state, *batch)
        if case.carries > 1:
            state = result[: case.carries]
        else:
            state = (result[0] if type(result) is tuple else result,)


class State(NamedTuple):
    w: Any
    best: Any
    count: Any


W = jnp.array([1.0, 2.0], jnp.float32)
COUNT = tuple((float(t),) for t in range(8))
NOTHING: tuple[tuple[Any, ...], ...] = ((),) * 8


def logs(w, t):
    loss = jnp.sum(jnp.log(4.5 - t + 0 * w))  # here: log
    return w * 0.5, loss


def updates_only(w, t):
    shift = jnp.sqrt(3.5 - t)  # here: state only
    return w + 0 * shift, jnp.sum(t)


def returns_state(w):
    return w * 1e9  # here: overflow


def counted(state):
    scale = jnp.where(state["t"] < 6, 1.0, jnp.nan)  # here: constant
    return {"t": state["t"] + 1, "w": state["w"] * scale}


def named(state, t):
    w = state.w / (5.0 - t)  # here: division
    return State(w, jnp.minimum(state.best, jnp.sum(w)), state.count + 1), {"norm": jnp.sum(w)}


def descends(params, t):
    loss = lambda p: jnp.sum(jnp.sqrt(p["a"] * (t < 2)) + p["b"])  # here: gradient
    value, slope = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, slope), value


_ADAM = optax.adam(0.1)


def trains(params, opt_state, x):
    loss = lambda p: jnp.sum(jnp.log1p(-x * p["a"]))  # here: optimizer
    value, slope = jax.value_and_grad(loss)(params)
    update, opt_state = _ADAM.update(slope, opt_state)
    return optax.apply_updates(params, update), opt_state, value


def batch_at_fault(w, x):
    return w * 0.9, jnp.sum(w * x)


def scans(w, t):
    def body(c, i):
        c = c + jnp.log(5.0 - t - i * 0.5)  # here: scan
        return c, None

    return w * 0.5, lax.scan(body, 0.0, jnp.arange(3.0))[0]


def branches(w, t):
    bad = lambda w: jnp.arccos(w + 2.0)  # here: cond
    return lax.cond(t == 3.0, bad, jnp.sin, w)


def diverges(w):
    return w - 40.0 * jax.grad(lambda w: jnp.sum(w**2 + w**4))(w)  # here: divergence


def vmapped(w, t):
    one = lambda w: jnp.log(w - t)  # here: vmap
    return w, jax.vmap(one)(w)


def keyed(state, t):
    key, sub = jax.random.split(state["key"])
    noise = jax.random.normal(sub, (2,))
    w = state["w"] + noise * 0 + jnp.arctanh(t / 4)  # here: key
    return {"key": key, "w": w}


def solves(theta, t):
    inner = lambda y, theta: jnp.sum((y - theta) ** 2) * jnp.log(3.5 - t)  # here: inner loss
    solve = tk.argmin(inner, tk.solver.GradientDescent(0.1, 5), adjoint=tk.adjoint.Unroll())
    outer = lambda theta: jnp.sum(solve(jnp.zeros(2), theta).value ** 2)
    return theta - 0.1 * jax.grad(outer)(theta)


@jax.jit
def half(w, t):
    w16 = w.astype(jnp.float16) * 2.0**t
    energy = w16 * w16 * 64  # here: half
    return w, jnp.sum(energy.astype(jnp.float32))


def complex_step(z, t):
    z = z / (t - 3.0)  # here: complex
    return z


def while_loop(w, t):
    def body(c):
        return c[0] + 1, jnp.sqrt(c[1] - 0.5)  # here: while

    return w, lax.while_loop(lambda c: c[0] < t, body, (0.0, jnp.sum(w)))[1]


@tk.control_flow
def plain_python(w, t):
    total = 0.0
    for i in range(4):
        total = total + jnp.log(6.5 - t - i)  # here: plain python
    return w * 0.5, total


def normalises(w, x):
    size = jnp.linalg.norm(x)
    return w, jnp.sum(w * x / size)  # here: norm


def weighted(w, x, mask):
    total = jnp.sum(w * x * mask) / jnp.sum(mask)  # here: mask
    return w, total


ROWS = tuple((np.array([1.0, float(t != 3)]) * (t != 5),) for t in range(8))
BUGS = {
    "log": Case(logs, W, COUNT, 5, "log", ("t", "w")),
    "state only": Case(updates_only, W, COUNT, 4, "sqrt", ("t",)),
    "overflow": Case(returns_state, W, NOTHING, 4, "mul"),
    "constant": Case(counted, {"t": 0, "w": W}, NOTHING, 6, "constant"),
    "division": Case(named, State(W, jnp.inf, 0), COUNT, 5, "div"),
    "gradient": Case(descends, {"a": jnp.ones(2), "b": jnp.ones(2)}, COUNT, 2, ""),
    "optimizer": Case(
        trains,
        ({"a": jnp.full(2, 0.1)}, _ADAM.init({"a": W})),
        ((0.5,), (1.0,), (1e3,), (1.0,)),
        2,
        "log1p",
        carries=2,
    ),
    "scan": Case(scans, W, COUNT, 4, "log"),
    "cond": Case(branches, W, COUNT, 3, "acos"),
    "divergence": Case(diverges, W, NOTHING, 3, ""),
    "vmap": Case(vmapped, W, COUNT, 1, "log"),
    "key": Case(keyed, {"key": jax.random.key(0), "w": W}, COUNT, 4, "atanh"),
    "inner loss": Case(solves, W, COUNT, 4, "log"),
    "half": Case(half, W, COUNT, 4, "mul"),
    "complex": Case(complex_step, W + 1j, COUNT, 3, "div"),
    "while": Case(while_loop, W, COUNT, 5, "sqrt"),
    "plain python": Case(plain_python, W, COUNT, 4, "log"),
    "norm": Case(normalises, W, ROWS, 5, "div"),
    "mask": Case(
        weighted, W, tuple((np.ones(2), np.full(2, float(t != 2))) for t in range(5)), 2, "div"
    ),
    "non-finite batch": Case(
        batch_at_fault,
        W,
        tuple((np.array([1.0, np.nan if t == 3 else 1.0]),) for t in range(5)),
        3,
        "input",
        ("x",),
    ),
    "infinite batch": Case(
        batch_at_fault,
        W,
        tuple((np.array([1.0, np.inf if t == 1 else 1.0]),) for t in range(5)),
        1,
        "input",
        ("x",),
    ),
}


def best_so_far(state, t):
    return State(state.w * 0.9, jnp.minimum(state.best, t), state.count + 1), {"t": t}


def with_mask(w, mask):
    scores = jnp.where(mask > -jnp.inf, w, 0.0)
    return w * 0.9, jnp.sum(jax.nn.softmax(w + mask) * scores)


def integers(state):
    return {"n": state["n"] * 3, "flag": ~state["flag"]}


def keeps_placeholder(state, t):
    return {"w": state["w"] * 0.5, "last": state["last"]}


def renamed(w, *, rate):
    return w * rate


MASK = jnp.array([0.0, -jnp.inf])
HEALTHY = {
    "best loss starts infinite": Case(best_so_far, State(W, jnp.inf, 0), COUNT),
    "best loss stays infinite": Case(lambda s: s, State(W, jnp.inf, 0), NOTHING),
    "mask": Case(with_mask, W, ((MASK,),) * 5),
    "no floating leaf": Case(integers, {"n": jnp.array(1), "flag": jnp.array(True)}, NOTHING),
    "placeholder": Case(keeps_placeholder, {"w": W, "last": jnp.nan}, COUNT),
    "keyed": Case(keyed, {"key": jax.random.key(0), "w": W}, COUNT[:4]),
    "adam": Case(trains, BUGS["optimizer"].state, ((0.5,),) * 6, carries=2),
    "two carried": Case(lambda a, b, t: (b, a), (W, W + 1), COUNT, carries=2),
    "large but finite": Case(lambda w: w * 1.0, W * 1e38, NOTHING),
    "nothing returned": Case(lambda w: {}, W, ((),)),
    "scalar": Case(lambda w: w / 2, 1.0, NOTHING),
    "vmap of seeds": Case(jax.vmap(logs, (0, None)), jnp.ones((3, 2)), COUNT[:4]),
    "partial": Case(functools.partial(renamed, rate=0.5), W, NOTHING),
}
