"""Names that the rewriting gives to variables and functions of its own.

All begin with `_tk_`, so that they do not clash with the user's names. They stand in a file of
their own because what runs later asks for them too: a message calls `_tk_result` "the returned value".
"""

from __future__ import annotations

PREFIX = "_tk_"
RETURNED = PREFIX + "returned"  # whether an early `return` was reached
RESULT = PREFIX + "result"  # the value of that `return`
FLOW = PREFIX + "flow"  # the module `runtime.calls`, a free variable of the rewritten function
AROUND = PREFIX + "around"  # a view of every variable that the function can see
INNER = PREFIX + "inner"  # a view of the variables that functions inside the function assign
KEPT = PREFIX + "kept_"  # of a variable: its value where a `break` left a loop


def is_set_with_a_flag(name: str) -> bool:
    """Whether a variable is read only where a flag says that it was set."""
    return name == RESULT or name.startswith(KEPT)
