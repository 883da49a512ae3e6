"""`@control_flow`: Python's `for`, `while` and `if` on traced values.

The decorator reads the function's source, rewrites it, compiles it, and returns a function that
calls the result and makes errors readable.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, TypeVar

from toolkit.errors.readable import cause, shorten
from toolkit.jaxprs.recorded_lines import exclude
from toolkit.plain_python import mode, refusals
from toolkit.plain_python.refusals import ControlFlowError
from toolkit.plain_python.reserved import FLOW
from toolkit.plain_python.rewriting import names, source
from toolkit.plain_python.rewriting.expression_statements import StatementsAsIf
from toolkit.plain_python.rewriting.lowering import lower_function
from toolkit.plain_python.rewriting.unsupported import check_supported
from toolkit.plain_python.runtime import calls
from toolkit.plain_python.tracing.known_intervals import table
from toolkit.plain_python.tracing.needs_python import explained, needs_python

_F = TypeVar("_F", bound=Callable[..., Any])
_CONVERTED = "__control_flow__"


def control_flow(function: _F) -> _F:
    """Make a function's `for`, `while` and `if` work on traced values.

    A `for` over a `range`, an array, or `enumerate`, `zip` or `reversed` of those becomes a scan
    (a `while_loop` where the range's bounds are traced); a `while` whose test is a JAX value becomes
    a `while_loop`; an `if`, a conditional expression, `and`, `or`, `not` and a chained comparison on
    a traced value become a `cond`. Everything else stays Python's, also a `for` over a list or a
    dict. `break`, `continue`, early `return` and `else` on loops keep their meaning.

    The function does what Python would do, or it is refused with the line, the variable and a remedy.
    A loop is unrolled only if it says so: `for i in tk.control.unroll(range(3))`. A loop's memory
    policy is set by `for i in tk.control.steps(range(n), gradient=...)`.

    Args:
      function: a plain function or method with source; inner functions are converted with it,
        functions that it calls are not, unless they are decorated.

    Returns:
      The function, with the same name, lines (in tracebacks, jaxprs, profiles and pdb), defaults
      and closure.

    Raises:
      ControlFlowError: at decoration, for code that cannot be converted; while tracing, for code that
        depends on data in a way that no compiled program can.
      UnboundLocalError: for a variable that may have no value where it is read.

    Differentiation: as `tk.loop`, `tk.while_loop` and `jax.lax.cond`; a loop whose number of
      iterations depends on data has forward mode only.

    Cost: about 10 ms a function, once; each block is traced once, and again if a Python number
      turns out to be a float or a vector.
    """
    if isinstance(function, (staticmethod, classmethod)):
        raise ControlFlowError(
            "@control_flow must be closest to def: put @staticmethod or @classmethod above it."
        )
    if getattr(function, _CONVERTED, False):
        return function
    # `functools.wraps` sets `__wrapped__`, and `inspect` then reads the source of the function below. The
    # rewritten function would be without its wrapper.
    if not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
        shown = getattr(function, "__qualname__", None) or repr(function)
        raise ControlFlowError(
            "@control_flow must be closest to def (below jit, grad, vmap): got "
            f"{shown}, a {type(function).__name__} that is not a plain function."
        )
    if FLOW in function.__code__.co_freevars:
        # A function inside a decorated one is rewritten together with it, and then has the runtime
        # among its free variables. Rewriting it twice would stage its blocks twice.
        return function
    definition = source.syntax_tree(function)
    names.mark_walruses(definition)
    check_supported(function, definition)
    StatementsAsIf().visit(definition)
    lower_function(definition, free=function.__code__.co_freevars)
    converted = source.rebuild(function, definition, calls)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with refusals.nothing_swallowed(), table(nested=False):
                return converted(*args, **kwargs)
        except RecursionError as error:
            raise refusals.refuse(
                f"{function.__qualname__} calls itself without end: both branches of a traced "
                "condition are traced. Where the depth depends on data write a `while`."
            ) from cause(error)
        except Exception as error:
            if needs_python(error) and not mode.runs_as_python():
                raise explained(error) from cause(error)
            shorten(error)
            raise

    setattr(call, _CONVERTED, True)
    return call  # type: ignore[return-value]


# JAX notes for each operation the innermost frame that is not its own. Without this it would note our
# files, and a jaxpr or a profile would show the machinery in place of the user's line.
for _folder in refusals.OURS:
    exclude(_folder)
