"""Random expressions of the fuzz programs: `(rng, scope) -> text`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

KINDS = ("number", "vector", "integer", "flag")


@dataclass(frozen=True)
class Scope:
    """What is known at one place of a program."""

    read: dict[str, tuple[str, ...]]  # expressions that can be read, by kind
    write: dict[str, tuple[str, ...]]  # targets of an assignment, by kind
    bounded: bool  # neither `while` nor bounds that depend on data
    limit: int  # the deepest block
    depth: int = 0  # of blocks around this one
    function: int = 0  # how many functions are around this one
    loop: str = ""  # the innermost loop: "for", "while" or none
    functions: tuple[str, ...] = ()  # that can be called here
    extra: tuple[str, ...] = ()  # optional states that exist: "buffer", "table", "pair", "box"

    def reading(self, **names: str) -> Scope:
        """With one more name to read, by kind."""
        return replace(
            self, read={k: v + ((names[k],) if k in names else ()) for k, v in self.read.items()}
        )

    def inside(self, loop: str | None = None) -> Scope:
        return replace(self, depth=self.depth + 1, loop=self.loop if loop is None else loop)


def constant(rng: Random) -> str:
    return f"{rng.choice((-1, 1)) * rng.randint(1001, 8999) / 1e4}"


def number(rng: Random, scope: Scope, depth: int = 2) -> str:
    if depth == 0 or rng.random() < 0.25:
        return rng.choice((*scope.read["number"], constant(rng)))
    a, b = number(rng, scope, depth - 1), number(rng, scope, depth - 1)
    forms = (
        lambda: f"jnp.tanh({a} + {constant(rng)} * {b})",
        lambda: f"jnp.sin({a} - {b})",
        lambda: f"0.25 * ({a} + {b})",
        lambda: f"({a} if {condition(rng, scope, depth - 1)} else {b})",
        lambda: f"{rng.choice(scope.read['vector'])}[{integer(rng, scope, 1)} % 3]",
        lambda: f"jnp.mean({vector(rng, scope, depth - 1)})",
        lambda: f"{constant(rng)} * {integer(rng, scope, depth - 1)}",
    )
    return rng.choices(forms, (4, 2, 2, 2, 1, 1, 1))[0]()


def vector(rng: Random, scope: Scope, depth: int = 2) -> str:
    if depth == 0 or rng.random() < 0.25:
        return rng.choice(scope.read["vector"])
    a, b = vector(rng, scope, depth - 1), vector(rng, scope, depth - 1)
    forms = (
        lambda: f"jnp.tanh({a} * {constant(rng)} + {number(rng, scope, depth - 1)})",
        lambda: f"jnp.sin({a} + {b})",
        lambda: f"({a} if {condition(rng, scope, depth - 1)} else {b})",
        lambda: f"{a}[::-1]",
    )
    return rng.choices(forms, (4, 2, 1, 1))[0]()


def integer(rng: Random, scope: Scope, depth: int = 2) -> str:
    if depth == 0 or rng.random() < 0.4:
        return rng.choice((*scope.read["integer"], str(rng.randint(0, 4))))
    a, b = integer(rng, scope, depth - 1), integer(rng, scope, depth - 1)
    forms = (
        lambda: f"(({a} + {b}) % 5)",
        lambda: f"(({a} * 3 - {b}) % 7)",
        lambda: f"({a} // 2)",
        lambda: f"({a} if {condition(rng, scope, depth - 1)} else {b})",
    )
    return rng.choice(forms)()


def condition(rng: Random, scope: Scope, depth: int = 2) -> str:
    """A condition that is never decided by rounding."""
    a, b = number(rng, scope, max(depth - 1, 0)), number(rng, scope, max(depth - 1, 0))
    i, sign = integer(rng, scope, max(depth - 1, 0)), rng.choice("<>")
    leaves: tuple[Callable[[], str], ...] = (
        lambda: f"{a} {sign} {b} + {constant(rng)}",
        lambda: f"{constant(rng)} {sign} {a} {sign} {b} + {constant(rng)}",
        lambda: f"{i} % 2 == {rng.randint(0, 1)}",
        lambda: f"0 < {i} <= {rng.randint(1, 4)}",
        lambda: rng.choice(scope.read["flag"]),
    )
    if depth <= 0 or rng.random() < 0.5:
        return f"({rng.choices(leaves, (4, 2, 2, 1, 1))[0]()})"
    c, d = condition(rng, scope, depth - 1), condition(rng, scope, depth - 1)
    return rng.choice((f"(not {c})", f"({c} and {d})", f"({c} or {d})"))


EXPRESSIONS = {"number": number, "vector": vector, "integer": integer, "flag": condition}


def expression(rng: Random, scope: Scope, kind: str) -> str:
    return EXPRESSIONS[kind](rng, scope)
