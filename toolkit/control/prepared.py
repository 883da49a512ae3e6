"""A loop made ready for any policy: traced once, its types checked, what it closes over lifted.

*Lifted* means that the arrays which the body closes over become an argument of the step, `closed`. A
custom derivative rule (`jax.custom_vjp`) gives derivatives with respect to its arguments only. Without
lifting, the derivative with respect to a closed-over array would be an error, or be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import tree
from toolkit.derive.replay import Ticker
from toolkit.errors.readable import call_as, returned_by
from toolkit.jaxprs.hidden import converted
from toolkit.jaxprs.lift import Lifted, lift
from toolkit.jaxprs.own_rules import Rules
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.leaves.containers import packed, unpacked
from toolkit.types import Tree


class PreparedLoop(NamedTuple):
    """A loop of known length, as a policy gets it; `step` closes over no tracer."""

    step: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]  # (closed, carry, x) -> (carry, y)
    closed: Tree  # arrays that every step sees
    init: Tree
    xs: Tree  # arrays with the step as leading axis, or None
    length: int
    y: Tree  # jax.ShapeDtypeStruct of what one step puts out
    ticker: Ticker | None = None

    def bare(self) -> PreparedLoop:
        """Without its arrays: for a derivative rule, which must hold none of the trace in which it is made."""
        return self._replace(closed=None, init=None, xs=None)


class PreparedWhile(NamedTuple):
    """A loop that ends when its condition fails, as a policy gets it."""

    cond: Callable[[Tree, Tree], Array]  # (closed, carry) -> [] bool
    step: Callable[[Tree, Tree], Tree]  # (closed, carry) -> carry
    closed: Tree
    init: Tree
    max_steps: int | None
    rules: Rules  # functions in the body that have derivative rules of their own
    effects: frozenset[Any]  # JAX's: prints and other callbacks

    def bare(self) -> PreparedWhile:
        """Without its arrays, as `PreparedLoop.bare`."""
        return self._replace(closed=None, init=None)

    def rules_used_up(self) -> PreparedWhile:
        """The loop as a first derivative leaves it to a second one: rules are replaced by what they compute."""
        if not (self.rules.own or self.rules.backward):
            return self

        def step(closed: Tree, carry: Tree) -> Tree:
            moving, *fixed = tree.split((closed, carry))
            return jax.vjp(lambda moving: self.step(*tree.merge(moving, *fixed)), moving)[0]

        return self._replace(step=step)

    @property
    def bound(self) -> int:
        """`max_steps`, for a policy that has made sure that there is one."""
        assert self.max_steps is not None
        return self.max_steps


class Counted(NamedTuple):
    """Where a loop stands that ends on a condition."""

    carry: Tree
    steps: Array  # [] int32, steps made


def prepare(body: Callable, init: Tree, xs: Tree, length: int | None) -> PreparedLoop:
    """Trace `body` at the types of `init` and of an entry of `xs`."""
    require_callable("body", body)
    init, xs = as_arrays("init", init), as_arrays("xs", xs)
    length = _length(xs, length)
    x = jax.tree.map(entry, xs)
    init, lifted = _traced(_checked_body(body), init, x)
    return PreparedLoop(lifted.call, lifted.closed, init, xs, length, lifted.shape[1])


def prepare_while(
    cond: Callable, body: Callable, init: Tree, max_steps: int | None
) -> PreparedWhile:
    """Trace `cond` and `body` at the types of `init`."""
    require_callable("cond", cond)
    require_callable("body", body)
    _require_bound(max_steps)
    init = as_arrays("init", init)
    init, stepping = _traced(_checked_next(body), init)
    testing = lift(_checked_cond(cond), init)
    # Not `testing` and `stepping` themselves: a rule that keeps these functions would keep their arrays.
    holds, step = testing.call, stepping.call
    return PreparedWhile(
        cond=lambda closed, carry: holds(closed[0], carry),
        step=lambda closed, carry: step(closed[1], carry)[0],  # without the output, None
        closed=(testing.closed, stepping.closed),
        init=init,
        max_steps=None if max_steps is None else int(max_steps),
        rules=stepping.rules,
        effects=frozenset(testing.program.effects | stepping.program.effects),
    )


def require_callable(name: str, function: Any) -> None:
    """Refuse what cannot be called."""
    if not callable(function):
        raise TypeError(f"`{name}` must be a function: got {function!r}.")


def as_arrays(name: str, given: Tree) -> Tree:
    """`given` with each leaf an array, as JAX's loops make them: Python numbers stay weakly typed."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(given):
        if not tree.is_numeric(leaf):
            raise TypeError(
                f"`{name}` must have arrays or numbers as leaves: got {type(leaf).__name__} at "
                f"{name}{jax.tree_util.keystr(path)}; let the body close over it instead."
            )
    return jax.tree.map(jnp.asarray, unpacked(given))


