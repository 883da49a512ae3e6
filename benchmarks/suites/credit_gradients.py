"""What a learning rule's gradient costs over backprop's, on one network and one batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import toolkit as tk
from benchmarks.contest import Entry, Suite

SIZES = (784, 512, 512, 10)
BATCH = 128
BETA = 0.1
FREE, NUDGED = 20, 10
C, E = tk.credit, tk.energy


def cross_entropy(output: jax.Array, target: jax.Array) -> jax.Array:
    """`[B]`, of logits."""
    return optax.softmax_cross_entropy(output, target)


def half_squares(output: jax.Array, target: jax.Array) -> jax.Array:
    """`[B]`."""
    return jnp.sum((output - target) ** 2, axis=1) / 2


def problem() -> tuple[Any, Any, Any]:
    """(model, params, batch)."""
    model = C.layered(tk.models.dense_layers(SIZES[1:]))
    x = jax.random.normal(jax.random.key(0), (BATCH, SIZES[0]))
    target = jax.nn.one_hot(jnp.arange(BATCH) % SIZES[-1], SIZES[-1])
    return model, model.init(jax.random.key(1), x), (x, target)


def ours(rule: Any, loss: Callable = cross_entropy) -> Any:
    """A rule's gradient, with its `Info`: who trains reads it."""
    model, params, batch = problem()
    init, gradients = rule(model, loss)
    key = jax.random.key(2)
    state = init(key, params, batch)

    def call(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
        gradient, state, info = gradients(params, state, batch, key)
        return gradient, jax.tree.leaves(state), info

    return call, (params, state, batch, key)


def backprop() -> Any:
    """Reverse mode, by hand."""
    _, params, batch = problem()

    def loss(params: Any, batch: Any) -> jax.Array:
        h, target = batch
        for own in params[:-1]:
            h = jnp.tanh(h @ own["kernel"] + own["bias"])
        output = h @ params[-1]["kernel"] + params[-1]["bias"]
        return jnp.mean(cross_entropy(output, target))

    return jax.value_and_grad(loss), (params, batch)


def dual_propagation() -> Any:
    """One sweep of dual propagation at alpha = 1/2, by hand, and how far a second one would move it."""
    _, params, batch = problem()

    def call(params: Any, batch: Any) -> Any:
        x, target = batch
        pre, h = [], x
        for own in params:
            pre.append(h @ own["kernel"] + own["bias"])
            h = jnp.tanh(pre[-1])
        value, error = jax.value_and_grad(lambda o: jnp.sum(cross_entropy(o, target)))(pre[-1])
        gaps, means, halves = [-BETA * error], [], [-BETA * error / 2]
        change = moved = 0.0
        for k in reversed(range(len(params) - 1)):
            half = gaps[-1] @ params[k + 1]["kernel"].T / 2
            plus, minus = jnp.tanh(pre[k] + half), jnp.tanh(pre[k] - half)
            gaps.append(plus - minus)
            means.append((plus + minus) / 2)
            halves.append(half)
        gaps, means, halves = gaps[::-1], means[::-1], halves[::-1]
        below, scale = (x, *means), -1 / (BETA * BATCH)
        gradient = tuple(
            {"kernel": scale * h.T @ d, "bias": scale * d.sum(0)}
            for h, d in zip(below, gaps, strict=True)
        )
        h = x
        for k, (own, half) in enumerate(zip(params, halves, strict=True)):
            act = jnp.tanh if k + 1 < len(params) else lambda a: a
            a = h @ own["kernel"] + own["bias"] if k else pre[0]
            for sign in (1, -1):
                then, now = act(a + sign * half), act(pre[k] + sign * half)
                change += jnp.sum((then - now) ** 2)
                moved += jnp.sum((now - act(pre[k])) ** 2)
            h = (act(a + half) + act(a - half)) / 2
        return gradient, value / BATCH, jnp.sqrt(change / moved)

    return call, (params, batch)


def equilibrium_propagation() -> Any:
    """Centered, every other layer in turn, by hand, and how far one more sweep would move the states.

    The first layer's drive is computed once.
    """
    _, params, batch = problem()

    def call(params: Any, batch: Any) -> Any:
        x, target = batch
        (W1, b1), (W2, b2), (W3, b3) = ((own["kernel"], own["bias"]) for own in params)
        drive = x @ W1 + b1

        def sweep(u: Any, beta: Any) -> Any:
            u1, u2, u3 = u
            u1 = drive + jnp.tanh(u2) @ W2.T
            u3 = jnp.tanh(u2) @ W3 + b3 - beta * (u3 - target)
            u2 = jnp.tanh(u1) @ W2 + b2 + u3 @ W3.T
            return u1, u2, u3

        def settle(u: Any, beta: Any, sweeps: int) -> Any:
            return jax.lax.scan(lambda u, _: (sweep(u, beta), None), u, length=sweeps)[0]

        def apart(u: Any, v: Any) -> Any:
            return jnp.sqrt(sum(jnp.sum((a - b) ** 2) for a, b in zip(u, v, strict=True)))

        def nudge(beta: Any) -> Any:
            u = settle(free, beta, NUDGED)
            return u, apart(sweep(u, beta), u), apart(u, free)

        start = tuple(jnp.zeros((BATCH, units)) for units in SIZES[1:])
        free = settle(start, 0.0, FREE)
        nudged, left, moved = jax.vmap(nudge)(jnp.asarray([BETA, -BETA]))
        left = jnp.maximum(apart(sweep(free, 0.0), free), jnp.max(left))

        def gradient(below: Any, above: Any) -> Any:
            scale = -jnp.asarray([1.0, -1.0]) / (2 * BETA * BATCH)
            return {
                "kernel": jnp.einsum("k,kbi,kbj->ij", scale, below, above),
                "bias": jnp.einsum("k,kbj->j", scale, above),
            }

        s1, s2, s3 = jnp.tanh(nudged[0]), jnp.tanh(nudged[1]), nudged[2]
        inputs = (jnp.broadcast_to(x, (2, *x.shape)), s1, s2)
        gradients = tuple(map(gradient, inputs, (s1, s2, s3)))
        return gradients, jnp.mean(half_squares(free[2], target)), left / jnp.min(moved)

    return call, (params, batch)


def entry(rule: Any, loss: Callable = cross_entropy, against: str = "hand") -> Entry:
    """A rule of ours."""
    return Entry(partial(ours, rule, loss), against)


EP = C.EquilibriumPropagation(E.hopfield, BETA, "centered", FREE, NUDGED)
SUITE = Suite(
    "Learning rules: the gradient of one batch",
    f"A tanh network {'-'.join(map(str, SIZES))}, batch {BATCH}, cross-entropy (equilibrium propagation: half "
    "squared error). `hand` is backprop; `hand, dual` and `hand, equilibrium` are the same rules written out, "
    "with the residual of one more sweep that the library reports.",
    {
        "hand": Entry(backprop),
        "toolkit, backprop": entry(C.Backprop()),
        "hand, dual": Entry(dual_propagation),
        "toolkit, dual propagation": entry(C.DualPropagation(0.5, BETA)),
        "toolkit, dual propagation over its hand": entry(
            C.DualPropagation(0.5, BETA), against="hand, dual"
        ),
        "hand, equilibrium": Entry(equilibrium_propagation),
        "toolkit, equilibrium propagation": entry(EP, half_squares),
        "toolkit, equilibrium propagation over its hand": entry(
            EP, half_squares, "hand, equilibrium"
        ),
        "toolkit, z-il": entry(C.PredictiveCoding("z_il")),
        "toolkit, fixed prediction": entry(C.PredictiveCoding("fixed_prediction")),
        "toolkit, predictive coding nudged": entry(C.PredictiveCoding()),
        "toolkit, predictive coding clamped": entry(C.PredictiveCoding("clamped")),
        "toolkit, feedback alignment": entry(C.FeedbackAlignment()),
        "toolkit, kolen-pollack": entry(C.FeedbackAlignment("kolen_pollack", optax.sgd(0.1))),
        "toolkit, direct feedback alignment": entry(C.DirectFeedbackAlignment()),
        "toolkit, target propagation": entry(C.DifferenceTargetPropagation()),
        "toolkit, synthetic gradients": entry(C.SyntheticGradients()),
        "toolkit, forward-forward": entry(C.ForwardForward(10)),
        "toolkit, local losses": entry(C.LocalLosses()),
        "toolkit, node perturbation": entry(C.NodePerturbation()),
    },
)
