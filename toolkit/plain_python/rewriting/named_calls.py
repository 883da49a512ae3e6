"""Calls that need care for the name of what they call.

Which function a name means is known only at run time. So a call is rewritten wherever the name is one of these,
and `flow` then looks at the function itself (see `runtime.builtin_calls`).
"""

from __future__ import annotations

import ast

from toolkit.plain_python.rewriting.nodes import at, call

_BUILTINS = {
    "abs": "numeric", "all": "all_of", "any": "any_of", "ascii": "text", "divmod": "numeric",
    "format": "text", "getattr": "asked", "hasattr": "asked", "isinstance": "asked", "max": "extreme",
    "min": "extreme", "next": "next_", "pow": "numeric", "repr": "text", "round": "numeric", "sum": "numeric",
    "str": "text", "isscalar": "asked", "type": "asked",
}  # fmt: skip
# Functions whose answer, or effect, lies outside of the program.
_OUTSIDE = frozenset((
    "input", "monotonic", "monotonic_ns", "now", "open", "perf_counter", "perf_counter_ns", "process_time",
    "process_time_ns", "randbits", "sleep", "time", "time_ns", "today", "token_bytes", "token_hex",
    "token_urlsafe", "urandom", "utcnow", "uuid1", "uuid4",
))  # fmt: skip
# Methods that make text of what they are given, or of their owner.
_TEXTS = (
    "format", "format_map", "substitute", "safe_substitute", "__str__", "__repr__", "__format__",
)  # fmt: skip
# Functions that call what they are given on values that may be traced.
_CALLERS = ("map", "filter", "sorted", "max", "min", "reduce", "partial")


def stand_in_of(node: ast.Call) -> str | None:
    """The function of `flow` that stands in for the builtin of this name; None where there is none."""
    if isinstance(node.func, ast.Attribute) and node.func.attr != "isscalar":
        return None
    return _BUILTINS.get(_name(node.func))


def reaches_outside(node: ast.Call) -> bool:
    """Whether it asks the clock, a file or the system."""
    return _name(node.func) in _OUTSIDE


def look_at_texts(node: ast.Call) -> None:
    """Make a call look at what it makes text of."""
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr in _TEXTS:
        method = call("formatting", [function.value, ast.Constant(function.attr)])
        node.func = at(method, function)
    if _name(function) in _CALLERS:
        node.args = [_text_function(one) for one in node.args]
        for keyword in node.keywords:
            keyword.value = _text_function(keyword.value)


def _text_function(node: ast.expr) -> ast.expr:
    """`str` and its like as a value: inside a staged block it is asked for no text of a tracer."""
    if getattr(node, "id", "") not in ("str", "repr", "format", "ascii"):
        return node
    return at(call("text_function", [node]), node)


def _name(function: ast.expr) -> str:
    """`f` of `f` and of `module.f`; "" of another expression."""
    return getattr(function, "id", "") or getattr(function, "attr", "")
