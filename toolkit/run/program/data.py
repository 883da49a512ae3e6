"""The data of a program: arguments of what is compiled, for the functions that take them.

An array that a compiled function closes over is a constant of its program: it is compiled with it, and each of
several devices holds all of it. An argument is neither.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from toolkit.devices.meshes import put, sharding
from toolkit.run.experiment.errors import Exit, fail
from toolkit.run.experiment.experiments import reported
from toolkit.run.experiment.interface import Program

DATA = "data"  # the parameter
BATCHES = "batches"  # among the data that are recorded


class DrivenProgram(NamedTuple):
    """A program as the runner calls it: each function is handed the data, whether it takes them or not."""

    init: Callable[[Any, Any], Any]  # (key, data)
    step: Callable[..., Any]  # (state, data); (state, fraction, data) where it takes a fraction
    finish: Callable[[Any, Any], Any]  # (state, data)
    losses: Callable[[Any, Any], Any] | None  # (state, data)
    data: Any = ()  # what they are handed: arrays, where the run has placed them
    # The data by name, as the experiment gave them: their hashes stand in run.json.
    recorded: Mapping[str, Any] = MappingProxyType({})
    takes_fraction: bool = False
    mesh: Mesh | None = None  # the devices that it is spread over; None for one


def driven(program: Any, source: Path, mesh: Mesh | None = None) -> DrivenProgram:
    """What an experiment built, as the runner calls it.

    Args:
      mesh: what it is spread over. Arrays of the data whose rows the devices of the axis `data` can share are
        split over them, and so are those of each batch. The others lie on every device.

    Raises: RunError (exit 2) that names the function which cannot be handed the data, or the leaf.
    """
    if not isinstance(program, Program):
        raise fail(
            Exit.CONFIG, source, "build: wrong type", type(program).__name__, "toolkit.run.Program"
        )
    data, given = program.data, program.data is not Program._field_defaults["data"]
    if not isinstance(data, Mapping):
        expected = "a dict of trees of arrays by name"
        raise fail(Exit.CONFIG, source, "data: wrong type", type(data).__name__, expected)
    _require_batches(program, source)
    more = {"batch": program.batches is not None, "fraction": program.takes_fraction}
    state = ("state",)
    others = {
        "init": ("key",),
        "step": (*state, *(name for name, there in more.items() if there)),
        "finish": state,
        "losses": state,
    }
    takes = {
        name: _takes_data(name, getattr(program, name), before, given, source)
        for name, before in others.items()
    }
    functions: dict[str, Any] = {
        name: _handed(getattr(program, name), takes[name]) for name in others
    }
    with reported(source, "data failed"):
        arrays = spread(dict(data), mesh) if any(takes.values()) else ()
    if program.losses is None:
        functions["losses"] = None
    whole = DrivenProgram(
        **functions,
        data=arrays,
        recorded=data,
        takes_fraction=program.takes_fraction,
        mesh=mesh,
    )
    if program.batches is None:
        return whole
    with reported(source, "batches failed"):
        return _batched(whole, program.batches)


class Batched(NamedTuple):
    """The state of a program whose step takes a batch."""

    state: Any
    made: Any  # int32 [], steps made


def _batched(program: DrivenProgram, batches: Any) -> DrivenProgram:
    """The program with the number of its steps in its state, by which each step picks its batch."""
    losses, mesh = program.losses, program.mesh

    def step(now: Batched, *others: Any) -> tuple[Batched, dict[str, Any]]:
        *before, (data, batches) = others
        batch = batches.batch(now.made)
        if mesh is not None:
            batch = jax.lax.with_sharding_constraint(batch, by_rows(batch, mesh))
        state, metrics = program.step(now.state, batch, *before, data)
        return Batched(state, now.made + 1), metrics

    return program._replace(
        init=lambda key, given: Batched(program.init(key, given[0]), np.int32(0)),
        step=step,
        finish=lambda now, given: program.finish(now.state, given[0]),
        losses=None if losses is None else lambda now, given: losses(now.state, given[0]),
        data=(program.data, whole(batches, mesh)),
        recorded={**program.recorded, BATCHES: batches},
    )


def placed(data: Any, where: Any = None) -> Any:
    """The data as arrays on a device, or laid out over several.

    Args:
      where: a tree of shardings; None leaves an array where it is, and puts what is
        not on a device yet on the default one.

    Raises: ValueError: a number does not fit into the type that JAX gives it.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(data)[0]:
        _require_fits(jax.tree_util.keystr(path), leaf)
    return jax.device_put(data, None) if where is None else jax.tree.map(put, data, where)


