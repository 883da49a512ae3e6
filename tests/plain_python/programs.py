"""Random programs in plain Python, to be run twice: as they stand, and through `@tk.control_flow`.

A program is the source text of `f(x, k)`, made from a seed: `x` is `float[3]`, `k` an integer in 0..4. Every
value stays bounded (`tanh`, `sin`, remainders), and comparisons carry odd constants, so that no decision
hangs on rounding: two runs of one program may differ by rounding, and by nothing else.

What a program is made of stands in `expressions.py` and `statements.py`.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tests.plain_python.expressions import KINDS, Scope
from tests.plain_python.statements import EXTRA, block, indented


class Program(NamedTuple):
    """Source of `f(x, k)`."""

    seed: int
    source: str
    bounded: bool  # no loop of unknown length, hence reverse mode


class Box(NamedTuple):
    p: Any
    q: Any


class Buffer:
    """What `x[i] = v` means in plain Python: an array that is written in place, and can be differentiated."""

    def __init__(self, values: Any):
        self.values = jnp.asarray(values)

    def __getitem__(self, index: Any) -> jax.Array:
        return self.values[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.values = self.values.at[index].set(value)


# How each is made, and what can be read of it.
MADE = {
    "buffer": (
        "array(x * 0.7)",
        {"number": ("buffer[1]", "buffer[k % 3]"), "vector": ("buffer[:]",)},
    ),
    "table": ('{"p": x[2], "q": x}', {"number": ('table["p"]',), "vector": ('table["q"]',)}),
    "pair": ("(0.4, x + 0.1)", {"number": ("pair[0]",), "vector": ("pair[1]",)}),
    "box": ("Box(x[1], -x)", {"number": ("box.p",), "vector": ("box.q",)}),
}


def generate(seed: int, longest: int = 1000) -> Program:
    """The program of this seed: the first of at most `longest` lines that its numbers lead to."""
    rng = Random(seed)
    while True:
        program = _generate(rng, seed)
        if program.source.count("\n") <= longest:
            return program


def _generate(rng: Random, seed: int) -> Program:
    extra = tuple(name for name in EXTRA if rng.random() < 0.4)
    read = {
        "number": ("a", "b"),
        "vector": ("v", "w", "x"),
        "integer": ("m", "k"),
        "flag": ("flag",),
    }
    for name in extra:
        read |= {kind: read[kind] + more for kind, more in MADE[name][1].items()}
    write = {"number": ("a", "b"), "vector": ("v", "w"), "integer": ("m",), "flag": ("flag",)}
    scope = Scope(read, write, rng.random() < 0.5, rng.choice((2, 2, 3)), extra=extra)
    start = [
        "a, b = x[0], 0.3",
        "v, w = x * 0.5, x[::-1]",
        "m = 1",
        f"flag = {rng.choice(('True', 'x[1] > 0.1'))}",
    ]
    start += [f"{name} = {MADE[name][0]}" for name in extra]
    total = {kind: " + ".join(name for name in read[kind] if name not in "xk") for kind in KINDS}
    end = f"return {total['number']}, {total['vector']}, {total['integer']}, {total['flag']}"
    body = [*start, *block(rng, scope), end]
    return Program(seed, "\n".join(["def f(x, k):", *indented(body), ""]), scope.bounded)


def load(source: str, name: str, array: Callable[[Any], Any] = jnp.asarray) -> Callable[..., Any]:
    """The function `f` of a source text. Its lines are known to `inspect` and to tracebacks, as those of a notebook."""
    file = f"<{name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    scope = {"__name__": "fuzzed", "jnp": jnp, "Box": Box, "array": array}
    exec(compile(source, file, "exec"), scope)
    return scope["f"]
