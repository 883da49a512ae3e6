"""What a planted bug is: a function that returns something non-finite, and what the report must say.

The line that makes the first non-finite value ends with `# here: NAME`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp


class Bug(NamedTuple):
    """A function that returns something non-finite, and what the report must say."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    operation: str  # a part of the operation's words
    phase: str = "forward"
    iterations: tuple[tuple[str, int], ...] = ()
    depends_on: tuple[str, ...] | None = None
    says: str = ""  # a part of the suggestion
    line: str = ""  # the marker, where it is not the case's own name


def line_of(module: ModuleType, name: str) -> int:
    """The line of `module` that is marked with `# here: name`."""
    marked = [
        number
        for number, text in enumerate(Path(module.__file__).read_text().splitlines(), 1)
        if text.endswith(f"# here: {name}")
    ]
    assert len(marked) == 1, f"{name}: {marked}"
    return marked[0]


PARAMS = {"dense": {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array(0.5)}, "scale": jnp.array(2.0)}
ROOT = jnp.array([0.0, 4.0])
