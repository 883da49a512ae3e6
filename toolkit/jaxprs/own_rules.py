"""Does a program hold a derivative rule that may be no derivative?

A function with a rule of its own (`jax.custom_vjp`, `jax.custom_jvp`) may pass on something else than its
derivative: a clipped or a straight-through gradient, feedback weights. What `jax.grad` makes of a program
that calls it is then the gradient of no function, and second derivatives do not commute.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from toolkit.jaxprs.read import inner, opened
from toolkit.jaxprs.recorded_lines import Definition, definition

# `linear_call` takes a transpose from the user, the others a derivative. The last one is new in jax 0.12.
_RULED = frozenset({"custom_jvp_call", "custom_vjp_call", "linear_call", "call_hi_primitive"})
# What a backward pass that stands alone leaves in a tangent, and what `toolkit/derive/refusal.py` does.
_ONE_WAY = frozenset({"custom_lin", "forward_mode_refused"})
_OURS = os.path.join(str(Path(__file__).parents[1]), "")
_JAX = os.path.join(os.path.dirname(jax.__file__), "")
# Operations that no derivative has to cross: each has rules for both modes, or a derivative of zero.
_NOT_CROSSED = tuple(
    os.path.join(_OURS, *part)
    for part in (("control", "bounded_derivative.py"), ("derive", "remembered.py"))
)
# Files of JAX in which each rule is a derivative. Others have rules that approximate: that of
# `jax.lax.custom_root` calls a solver of the user's, that of `odeint` solves another equation.
_TRUE_IN_JAX = tuple(
    os.path.join(_JAX, "_src", *part)
    for part in (
        ("nn", ""), ("numpy", ""), ("scipy", ""), ("third_party", ""),
        ("lax", "erf.py"), ("lax", "lax.py"), ("lax", "other.py"),
    )
)  # fmt: skip
# Functions of this package whose rule is the derivative of what they compute, by file and name.
_TRUE_OF_OURS = frozenset(
    (os.path.join(_OURS, *file.split("/")), name)
    for file, name in (
        ("adjoint/implicit.py", "_exact_solution"),
        ("control/bounded_derivative.py", "go"),
        ("control/bounded_derivative.py", "stored"),
        ("control/policies/reversible.py", "run"),
        ("derive/refusal.py", "guard"),
        ("derive/remembered.py", "held"),
        ("derive/remembered.py", "recalled"),
        ("derive/replay.py", "step"),
        ("derive/tangents.py", "_masked"),
        ("derive/tangents.py", "solve"),
        ("energy/integral.py", "R"),
        ("tree.py", "graft"),
    )
)


class Rules(NamedTuple):
    """Functions in a program with derivative rules of their own, in words; "" without any."""

    own: str  # the first whose rule is not known to be its derivative
    backward: str  # the first that has a backward pass alone, and no forward mode


def rules(computation: Any) -> Rules:
    """What is found in a program, in its loops, branches and calls, and in the functions with rules."""
    found = [
        one
        for one in _equations(computation)
        if one.primitive.name in _RULED or _is_foreign(one.primitive)
    ]
    own = (one for one in found if not _is_true(one))
    backward = (one for one in found if one.primitive.name == "custom_vjp_call")
    return Rules(*(_named(next(ones, None)) for ones in (own, backward)))


def _named(equation: Any) -> str:
    if equation is None:
        return ""
    name, place = _function(equation)
    return f"`{name or equation.primitive.name}`" + (f" ({place})" if place else "")


def has_no_forward_mode(tangent: Any) -> bool:
    """Whether the program of a tangent cannot be run, but only transposed."""
    names = (one.primitive.name for one in _equations(tangent))
    return not _ONE_WAY.isdisjoint(names)


def refusal_of_forward_mode(tangent: Any) -> str:
    """What the first rule of ours in it says that has no forward mode; "" without any."""
    refusals = (one for one in _equations(tangent) if one.primitive.name == "forward_mode_refused")
    return next((one.params["message"] for one in refusals), "")


def has_both_modes(equation: Any) -> bool:
    """Whether an operation of ours has its own forward and reverse mode, or no derivative, whatever loops it contains."""
    if equation.primitive.name == "linear_map":
        return True
    if equation.primitive.name != "custom_jvp_call":
        return False
    return _function(equation).place.startswith(_NOT_CROSSED)


def rule_of(equation: Any) -> Definition:
    """The function that is the rule of a `custom_jvp_call`."""
    return definition(equation.params["jvp_jaxpr_fun"])


def _function(equation: Any) -> Definition:
    """The function that was given the rule."""
    program = equation.params.get("call_jaxpr")
    return Definition("", "") if program is None else definition(program)


def _is_true(equation: Any) -> bool:
    """Whether the rule of such an equation is known to be the derivative."""
    if equation.primitive.name == "call_hi_primitive":
        # An operation that is a class with its own rules; those of `jax.numpy` are derivatives.
        return type(equation.params["_prim"]).__module__.startswith("jax._src.numpy.")
    function = _function(equation)
    file = function.place.rpartition(":")[0]
    if (file, function.name) in _TRUE_OF_OURS:
        return True
    if equation.primitive.name != "custom_jvp_call" or not file.startswith(_TRUE_IN_JAX):
        return False
    # A user may give a function of JAX another rule, as in `jax.custom_jvp(jnp.round)`. Then the rule is not
    # JAX's; or it was given by `defjvps`, whose code is JAX's. In this case either JAX itself has no rule for
    # the function, or the program of the function calls it once more, with JAX's rule.
    return (
        rule_of(equation).place.startswith(_JAX)
        and _has_rule_in_jax(file, function.name)
        and all(_function(one) != function for one in _equations(equation.params["call_jaxpr"]))
    )


@functools.cache
def _has_rule_in_jax(file: str, name: str) -> bool:
    modules = (one for one in [*sys.modules.values()] if getattr(one, "__file__", None) == file)
    function = getattr(next(modules, None), name, None)
    is_ruled = lambda one: isinstance(one, jax.custom_jvp)
    return function is not None and is_ruled(inspect.unwrap(function, stop=is_ruled))


def _equations(computation: Any) -> Iterator[Any]:
    for equation in opened(computation)[0].eqns:
        yield equation
        for program in inner(equation):
            yield from _equations(program)


@functools.cache
def _is_foreign(primitive: Any) -> bool:
    """Whether a primitive is neither JAX's nor ours: its derivative is what its author has registered."""
    function = primitive.impl
    while isinstance(function, functools.partial):
        function = function.func
    module = getattr(function, "__module__", None) or ""
    return module.partition(".")[0] not in ("jax", "jaxlib", "toolkit")
