"""Functions of many variables: each is called by keyword, with those variables that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from toolkit.types import Tree

Values = Mapping[str, Tree]  # by name of variable


def call(fun: Callable[..., Any], values: Values) -> Any:
    """`fun` called with those of the values that it takes."""
    return fun(**{name: value for name, value in values.items() if takes(fun, name)})


def takes(fun: Callable[..., Any], name: str) -> bool:
    """Whether `fun` takes a keyword argument of that name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(
        p.kind is p.VAR_KEYWORD or (p.kind in by_name and p.name == name) for p in _parameters(fun)
    )


def check_takes(what: str, fun: Callable[..., Any], names: Collection[str]) -> None:
    """Refuse a function with a required parameter that is no variable, or cannot be given by keyword."""
    for p in _parameters(fun):
        needed = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if needed and (p.name not in names or p.kind is p.POSITIONAL_ONLY):
            raise ValueError(
                f"{what} must take only variables, by keyword: got the parameter `{p.name}`, there are "
                f"{', '.join(names)}; top variables are given by keyword, solve({p.name}=...)."
            )


def _parameters(fun: Callable[..., Any]) -> Collection[inspect.Parameter]:
    return inspect.signature(fun).parameters.values()
