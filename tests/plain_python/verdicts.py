"""Programs that give what Python gives, and programs that are refused, in the 32 bits that JAX has by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.cases import Function


class Programs:
    """Collects programs: `@programs.right(x, k)` or `@programs.refused(x, k)` stands above each."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Function, tuple[Any, ...], bool]] = {}

    def right(self, *arguments: Any) -> Callable[[Function], Function]:
        return lambda function: self._add(function, arguments, True)

    def refused(self, *arguments: Any) -> Callable[[Function], Function]:
        return lambda function: self._add(function, arguments, False)

    def _add(self, function: Function, arguments: tuple[Any, ...], right: bool) -> Function:
        assert function.__name__ not in self.known, function.__name__
        self.known[function.__name__] = function, arguments, right
        return function

    def check(self, name: str) -> None:
        """Compiled, with every number traced, a program gives Python's numbers, or names its own line."""
        function, arguments, right = self.known[name]
        f = tk.control_flow(function)
        with jax.enable_x64(False):
            if not right:
                with pytest.raises(
                    (tk.control.ControlFlowError, UnboundLocalError), match=f"in {name}\n"
                ):
                    jax.jit(f)(*arguments)
                return
            got = jax.jit(f)(*arguments)
            with tk.control.as_python():
                expected = f(*arguments)
            for e, g in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
                exact = not np.issubdtype(np.asarray(e).dtype, np.inexact)
                np.testing.assert_allclose(
                    np.asarray(g, float), np.asarray(e, float), rtol=0 if exact else 1e-6
                )
