"""Text of values that may be traced: inside a staged block they have none.

`str(i)` of a traced `i` would be "JitTracer<int32[]>", and a key made of it would be found in no dict.
"""

from __future__ import annotations

import builtins
import string
from typing import Any

from toolkit.plain_python import mode
from toolkit.plain_python.carried.reachable import holds_tracer
from toolkit.plain_python.carried.typed_arrays import is_traced
from toolkit.plain_python.refusals import refuse

_MAKERS = (builtins.str, builtins.repr, builtins.format, builtins.ascii)


def text(function: Any, *args: Any, **kwargs: Any) -> Any:
    """`str`, `repr`, `format` and `ascii`; a function of the user's with such a name is called as it is."""
    if function in _MAKERS:
        args = tuple(map(shown, args))
    return function(*args, **kwargs)


def text_function(function: Any) -> Any:
    """`str` and its like, handed on to what calls it: `map(str, values)`."""
    return (lambda *args: text(function, *args)) if function in _MAKERS else function


def formatting(owner: Any, method: str) -> Any:
    """`"{}".format`, and other methods that make text of their arguments or of their owner."""
    if is_traced(owner):
        shown(owner)
    function = getattr(owner, method)
    if owner is not str and not isinstance(owner, (str, string.Template)):
        return function
    return lambda *args, **kwargs: function(
        *map(shown, args), **{name: shown(value) for name, value in kwargs.items()}
    )


def shown(value: Any) -> Any:
    """A value that becomes text, which a traced one cannot inside a staged block."""
    # A number of Python's that a block has made a tracer has no text outside either.
    number = is_traced(value) and value.weak_type and value.shape == ()
    if number or (mode.is_staged() and holds_tracer(value)):
        raise refuse(
            "a traced value has no text: to print it use jax.debug.print; for a key such as "
            'params[f"w{i}"] run the loop as Python, `for i in tk.control.unroll(range(n))`.'
        )
    return value
