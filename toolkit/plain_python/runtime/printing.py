"""`print` in a staged block: it prints when the compiled program runs, as often as Python would."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from toolkit.plain_python import mode
from toolkit.plain_python.carried.typed_arrays import is_traced


def print_(
    function: Any, template: Callable[..., tuple[Any, ...]], *values: Any, **settings: Any
) -> Any:
    """`print(*template(*values), **settings)`."""
    if function is not builtins.print or not mode.is_staged():
        return function(*template(*values), **settings)
    leaves, structure = jax.tree.flatten(values)
    places = [k for k, leaf in enumerate(leaves) if is_traced(leaf)]
    weak = [leaves[k].weak_type for k in places]

    def show(*arrays: Any) -> None:
        now = list(leaves)
        for k, array, number in zip(places, arrays, weak, strict=True):
            now[k] = _as_shown(np.asarray(array), number)
        builtins.print(*template(*jax.tree.unflatten(structure, now)), **settings)

    jax.debug.callback(show, *(leaves[k] for k in places))
    return None


def _as_shown(array: np.ndarray, number: bool) -> Any:
    """An array; a scalar as NumPy's, which has a format; a number of Python's as one."""
    if array.ndim:
        return array
    scalar = array[()]
    # The float32 nearest to 0.1 is 0.10000000149 as a float of Python's. Its text is 0.1.
    return type(array.item())(str(scalar)) if number and array.dtype.kind in "if" else scalar
