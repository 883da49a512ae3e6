"""What the gradient policies of a loop cost, against `jax.grad` of `jax.lax.scan`.

    python benchmarks/control.py               about a minute

1,000 steps of x <- x + 0.05 (tanh(x W) - x), x `[8, 256]` (8 KiB), W `[256, 256]` (256 KiB),
float32; the gradient of |x|^2 in W and in the first x. Memory is the temporary bytes of the
compiled gradient; time the least of fifteen rounds, in which the programs take turns. Results:
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import toolkit as tk
from toolkit.control import checkpoint, memory_estimate, reversible, store, truncate

STEPS, BATCH, UNITS, ROUNDS = 1000, 8, 256, 15
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def tanh_steps(weights: jax.Array) -> Callable:
    """A step that contracts."""
    return lambda x, _: (x + 0.05 * (jnp.tanh(x @ weights) - x), None)


def leapfrog(weights: jax.Array) -> Callable:
    """A step that has an inverse."""

    def body(carry: tuple, _: None) -> tuple[tuple, None]:
        q, p = carry
        p = p - 0.05 * jnp.tanh(q @ weights)
        return (q + 0.05 * p, p), None

    return body


def leapfrog_back(weights: jax.Array) -> Callable:
    """The inverse of `leapfrog`."""

    def inverse(carry: tuple, _: None) -> tuple:
        q, p = carry[0] - 0.05 * carry[1], carry[1]
        return q, p + 0.05 * jnp.tanh(q @ weights)

    return inverse


def policies() -> dict[str, Loss]:
    """The same function of (W, x) by each policy, after the plain scan."""
    total = lambda carry: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(carry))

    def under(gradient: Any) -> Loss:
        return lambda w, x: total(tk.loop(tanh_steps(w), x, None, STEPS, gradient)[0])

    def hamiltonian(make: Callable) -> Loss:
        return lambda w, x: total(tk.loop(leapfrog(w), (x, x), None, STEPS, make(w))[0])

    losses: dict[str, Loss] = {
        "jax.lax.scan": lambda w, x: total(jax.lax.scan(tanh_steps(w), x, None, STEPS)[0])
    }
    losses |= {
        repr(gradient): under(gradient)
        for gradient in (
            store(),
            checkpoint(),
            checkpoint(10),
            checkpoint((10, 10, 10)),
            checkpoint((10, 10, 10, 1)),
            truncate(100),
        )
    }
    losses["leapfrog, store()"] = hamiltonian(lambda _: store())
    losses["leapfrog, reversible(...)"] = hamiltonian(lambda w: reversible(leapfrog_back(w)))
    return losses


def whiles() -> dict[str, Loss]:
    """Fifty steps that end on a condition, against fifty steps of a scan."""
    weights = jnp.eye(UNITS) * 0.999
    step = lambda x: jnp.tanh(x @ weights)

    def until_fifty(bound: int, gradient: Any) -> Loss:
        body = lambda carry: (step(carry[0]), carry[1] + 1)
        loop = lambda x, end: tk.while_loop(lambda c: c[1] < end, body, (x, 0), bound, gradient)[0]
        return lambda _, x: jnp.sum(loop(x, jax.lax.stop_gradient(50 + 0 * x[0, 0])))

    losses: dict[str, Loss] = {
        "50 steps of a scan": lambda _, x: jnp.sum(
            jax.lax.scan(lambda c, _: (step(c), None), x, None, 50)[0]
        )
    }
    for bound, gradient in (
        (100, store()),
        (1000, store()),
        (1000, checkpoint()),
        (10000, checkpoint()),
        (10000, checkpoint((22, 22, 22))),
    ):
        losses[f"50 of {bound}, {gradient!r}"] = until_fifty(bound, gradient)
    return losses


def race(losses: dict[str, Loss]) -> None:
    """Print a row a program: seconds, as a ratio to the first, and temporary bytes."""
    key = jax.random.key(0)
    weights = jax.random.normal(key, (UNITS, UNITS)) / UNITS**0.5
    arguments = weights, jax.random.normal(key, (BATCH, UNITS))
    programs = {
        name: jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()
        for name, loss in losses.items()
    }
    least = dict.fromkeys(programs, float("inf"))
    for _ in range(ROUNDS):
        for name, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            least[name] = min(least[name], time.perf_counter() - began)
    first = next(iter(least.values()))
    for name, program in programs.items():
        temporary = program.memory_analysis().temp_size_in_bytes / 2**20
        print(f"{name:36} {least[name] / first:5.2f} times {first:.4f} s {temporary:9.3f} MiB")


def main() -> None:
    """Both races, and the estimates."""
    race(policies())
    race(whiles())
    key = jax.random.key(0)
    weights, start = jax.random.normal(key, (UNITS, UNITS)), jnp.ones((BATCH, UNITS))
    for gradient in (
        store(),
        checkpoint(),
        checkpoint(10),
        checkpoint((10, 10, 10)),
        truncate(100),
    ):
        estimate = memory_estimate(tanh_steps(weights), start, STEPS, gradient) / 2**20
        print(f"estimate of {gradient!r}: {estimate:.3f} MiB")


if __name__ == "__main__":
    main()
