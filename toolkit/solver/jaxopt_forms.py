"""jaxopt's forms, answered with ours: there a solver holds its function and runs, here it is settings."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from toolkit.errors.readable import readable

_METHODS = ("run", "update", "init_state", "optimality_fun", "l2_optimality_error")
_RENAMED = {
    "maxiter": ("max_steps", "num_steps"),
    "stepsize": ("step_size",),
    "history_size": ("history",),
    "acceleration": ("accelerated",),
    "implicit_diff": (),
}


def answer_jaxopt(cls: type, make: str) -> None:
    """Give the settings class of a solver errors that show the call of ours.

    Args:
      make: the function that takes such a solver, `argmin` or another.
    """
    made: Any = vars(cls)["__init__"]
    fields = [field.name for field in dataclasses.fields(cls)]
    shown = f"tk.{make}(fun, tk.solver.{cls.__name__}(...))"

    @functools.wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        others = [name for name in kwargs if name not in fields]
        if others:
            takes = ", ".join(name for name in fields if name not in ("kind", "kind_"))
            raise TypeError(
                f"{cls.__name__} takes {takes}: got {', '.join(map(_named(fields), others))}; "
                f"the function goes to {shown}."
            )
        made(self, *args, **kwargs)

    def getattr_(self: Any, name: str) -> Any:
        if name in _METHODS:
            raise AttributeError(
                f"{cls.__name__} is settings and has no `{name}`: write solve = {shown}, then "
                "solve(y0, theta), or init, step = solve.steps()."
            )
        raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")

    cls.__init__ = readable(init)  # type: ignore[misc]
    cls.__getattr__ = readable(getattr_)  # type: ignore[attr-defined]


def _named(fields: list[str]) -> Any:
    """A name that came, with the one that it has here."""

    def named(name: str) -> str:
        ours = [one for one in _RENAMED.get(name, ()) if one in fields]
        return f"{name} (here {ours[0]})" if ours else name

    return named
