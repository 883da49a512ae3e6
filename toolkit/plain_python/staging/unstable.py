"""Loop variables whose type changes from one iteration to the next: the refusal and its remedies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.refusals import refuse
from toolkit.plain_python.staging.branching import data_dependent_length
from toolkit.plain_python.tracing.settling import SettledBlock, UnsettledTypes, settle


def unstable(changes: list[str], *more: str) -> str:
    """The message for these changes; `more`: lines to put between them and the remedies."""
    listed = [f"- {change}" for change in changes]
    lines = ["loop variable(s) change type from one iteration to the next:", *listed, *more]
    return "\n".join([*lines, *_remedies(changes)])


def _remedies(changes: list[str]) -> list[str]:
    """What the user can do about such changes."""
    found = []
    text = " ".join(changes)
    # A bracket belongs to a type (`float32[3]`), except in the path of an item (`d['a']`).
    if "[" in text.replace("['", "") or "undefined" in text:
        found.append("Give each its final shape and dtype before the loop.")
    if any(re.search(r"(list|tuple) of \d+ before, (list|tuple) of", change) for change in changes):
        found.append(
            "A list that grows: `ys.append(v)` on a variable of its own, which is put elsewhere after "
            "the loop; or run the loop as Python with tk.control.unroll."
        )
    if "Python value" in text:
        found.append("What takes one of several values can be a number or a bool.")
    return found or ["Give each its final structure before the loop."]


def settle_or_refuse(
    variables: Variables, run: Callable[[Any], None], example: Any
) -> SettledBlock:
    """Settle the block of a loop that may run zero times, or refuse it.

    Args:
      run, example: as for `settle`.

    Raises:
      ControlFlowError: if its types do not become stable, or it appends to a list.
      UndefinedRead: if it reads a variable that has no value before the loop.
    """
    try:
        settled = settle(variables, run, example, may_not_run=True)
    except UnsettledTypes as unsettled:
        peel = "(no iteration can be peeled because it may run zero times)"
        raise refuse(unstable(unsettled.changes, peel)) from None
    for one in settled.traced.appended:
        name = variables.names[one.variable]
        where = "in a loop whose length depends on data"
        raise one.place.refuse(data_dependent_length(name, where))
    return settled
