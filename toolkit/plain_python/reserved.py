"""Names that rewritten code gives its own variables; a user's name cannot clash with them."""

from __future__ import annotations

# Names that cannot clash with the user's: `break_` of a loop, `continue_`, and the function's result.
PREFIX = "_tk_"


RETURNED = PREFIX + "returned"


RESULT = PREFIX + "result"


FLOW = PREFIX + "flow"  # the cell that holds the runtime


AROUND = PREFIX + "around"  # everything that a function can see


INNER = PREFIX + "inner"  # the state that functions inside a function assign
