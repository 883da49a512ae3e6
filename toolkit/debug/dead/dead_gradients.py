"""Inputs that can never learn, and the line that is to blame; found before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from toolkit import tree
from toolkit.debug.dead.flow import FlowScope, analyse
from toolkit.debug.dead.kills import Dependence, Kill, buried
from toolkit.debug.source_lines import NOWHERE, SourceLine
from toolkit.errors.readable import readable


@dataclass(frozen=True)
class DeadGradient:
    """An input whose gradient is always zero."""

    path: str  # argument name and path in its tree, as in "params['w1']"
    file: str | None  # of the line that is responsible, or of the function where no line is
    line: int | None
    reason: str
    carried: bool = False  # an integer, truth value or key, as trees of parameters may hold

    def __str__(self) -> str:
        return f"{self.path}: the gradient is always zero: {self.reason}"


@readable
def dead_gradients(
    fn: Callable[..., Any], *specs: Any, argnums: int | Sequence[int] = 0
) -> tuple[DeadGradient, ...]:
    """The inputs of `fn` whose gradient is zero whatever their values, each with its reason.

    The program is traced, never run, and followed from the inputs to the floating results: through
    `round`, `floor`, `sign`, casts, comparisons, `stop_gradient`, `x * 0` and the like no derivative
    passes; nor through operands that bounds show are never chosen, as in `relu(-exp(x))`. Loops are
    followed until nothing changes. Functions with a derivative rule of their own (straight-through
    estimators, the adjoints of `tk.argmin`) count as that rule says: it is traced. What is not known
    counts as alive, so that nothing is reported which could learn; a gradient that is zero for some
    values only, as that of a dead ReLU, is not reported.

    Args:
      fn: the function that would be differentiated, as `fn(*specs)`.
      specs: its arguments: arrays, `jax.ShapeDtypeStruct`s, or trees of either. Only shapes count.
      argnums: which arguments are looked at, an int or several.

    Returns: One `DeadGradient(path, file, line, reason)` an input leaf, in the order of the leaves; an
      empty tuple where all are alive. Where `fn` returns several arrays, an input is dead if none moves
      with it. Integer and key leaves are reported as such.

    Raises: TypeError, ValueError on bad arguments, naming them.

    Cost: one trace of `fn`, one of each custom rule, no compilation.
    """
    if not callable(fn):
        raise TypeError(f"`fn` must be callable: got {type(fn).__name__}.")
    numbers = _positions(argnums, len(specs))
    names = _names(fn, len(specs))
    leaves, structure = tree_flatten_with_path(specs)
    # A Python number that is not asked about stays a number: it may be a flag or a length, which the
    # function needs while it is traced.
    is_array = [
        hasattr(leaf, "dtype") or (path[0].idx in numbers and tree.is_numeric(leaf))
        for path, leaf in leaves
    ]

    def flat(*arrays: Any) -> list[Any]:
        given = iter(arrays)
        whole = [next(given) if a else leaf for (_, leaf), a in zip(leaves, is_array, strict=True)]
        results = jax.tree.leaves(fn(*jax.tree.unflatten(structure, whole)))
        return [result for result in results if tree.is_numeric(result)]

    inputs = [entry for entry, a in zip(leaves, is_array, strict=True) if a]
    jaxpr = jax.make_jaxpr(flat)(*(leaf for _, leaf in inputs))
    scope = FlowScope(place=_definition(fn))
    values = [
        Dependence(frozenset([i])) if _moves(aval) else Dependence()
        for i, aval in enumerate(jaxpr.in_avals)
    ]
    results = analyse(jaxpr, values, scope)
    _require_floating(jaxpr)
    return tuple(
        _report(number, names[path[0].idx] + keystr(path[1:]), aval, results, scope)
        for number, ((path, _), aval) in enumerate(zip(inputs, jaxpr.in_avals, strict=True))
        if path[0].idx in numbers and _is_dead(number, aval, results, scope)
    )


def _moves(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.inexact)


def _is_dead(number: int, aval: Any, results: Sequence[Dependence], scope: FlowScope) -> bool:
    if not aval.size or any(number in value.live for value in results):
        return False
    # A rule of this package that cannot be traced here refuses that derivative with an error. The user
    # then sees no silent zero, and nothing is to be reported.
    kill = _worst(number, results, scope)
    return kill is None or kill.rank == 0 or number not in scope.refused


def _report(
    number: int, path: str, aval: Any, results: Sequence[Dependence], scope: FlowScope
) -> DeadGradient:
    place = scope.place
    if not _moves(aval):
        kind = "integers" if jnp.issubdtype(aval.dtype, jnp.integer) else f"{aval.dtype} values"
        reason = f"is {aval.dtype}: {kind} have no gradient"
        return DeadGradient(path, *place, reason, carried=True)
    kill = _worst(number, results, scope)
    if kill is None:
        return DeadGradient(path, *place, "is not used by the function")
    return DeadGradient(path, *kill.place, kill.reason())


def _worst(number: int, results: Sequence[Dependence], scope: FlowScope) -> Kill | None:
    """The kill that the report names.

    If `~number` reaches a result, then only a `stop_gradient` of this package was in the way: it is named.
    """
    if any(~number in value.live for value in results):
        return scope.stops[number]
    dead = buried(*results)
    found = [dead[label] for label in (number, ~number) if label in dead]
    return min(found, key=lambda kill: kill.weight, default=None)


def _require_floating(jaxpr: Any) -> None:
    if not any(_moves(aval) for aval in jaxpr.out_avals):
        got = ", ".join(str(aval.dtype) for aval in jaxpr.out_avals) or "nothing"
        raise ValueError(
            f"`fn` must return a floating array to differentiate: got {got}; return the loss."
        )


def _positions(argnums: Any, count: int) -> set[int]:
    given = argnums if isinstance(argnums, (tuple, list)) else (argnums,)
    for number in given:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"`argnums` must be an int or a tuple of them: got {argnums!r}.")
        if not -count <= number < count:
            raise ValueError(
                f"`argnums` must point at one of the {count} `specs`: got {argnums!r}; give a spec "
                "for each argument of `fn`."
            )
    return {number % count for number in given}


def _names(fn: Callable[..., Any], count: int) -> list[str]:
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [*names[:count], *(f"args[{i}]" for i in range(len(names), count))]


def _definition(fn: Callable[..., Any]) -> SourceLine:
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return NOWHERE if code is None else SourceLine(code.co_filename, code.co_firstlineno)