def _require_bound(max_steps: Any) -> None:
    whole = isinstance(max_steps, (int, np.integer)) and not isinstance(max_steps, bool)
    if max_steps is not None and not (whole and max_steps >= 1):
        raise ValueError(
            f"`max_steps` must be None or a positive int, known when the loop is traced: got "
            f"{max_steps!r}."
        )


def _length(xs: Tree, length: Any) -> int:
    whole = isinstance(length, (int, np.integer)) and not isinstance(length, bool)
    if length is not None and not whole:
        raise TypeError(
            f"`length` must be None or an int, known when the loop is traced: got {length!r}; for "
            "a number of steps that is computed use tk.while_loop."
        )
    if length is not None and length < 0:
        raise ValueError(f"`length` must not be negative: got {length}.")
    rows = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(xs):
        where = f"xs{jax.tree_util.keystr(path)}"
        if jnp.ndim(leaf) == 0:
            raise ValueError(f"`xs` must have the step as leading axis: got a scalar at {where}.")
        rows[where] = leaf.shape[0]
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{where}: {count}" for where, count in rows.items())
        raise ValueError(f"`xs` must have leading axes of one length: got {found}.")
    steps = next(iter(rows.values()), None)
    if steps is None:
        if length is None:
            raise ValueError("`length` must be given where `xs` has no arrays: got neither.")
        return int(length)
    if length is not None and int(length) != steps:
        raise ValueError(
            f"`length` must be that of `xs`: got length={length} and {steps} entries in xs; leave "
            "`length` out."
        )
    return steps


def entry(leaf: Array) -> Any:
    """The type of one entry of `xs`."""
    # The type of `leaf[0]` also says whether it is weakly typed. An array without entries has no `leaf[0]`.
    if leaf.shape[0] == 0:
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    return jax.eval_shape(lambda leaf: leaf[0], leaf)


def _traced(body: Callable, init: Tree, *rest: Tree) -> tuple[Tree, Lifted]:
    """`body` traced, and `init` with its weakly typed leaves promoted as `body` promotes them."""
    # In `jax.shard_map` a carry that meets data which differ between devices will differ too. A loop's
    # carry has one type, so it is marked as differing ("varying") from the start.
    init = vary(init, varying_axes((init, rest)))
    lifted = _lift_varying(body, init, *rest)
    if not varying_axes(lifted.closed) <= varying_axes(init):
        init = vary(init, varying_axes(lifted.closed))
        lifted = _lift_varying(body, init, *rest)
    # A number that becomes a float may make another one a float, so this goes on until none does. Each
    # round widens a type, so it ends.
    while jax.tree.structure(init) == jax.tree.structure(lifted.shape[0]):
        promoted = jax.tree.map(_promoted, init, lifted.shape[0])
        if _types(promoted) == _types(init):
            break
        init, lifted = promoted, _lift_varying(body, promoted, *rest)
    require_same_types("body", init, lifted.shape[0], body)
    return init, lifted


