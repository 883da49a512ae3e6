"""A step of the bilevel methods, against the tightest loop that we can write by hand.

    python benchmarks/bilevel.py            about 20 s

Batches of 64, 10 inner steps and 10 products, float32. Two cores of an AMD EPYC, jax 0.12.0; least of 9
rounds in which the programs take turns, microseconds a step; other goes differed by up to a tenth, the ratios by 3 %:

                        quadratic, 100 + 100    cleaning digits, 640 + 600 variables
    SOBA by hand               10.7                    21.0
    SOBA                       10.6                    21.0
    SABA                       12.6                    24.7
    SRBA                       18.7                    54.3
    StocBiO by hand            68                     209
    StocBiO                    61                     184
    AmIGO                      60                     185

    SOBA over by hand        0.99 to 1.00            0.98 to 1.00
    StocBiO over by hand     0.87 to 0.90            0.88 to 0.90

The double loops gain by drawing the examples of all of a step's batches at once. SABA writes its table in
place: with 781 blocks of a logistic regression of 22 features a step took 10 us before it did, and 3.3
after, less than one of SOBA (4.7), whose batches are gathered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import toolkit as tk

STEPS, ROUNDS, BATCH, INNER, PRODUCTS = 2000, 9, 64, 10, 10
A = C = 0.05
Step = Callable[[Any], Any]


def instances() -> dict[str, tk.problems.Instance]:
    """The benchmark's quadratic at its default size, and digits cleaning."""
    parts = tk.data.standardize(*tk.data.split(jax.random.key(0), tk.data.digits(), 600, 400))
    noise = jax.random.key(1)
    return {
        "quadratic, 100 + 100 variables": tk.problems.quadratic.quadratic(jax.random.key(0)),
        "cleaning, 640 + 600 variables": tk.problems.cleaning.cleaning(
            noise, *parts, corrupted=0.5, num_classes=10
        ),
    }


def batch(key: jax.Array, data: Any) -> Any:
    """Uniform with replacement."""
    rows = jax.random.randint(key, (BATCH,), 0, len(jax.tree.leaves(data)[0]))
    return jax.tree.map(lambda leaf: leaf[rows], data)


def handwritten_soba(p: tk.problems.Instance) -> tuple[Any, Step]:
    """Nothing but arrays and one `vjp`."""

    def step(s: Any) -> Any:
        y, x, v, t, key = s
        k1, k2 = jax.random.split(jax.random.fold_in(key, t))
        inside, outside = batch(k1, p.inner_data), batch(k2, p.outer_data)
        slope, pull = jax.vjp(lambda y, x: jax.grad(p.inner)(y, x, inside), y, x)
        hvp, cross = pull(v)
        f_y, f_x = jax.grad(p.outer, (0, 1))(y, x, outside)
        return y - A * slope, x - C * (f_x - cross), v - A * (hvp - f_y), t + 1, key

    return (p.y0, p.theta0, jnp.zeros_like(p.y0), 0, jax.random.key(0)), step


def handwritten_stocbio(p: tk.problems.Instance) -> tuple[Any, Step]:
    """Inner steps and a Neumann series as two scans, every batch drawn where it is used."""

    def step(s: Any) -> Any:
        y, x, t, key = s
        k1, k2, k3, k4 = jax.random.split(jax.random.fold_in(key, t), 4)
        inner_step = lambda y, k: (y - A * jax.grad(p.inner)(y, x, batch(k, p.inner_data)), None)
        y, _ = jax.lax.scan(inner_step, y, jax.random.split(k1, INNER))
        f_y, f_x = jax.grad(p.outer, (0, 1))(y, x, batch(k2, p.outer_data))

        def term(carry: Any, k: jax.Array) -> Any:
            w, total = carry
            slope = lambda y: jax.grad(p.inner)(y, x, batch(k, p.inner_data))
            w = w - A * jax.jvp(slope, (y,), (w,))[1]
            return (w, total + w), None

        (_, total), _ = jax.lax.scan(term, (f_y, f_y), jax.random.split(k3, PRODUCTS))
        inside = batch(k4, p.inner_data)
        of_y = lambda y: jax.grad(p.inner, 1)(y, x, inside)
        cross = jax.jvp(of_y, (y,), (A * total,))[1]
        return y, x - C * (f_x - cross), t + 1, key

    return (p.y0, p.theta0, 0, jax.random.key(0)), step


def ours(method: Any, p: tk.problems.Instance) -> tuple[Any, Step]:
    """A method of `tk.bilevel` as state and step."""
    init, step = method(tk.bilevel.Problem(*p.losses_and_data))
    return init(jax.random.key(0), p.y0, p.theta0), lambda s: step(s)[0]


def seconds(pairs: dict[str, tuple[Any, Step]], steps: dict[str, int]) -> dict[str, float]:
    """Of a step: the least of some rounds in which the pairs take turns."""
    runs = {}
    for name, (state, step) in pairs.items():
        many = lambda s, step=step, n=steps[name]: jax.lax.fori_loop(0, n, lambda _, s: step(s), s)
        runs[name] = (jax.jit(many).lower(state).compile(), state)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, (run, state) in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run(state))
            taken[name].append((time.perf_counter() - began) / steps[name])
    return {name: min(each) for name, each in taken.items()}


def main() -> None:
    """Prints the table of this file's head."""
    double = {"inner_steps": INNER, "linear_steps": PRODUCTS}
    for title, p in instances().items():
        pairs = {
            "SOBA by hand": handwritten_soba(p),
            "SOBA": ours(tk.bilevel.SOBA(A, C, BATCH), p),
            "SABA": ours(tk.bilevel.SABA(A, C, BATCH), p),
            "SRBA": ours(tk.bilevel.SRBA(A, C, BATCH), p),
            "StocBiO by hand": handwritten_stocbio(p),
            "StocBiO": ours(tk.bilevel.StocBiO(A, C, BATCH, **double), p),
            "AmIGO": ours(tk.bilevel.AmIGO(A, C, BATCH, **double), p),
        }
        steps = {name: STEPS // (20 if "Stoc" in name or "AmI" in name else 1) for name in pairs}
        taken = seconds(pairs, steps)
        print(title)
        for name, value in taken.items():
            print(f"    {name:16s} {1e6 * value:8.1f} us a step")
        print(f"    SOBA / by hand     {taken['SOBA'] / taken['SOBA by hand']:.3f}")
        print(f"    StocBiO / by hand  {taken['StocBiO'] / taken['StocBiO by hand']:.3f}")


if __name__ == "__main__":
    main()
