"""Packages whose public names load on first use, so that a program imports only the modules that it uses.

`import toolkit` would otherwise import jax, flax and optax, which takes seconds, also for `toolkit --help`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy(
    room: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of the package `room` (PEP 562).

    Args:
      room: the package's `__name__`.
      homes: for each module, the names that the package offers from it. A module without names is itself
        offered, by the last part of its name.

    Raises: AttributeError: by the returned `__getattr__`, for a name that the package does not offer.

    Example: `__getattr__, __dir__ = lazy(__name__, {"toolkit.debug.shapes.annotate": ("annotate",)})`.
    """
    home = {name: module for module, names in homes.items() for name in names}
    rooms = {module.rpartition(".")[2]: module for module, names in homes.items() if not names}

    def getattribute(name: str) -> Any:
        if name in rooms:
            return import_module(rooms[name])
        if name not in home:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        value = getattr(import_module(home[name]), name)
        # Python calls this only for names that the package lacks. Once stored there, the name costs nothing.
        setattr(sys.modules[room], name, value)
        return value

    def directory() -> list[str]:
        # What is public, and nothing else: this is what a notebook offers after `tk.` and a press of Tab.
        return sorted(sys.modules[room].__all__)

    return getattribute, directory