def _lift_varying(body: Callable, init: Tree, *rest: Tree) -> Lifted:
    """`body` traced. In `jax.shard_map` the carry that it returns is marked as varying like `init`."""
    found = varying_axes(init)
    if not found:
        return lift(body, init, *rest)

    def varying(carry: Tree, *rest: Tree) -> tuple[Tree, Tree]:
        carry, y = body(carry, *rest)
        return vary(jax.tree.map(jnp.asarray, carry), found), y

    return lift(varying, init, *rest)


def _promoted(before: Array, after: jax.ShapeDtypeStruct) -> Array:
    # A carry of a loop has one type. So the 0 of `init=0` becomes 0.0 if the body adds a float to it. It
    # stays weakly typed if the result is: else a float32 0.0 would turn a bfloat16 that it meets later
    # into a float32.
    if not jax.typeof(before).weak_type or before.dtype == after.dtype:
        return before
    dtype = jnp.result_type(before, after.dtype)
    promoted = converted(before, dtype, bool(getattr(after, "weak_type", False)))
    # An integer that the float type cannot hold would change its value. Left as it is, it is refused.
    whole = jnp.issubdtype(before.dtype, jnp.integer) and not isinstance(before, jax.core.Tracer)
    return before if whole and bool(promoted.astype(before.dtype) != before) else promoted


def _types(carry: Tree) -> list:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(carry)]


def _checked_body(body: Callable) -> Callable:
    def checked(carry: Tree, x: Tree) -> tuple[Tree, Tree]:
        result = call_as("body", body, "(carry, x)", packed(carry), packed(x))
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise returned_by(
                body,
                TypeError(
                    f"`body` must return a pair (carry, y): got {_kind(result)}; return (carry, None) "
                    "where a step puts nothing out."
                ),
            )
        return _checked("body", result[0]), _checked("body", result[1])

    checked.__wrapped__ = body  # type: ignore[attr-defined]  # messages name this function
    return checked


def _checked_next(body: Callable) -> Callable:
    def checked(carry: Tree) -> tuple[Tree, None]:
        return _checked("body", call_as("body", body, "(carry)", packed(carry))), None

    checked.__wrapped__ = body  # type: ignore[attr-defined]
    return checked


def _checked_cond(cond: Callable) -> Callable:
    def checked(carry: Tree) -> Array:
        result = call_as("cond", cond, "(carry)", packed(carry))
        boolean = tree.is_numeric(result) and jnp.result_type(result) == jnp.bool_
        if not boolean or jnp.shape(result):
            raise returned_by(
                cond,
                TypeError(
                    f"`cond` must return one boolean of shape (): got {tree.describe(result)}; "
                    "reduce an array with jnp.any or jnp.all."
                ),
            )
        return result

    checked.__wrapped__ = cond  # type: ignore[attr-defined]
    return checked


def _checked(name: str, result: Tree) -> Tree:
    for path, leaf in jax.tree_util.tree_leaves_with_path(result):
        if not tree.is_numeric(leaf):
            where = jax.tree_util.keystr(path)
            raise TypeError(
                f"`{name}` must return arrays or numbers: got {type(leaf).__name__}"
                f"{' at ' + where if where else ''}."
            )
    return unpacked(result)


def _kind(result: Any) -> str:
    if isinstance(result, (tuple, list)):
        return f"a {type(result).__name__} of {len(result)}"
    return "None" if result is None else tree.describe(result)


def require_same_types(name: str, before: Tree, after: Tree, function: Callable) -> None:
    """Refuse a carry whose structure, shapes or dtypes the function `name` changes."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise returned_by(
            function,
            TypeError(
                f"`{name}` must return a carry of the structure it was given: got "
                f"{tree.describe(after)} from {tree.describe(before)}."
            ),
        )
    rows = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    changes = [
        f"carry{jax.tree_util.keystr(path)} is {tree.describe(old)} before and "
        f"{tree.describe(new)} after one step"
        for (path, old), new in rows
        if old.shape != new.shape or old.dtype != new.dtype
    ]
    if changes:
        raise returned_by(
            function,
            TypeError(
                f"`{name}` must return a carry of the types it was given: {'; '.join(changes)}. Give "
                "`init` the type of the result, or cast the result with .astype()."
            ),
        )
