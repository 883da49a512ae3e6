"""The data of a program: arguments of what is compiled, for the functions that take them.

An array that a compiled function closes over is a constant of its program: it is compiled with it, and each of
several devices holds all of it. An argument is neither.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from toolkit.run.experiment.errors import Exit, fail
from toolkit.run.experiment.experiments import reported
from toolkit.run.experiment.interface import Program

DATA = "data"  # the parameter


class DrivenProgram(NamedTuple):
    """A program as the runner calls it: each function is handed the data, whether it takes them or not."""

    init: Callable[[Any, Any], Any]  # (key, data)
    step: Callable[..., Any]  # (state, data); (state, fraction, data) where it takes a fraction
    finish: Callable[[Any, Any], Any]  # (state, data)
    losses: Callable[[Any, Any], Any] | None  # (state, data)
    data: Any = ()  # what they are handed: arrays, where the run has placed them
    recorded: Mapping[
        str, Any
    ] = {}  # by name, as the experiment gave them: run.json has their hashes
    takes_fraction: bool = False


def driven(program: Any, source: Path) -> DrivenProgram:
    """What an experiment built, as the runner calls it.

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
    state = ("state",)
    others = {
        "init": ("key",),
        "step": (*state, "fraction") if program.takes_fraction else state,
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
        arrays = placed(dict(data)) if any(takes.values()) else ()
    if program.losses is None:
        functions["losses"] = None
    return DrivenProgram(
        **functions, data=arrays, recorded=data, takes_fraction=program.takes_fraction
    )


def placed(data: Any, where: Any = None) -> Any:
    """The data as arrays on a device, or laid out over several.

    Args:
      where: a sharding for all leaves, or a tree of them; None leaves an array where it is, and puts what is
        not on a device yet on the default one.

    Raises: ValueError: a number does not fit into the type that JAX gives it.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(data)[0]:
        _require_fits(jax.tree_util.keystr(path), leaf)
    return jax.device_put(data, where)


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
        return function(*before, **({DATA: data} if takes else {}))

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
