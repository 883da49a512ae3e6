"""Checks that levels, starts and top variables fit together; the messages name the level and variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolkit import tree
from toolkit.bilevel.levels.edges import has_forward_mode
from toolkit.bilevel.levels.keywords import Values, check_takes, takes
from toolkit.bilevel.levels.level import Level
from toolkit.types import Tree


def check_levels(levels: Sequence[Level]) -> None:
    """Refuse what is no level, and names that occur twice."""
    for level in levels:
        if not isinstance(level, Level):
            raise TypeError(f"`levels` must be of tk.bilevel.Level: got {level!r}.")
    names = [level.name for level in levels]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"`levels` must be at least one, with names of their own: got ({', '.join(names)})."
        )


def check_names(levels: Sequence[Level], tops: Values) -> None:
    """Refuse top variables that no function takes, and what is taken or named but not there."""
    names = [level.name for level in levels]
    for top in tops:
        if top in names:
            raise ValueError(
                f"top variables must have names of their own: got `{top}`, which is a level; its start "
                f"is given by position, solve({{'{top}': ...}}, ...)."
            )
        if not any(takes(level.fun, top) for level in levels):
            raise ValueError(
                f"top variables must be taken by some level's `fun`: got `{top}`, which none takes."
            )
    for i, level in enumerate(levels):
        check_takes(f"`fun` of level `{level.name}`", level.fun, {*tops, *names})
        unknown = [edge for edge in level.edges if edge not in (*tops, *names[:i])]
        if unknown:
            raise ValueError(
                f"`edges` of level `{level.name}` must name variables above it "
                f"({', '.join([*tops, *names[:i]])}): got `{unknown[0]}`."
            )
        for above in names[:i] if level.edges else ():
            # The gradient that a level above follows holds this derivative, and the rule of that level
            # differentiates it again, forwards. A rule with reverse mode only would fail deep in there.
            rule = level.edges.get(above, level.adjoint)
            if rule is not None and not has_forward_mode(rule):
                raise ValueError(
                    f"the rule of level `{level.name}` along `{above}` must have forward mode, as a level's "
                    "derivative is differentiated again: got "
                    f"{rule}; use Implicit, OneStep, Stopped, Forward or Unroll(forward_mode=True)."
                )


def starts_of(levels: Sequence[Level], starts: Values | None) -> dict[str, Tree]:
    """Where each level starts: what was given, or its own."""
    own = {level.name: level.start for level in levels}
    given = {} if starts is None else starts
    if not isinstance(given, Mapping) or not given.keys() <= own.keys():
        raise ValueError(
            f"`starts` must map names of levels ({', '.join(own)}) to trees: got "
            f"{tree.describe(starts)}; top variables are given by keyword."
        )
    for name, start in given.items():
        got, expected = tree.describe(start), tree.describe(own[name])
        if got != expected:
            raise ValueError(
                f"`starts[{name!r}]` must be like the start of level `{name}`: got {got}, expected "
                f"{expected}."
            )
    return {**own, **given}