def by_rows(tree: Any, mesh: Mesh, axis: str = DATA) -> Any:
    """For each array where it lies: its rows over an axis, where they divide; else whole on every device."""
    size = mesh.shape.get(axis, 0)

    def where(leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        return sharding(mesh, axis) if size and shape and shape[0] % size == 0 else sharding(mesh)

    return jax.tree.map(where, tree)


def spread(data: Any, mesh: Mesh | None) -> Any:
    """The data on a device, or over a mesh as `by_rows` says."""
    return placed(data, None if mesh is None else by_rows(data, mesh))


def whole(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays on a device, or a copy on every device of a mesh."""
    return placed(tree, None if mesh is None else jax.tree.map(lambda _: sharding(mesh), tree))


def laid_out(data: Any, where: Any) -> Any:
    """The data as shapes with their shardings: for devices that this machine lacks."""
    as_shape = lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)
    return jax.tree.map(as_shape, placed(data), where)


def _require_batches(program: Program, source: Path) -> None:
    """Raises: RunError (exit 2) for what gives no batches, or cannot be an argument of a program."""
    batches = program.batches
    if batches is None:
        return
    got, expected = type(batches).__name__, "a pytree of arrays with a method `batch(step)`"
    # What JAX does not know as a pytree is a leaf of its own.
    if not callable(getattr(batches, "batch", None)) or jax.tree_util.all_leaves([batches]):
        raise fail(Exit.CONFIG, source, "batches: wrong type", got, expected)
    if BATCHES in program.data:
        what = f"data: the name `{BATCHES}` is that of `{BATCHES}=`"
        raise fail(Exit.CONFIG, source, what, BATCHES, "another name")


def _takes_data(
    name: str, function: Any, before: tuple[str, ...], given: bool, source: Path
) -> bool:
    """Whether a function has a parameter `data` to be called with.

    Args:
      before: what it is called with by position.
      given: whether the program has data.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (
        TypeError,
        ValueError,
    ):  # no function, or a builtin: it fails when it is called, if at all
        return False
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = {p.name: i for i, p in enumerate(parameters) if p.kind not in variable}
    # A partial that binds `data` has given it already.
    if DATA not in found or DATA in getattr(function, "keywords", {}):
        return False
    place, called = found[DATA], ", ".join([*before, DATA])
    if place < len(before) and parameters[place].kind is not inspect.Parameter.KEYWORD_ONLY:
        what = f"{name}: `{DATA}` in the place of `{before[place]}`"
        got = f"{name}({', '.join(found)})"
        raise fail(Exit.CONFIG, source, what, got, f"{name}({called})")
    if not given and parameters[place].default is inspect.Parameter.empty:
        expected = "Program(..., data={name: arrays})"
        raise fail(
            Exit.CONFIG, source, f"{name}: takes `{DATA}`", "a Program without any", expected
        )
    return given


def _handed(function: Any, takes: bool) -> Callable[..., Any]:
    """`function`, handed the data as the last argument, which it gets by name where it takes them."""

    def call(*arguments: Any) -> Any:
        *before, data = arguments
        if not takes:
            return function(*before)
        # In containers of its own: `finish` may be called twice, and what a function does to a dict or a list
        # would be done to the data of the next call.
        return function(*before, **{DATA: jax.tree.map(lambda leaf: leaf, data)})

    # `toolkit describe` says where a function is defined.
    return functools.wraps(function, updated=())(call)


def _require_fits(path: str, leaf: Any) -> None:
    """Refuse an array of 64-bit numbers that JAX would cut to other ones."""
    kind = getattr(leaf, "dtype", None)
    if isinstance(leaf, np.ndarray | np.generic) and jax.dtypes.canonicalize_dtype(kind) != kind:
        narrow = jax.dtypes.canonicalize_dtype(kind)
        with np.errstate(over="ignore"):
            found = np.asarray(leaf).astype(narrow)
        same = (
            np.isfinite(found) == np.isfinite(leaf) if found.dtype.kind in "fc" else found == leaf
        )
        if not np.all(same):
            raise ValueError(
                f"data{path} has numbers beyond {narrow}, to which JAX cuts {kind}; scale them, or set "
                "jax_enable_x64"
            )
