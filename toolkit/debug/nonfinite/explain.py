"""`tk.debug.explain`: which line made the NaN."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from toolkit.debug.nonfinite import origins
from toolkit.debug.nonfinite.bad_loops import scan, while_loop
from toolkit.debug.nonfinite.fallbacks import first_flagged, from_checkify
from toolkit.debug.nonfinite.interpret import PlaceInProgram, Replay, is_differentiated
from toolkit.debug.nonfinite.nonfinite_report import NonFiniteReport, report
from toolkit.debug.nonfinite.origins import Birth, Value
from toolkit.debug.nonfinite.sharded import shard_map
from toolkit.debug.nonfinite.suggestions import suggest
from toolkit.errors.readable import readable
from toolkit.jaxprs.read import evaluate, reverses, wide
from toolkit.types import Tree

_NEEDS_PYTHON = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerArrayConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


@readable
def explain(fn: Callable[..., Tree], *args: Any) -> NonFiniteReport | None:
    """Which line of `fn` makes the NaN or the infinity that `fn(*args)` returns.

    The computation runs once, compiled. Where a result is not finite it is replayed equation by
    equation: the first equation that makes something non-finite which reaches a result is named
    with its line, its operands, the arguments that it depends on, and what usually helps. Loops run
    compiled up to the iteration that matters. An infinity that is written down, such as a mask's
    -inf, is no fault by itself.

    Args:
      fn: any function of arrays, also one that `jax.jit`, `jax.grad` or `jax.vmap` made. Its debug
        prints and callbacks run once.
      args: its arguments; arrays and numbers are traced, everything else is static.

    Limits: of a function with a `jax.custom_vjp` JAX records the call, not the lines of its backward
    rule. A loop policy that cuts a loop into segments shows two iterations, of the segment and in
    it; what does not change in a loop JAX may move out of it, and the iteration with it.

    Returns: None where all results are finite, else a report whose `str` is a page. Iterations
      count from 0; of a scan they are positions in `xs`, also where it runs backwards.

    Raises: what `fn` raises; TypeError where `fn` is no function or is being traced.

    Differentiation: none.

    Cost: one run and its compilation; on failure as much as running `fn` without `jax.jit`, and
    one compilation for each loop on the way.

    Example:
      print(tk.debug.explain(jax.grad(loss), params, batch))
    """
    if not callable(fn):
        raise TypeError(f"`fn` must be a function: got {fn!r}; write `explain(fn, *args)`.")
    flat, structure = tree_flatten_with_path(args)
    leaves = [leaf for _, leaf in flat]
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        raise TypeError(
            "`args` must be concrete: got a traced value; call tk.debug.explain outside jit and grad."
        )
    names = _names(fn, args, [path for path, _ in flat])
    traced, shape, chosen = _traced(fn, leaves, structure)
    arrays = [jax.numpy.asarray(leaves[i]) for i in chosen]
    results = jax.jit(functools.partial(evaluate, traced))(*arrays)
    bad = [i for i, result in enumerate(results) if not origins.is_finite(result)]
    if not bad:
        return None
    paths = [f"result{keystr(path)}" for path, _ in tree_flatten_with_path(shape)[0]]
    outputs = tuple(paths[i] for i in bad)
    inputs = [
        _input(i, array, names[j]) for i, (j, array) in enumerate(zip(chosen, arrays, strict=True))
    ]
    try:
        with wide(traced):
            return _replayed(traced, inputs, bad, outputs)
    # Some equations run only compiled, and others are unknown to the replay.
    except Exception as error:
        return from_checkify(fn, args, outputs, error)


def _replayed(
    traced: Any, inputs: Sequence[Value], bad: Sequence[int], outputs: tuple[str, ...]
) -> NonFiniteReport:
    replay = Replay(
        {"scan": scan, "while": while_loop, "shard_map": shard_map}, is_reverse=reverses(traced)
    )
    given = {birth for value in inputs for birth in value.masks}
    values = replay.run(traced, inputs, PlaceInProgram())
    replay.note_ends(values)
    reaching = {birth for i in bad for birth in values[i].masks}
    # The compiled computation returned something bad, but its equations run one by one did not, because XLA
    # has fused or reordered some of them. Then flags in the compiled computation tell which equation it was.
    if not reaching:
        birth = first_flagged(traced, [value.array for value in inputs])
        return report(birth, "forward", outputs, suggest(birth, "forward"), ())
    primal = replay.primal
    # A fault in the value comes before a fault in a slope, even if the slope was computed earlier: mending
    # the value often mends both. Infinities that were written down come last, as most are masks.
    first = min(reaching, key=lambda b: (b.legal, _phase(b, primal) != "forward", b.order))
    phase = _phase(first, primal)
    # What reaches no result, and did not lead to what is reported: listed, but only where the user wrote it.
    others = {*replay.births, *given} - reaching - first.causes
    line = (first.place, first.operation)
    without_effect = [b for b in others if b.own_line and (b.place, b.operation) != line]
    without_effect.sort(key=lambda birth: birth.order)
    return report(first, phase, outputs, suggest(first, phase), tuple(without_effect))


def _phase(birth: Birth, primal: Collection[Birth]) -> str:
    """In which phase of the computation a birth is, as `NonFiniteReport.phase` names it."""
    if not is_differentiated(birth.names):
        return "forward"
    if any(_same(birth, other) for other in primal):
        return "forward"
    # A checkpoint computes forward values again within the backward pass, under the name "rematted".
    if "transpose" in birth.names and "rematted" not in birth.names:
        return "backward"
    return "derivative"


def _same(birth: Birth, other: Birth) -> bool:
    """Whether one is the other, or its recomputation in the backward pass."""
    parts = (birth.place, birth.operation, birth.iterations, birth.operands)
    return parts == (other.place, other.operation, other.iterations, other.operands)


def _input(index: int, array: Any, name: str) -> Value:
    if origins.is_finite(array):
        return Value(array, {}, frozenset({name}))
    nan, above, _ = origins.by_kind(array)
    has_nan = bool(nan.any())
    birth = Birth(
        order=(-1, index),
        operation="input",
        operands=(origins.describe(array),),
        depends_on=frozenset({name}),
        has_nan=has_nan,
        legal=not has_nan and not above.any(),  # nothing but -inf: a mask
    )
    return Value(array, {birth: origins.nonfinite(array)}, frozenset({name}))


def _traced(
    fn: Callable[..., Tree], leaves: Sequence[Any], structure: Any
) -> tuple[Any, Tree, list[int]]:
    """The jaxpr, the result's shapes, and which leaves are its arguments.

    Numbers are traced as arrays; where `fn` needs them as Python's (a jitted function's static
    argument, an axis) they stay as they are.
    """
    arrays = _where(leaves, jax.Array, np.ndarray, np.generic)
    numbers = _where(leaves, float, complex)
    counts = _where(leaves, bool, int)
    # The first choice that can be traced is the best: it tells the most about what the result depends on.
    choices = [sorted({*arrays, *numbers, *counts}), sorted({*arrays, *numbers}), arrays]
    for chosen in choices:
        # `fn` may need a number as Python's own: tracing it as an array then fails with one of these errors.
        try:
            return *_trace(fn, leaves, structure, chosen), chosen
        except (*_NEEDS_PYTHON, TypeError, ValueError):
            if chosen == arrays:
                raise
    raise AssertionError("unreachable")


def _where(leaves: Sequence[Any], *types: type) -> list[int]:
    return [i for i, leaf in enumerate(leaves) if isinstance(leaf, types)]


def _trace(
    fn: Callable[..., Tree], leaves: Sequence[Any], structure: Any, chosen: Sequence[int]
) -> Any:
    def call(*arrays: Any) -> Tree:
        filled = list(leaves)
        for i, array in zip(chosen, arrays, strict=True):
            filled[i] = array
        return fn(*jax.tree.unflatten(structure, filled))

    return jax.make_jaxpr(call, return_shape=True)(*(leaves[i] for i in chosen))


def _names(fn: Callable[..., Tree], args: Sequence[Any], paths: Sequence[Any]) -> list[str]:
    """The leaves' paths, each beginning with the argument's name."""
    arguments = [f"args[{i}]" for i in range(len(args))]
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    for i, parameter in enumerate(parameters):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            arguments[i:] = [f"{parameter.name}[{j}]" for j in range(len(args) - i)]
            break
        if i < len(args):
            arguments[i] = parameter.name
    return [f"{arguments[path[0].idx]}{keystr(path[1:])}" for path in paths]
