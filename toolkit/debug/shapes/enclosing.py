"""Loops, branches and batches around a line, recognised by the running functions of JAX and toolkit."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from toolkit.control.loop import loop
from toolkit.control.while_loop import while_loop
from toolkit.errors.frames import is_jax
from toolkit.jaxprs import hidden
from toolkit.plain_python.staging.branching import branch
from toolkit.plain_python.staging.staged_for import for_static, for_traced
from toolkit.plain_python.staging.staged_while import while_from_the_start, while_traced
from toolkit.solve.maps import SolutionMap

Variables = Mapping[str, Any]


class Enclosing(NamedTuple):
    """A loop, a condition or a batch around a line."""

    name: str
    times: int | None = None  # None where it is not known before the program runs
    at_most: bool = False

    def __str__(self) -> str:
        if self.times is None:
            return f"inside {self.name}"
        return f"{'at most ' if self.at_most else ''}x{self.times} inside {self.name}"


class Construct(NamedTuple):
    """A function that calls the user's, such as `jax.lax.scan`."""

    around: Callable[[Variables], Enclosing]  # what it is, from its arguments
    retraces: bool = False  # it may call a function again to find types: the last call counts
    ours: bool = False  # of this package: the loops of JAX that it consists of are not shown


def construct(code: types.CodeType) -> Construct | None:
    """The construct that a code object is the body of; None of all other code."""
    known = _known().get(code)
    if known is not None or not is_jax(code.co_filename):
        return known
    # These two are defined within `jax.vmap` and `jax.shard_map`: there is no object to take their code from,
    # so they are known by name.
    if code.co_name == hidden.VMAP:
        return Construct(_vmap)
    if code.co_qualname == hidden.SHARD_MAP:
        return Construct(_fixed("shard_map"))
    return None


def reduced(found: Sequence[tuple[Construct, Enclosing]]) -> tuple[Enclosing, ...]:
    """The constructs between two functions of the user's, without those that only implement another."""
    kept: list[tuple[Construct, Enclosing]] = []
    for one in found:
        if kept and kept[-1][0].ours:
            break
        if kept and one[1].name in _IMPLEMENTS.get(kept[-1][1].name, ()):
            continue
        kept.append(one)
    return tuple(around for _, around in kept)


# Inside of a `fori_loop` JAX calls its own `scan`: the user has written only one loop.
_IMPLEMENTS = {"fori_loop": ("scan", "while_loop"), "map": ("scan", "vmap"), "switch": ("cond",)}


@functools.cache
def _known() -> Mapping[types.CodeType, Construct]:
    lax = {
        jax.lax.scan: Construct(_scan, retraces=True),
        jax.lax.while_loop: Construct(_fixed("while_loop"), retraces=True),
        jax.lax.fori_loop: Construct(_fori, retraces=True),
        jax.lax.map: Construct(_map, retraces=True),
        jax.lax.cond: Construct(_fixed("cond")),
        jax.lax.switch: Construct(_fixed("switch")),
        jax.lax.associative_scan: Construct(_fixed("associative_scan")),
    }
    ours = {
        loop: lambda v: _scan(v)._replace(name="loop"),
        while_loop: lambda v: Enclosing("while_loop", v.get("max_steps"), True),
        SolutionMap.__call__: _solve,
        for_static: lambda v: Enclosing("for", v["items"].length),
        for_traced: lambda v: Enclosing("for", v.get("max_steps"), True),
        while_from_the_start: _fixed("while"),
        while_traced: _fixed("while"),
        branch: _fixed("if"),
    }
    return {
        **{_code(fn): one for fn, one in lax.items()},
        **{
            _code(fn): Construct(around, fn is not SolutionMap.__call__, True)
            for fn, around in ours.items()
        },
    }


def _code(fn: Any) -> types.CodeType:
    return inspect.unwrap(fn).__code__


def _fixed(name: str) -> Callable[[Variables], Enclosing]:
    return lambda _: Enclosing(name)


def _scan(variables: Variables) -> Enclosing:
    leaves = jax.tree.leaves(variables.get("xs"))
    length = variables.get("length")
    if length is None and leaves:
        length = _size(leaves[0], 0)
    return Enclosing("scan", _whole(length))


def _map(variables: Variables) -> Enclosing:
    return _scan({"xs": variables["xs"]})._replace(name="map")


def _fori(variables: Variables) -> Enclosing:
    lower, upper = _whole(variables["lower"]), _whole(variables["upper"])
    count = None if lower is None or upper is None else max(upper - lower, 0)
    return Enclosing("fori_loop", count)


def _vmap(variables: Variables) -> Enclosing:
    """The size of the batch, where the axes are plain numbers."""
    args, axes = variables["args"], variables.get("in_axes")
    axes = axes if isinstance(axes, (tuple, list)) else [axes] * len(args)
    sizes = [
        _size(leaf, axis)
        for arg, axis in zip(args, axes, strict=False)
        if isinstance(axis, int)
        for leaf in jax.tree.leaves(arg)[:1]
    ]
    return Enclosing("vmap", variables.get("axis_size") or (sizes[0] if sizes else None))


def _solve(variables: Variables) -> Enclosing:
    """Exactly `num_steps` gradients are taken where no tolerance ends the solve."""
    solve = variables["self"]
    exact = getattr(solve.solver, "tol", 0.0) is None
    return Enclosing(solve.kind, getattr(solve.solver, "num_steps", None) if exact else None)


def _size(leaf: Any, axis: int) -> int | None:
    """None of what JAX is about to refuse."""
    shape = getattr(leaf, "shape", ())
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def _whole(number: Any) -> int | None:
    """A number that is known while tracing."""
    try:
        return None if isinstance(number, jax.core.Tracer) or number is None else int(number)
    except TypeError:
        return None
