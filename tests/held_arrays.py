"""The arrays that a program holds, instead of being handed them: in its jaxpr, at any depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from toolkit.jaxprs.classes import Literal
from toolkit.jaxprs.read import called, inner, opened

LARGEST = 1024  # bytes, that the compiled `init` and `step` of an experiment may hold in one array


def held(computation: Any) -> Iterator[np.ndarray]:
    """The arrays in a traced program at any depth: constants, literals, parameters of equations."""
    jaxpr, constants = opened(computation)
    yield from map(_array, constants)
    for equation in jaxpr.eqns:
        yield from (_array(atom.val) for atom in equation.invars if isinstance(atom, Literal))
        for value in jax.tree.leaves(list(equation.params.values())):
            if isinstance(value, np.ndarray | jax.Array):
                yield _array(value)
        programs = [*inner(equation), called(equation)]
        yield from (array for one in programs if one is not None for array in held(one))


def largest(computation: Any) -> int:
    """The bytes of the largest array that a traced program holds."""
    return max((array.nbytes for array in held(computation)), default=0)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value)
