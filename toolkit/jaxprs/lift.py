"""Closed-over arrays become explicit arguments, so that every rule can differentiate them.

`jax.closure_convert` does the same for floating arrays, but remembers a function by its identity:
when a notebook changes a global that the function reads, it answers with the old value. Here each
call traces afresh, and integer and key tracers are lifted too, which `vmap` needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from toolkit.jaxprs.numpy_lanes import as_jax_lanes
from toolkit.jaxprs.own_rules import Rules, has_both_modes, rules
from toolkit.jaxprs.read import constants_first, evaluate, evaluate_open, inner
from toolkit.jaxprs.thin_products import arranged
from toolkit.jaxprs.varying_axes import evaluate_retyped, varying_axes


class Lifted(NamedTuple):
    """A function whose closed-over tracers are its first argument."""

    call: Callable[..., Any]  # (closed, *args), same results as the function's own
    closed: tuple[Any, ...]  # what the function closes over now
    shape: Any  # the result's tree of jax.ShapeDtypeStruct
    loops_on_data: bool  # a `while_loop` inside, which reverse mode cannot cross
    reads: tuple[Any, ...]  # the examples' trees, with booleans: whether a leaf has any effect
    rules: Rules  # the functions inside that have derivative rules of their own
    # What was traced. Its first arguments are the arrays that the function closes over,
    program: Any
    is_closed: tuple[
        bool, ...
    ]  # and of these, whether it is one of `closed` (a concrete array is not)
    constants: tuple[Any, ...]  # the concrete arrays among them


def lift(fun: Callable[..., Any], *examples: Any, arrange: bool = False) -> Lifted:
    """Trace `fun` once at the shapes of `examples` and lift the tracers it closes over.

    Concrete arrays stay constants: nothing can differentiate them. The result accepts arguments
    of exactly the examples' tree structure, shapes and dtypes.

    Args:
      arrange: whether to make the products fast to differentiate in the first example.
    """
    traced = lambda *args: fun(*args)
    # JAX's messages name the function that is traced. `__wrapped__` makes them name the user's, not the
    # lambda. The lambda itself is new in each call, so that JAX finds no older trace of `fun` in its caches.
    traced.__wrapped__ = fun  # type: ignore[attr-defined]
    jaxpr, shape = jax.make_jaxpr(traced, return_shape=True)(*examples)
    # Only tracers are lifted; a concrete array keeps its place among the constants, a tracer leaves a gap.
    is_closed = [isinstance(const, jax.core.Tracer) for const in jaxpr.consts]
    closed = as_jax_lanes(
        tuple(c for c, lifted in zip(jaxpr.consts, is_closed, strict=True) if lifted)
    )
    constants = [None if lifted else c for c, lifted in zip(jaxpr.consts, is_closed, strict=True)]
    structure = jax.tree.structure(shape)
    if arrange:
        jaxpr = arranged(jaxpr, _is_first(*examples))
    # `call` may outlive this trace, as a derivative rule keeps it. A tracer in it would be kept alive with it,
    # which `jax.checking_leaks` reports: so it holds the program without the values of its constants.
    program = constants_first(jaxpr)

    def call(closed: tuple[Any, ...], *args: Any) -> Any:
        pending = iter(closed)
        consts = [
            next(pending) if lifted else c for c, lifted in zip(constants, is_closed, strict=True)
        ]
        operands = [*consts, *jax.tree.leaves(args)]
        differ_alike = all(
            varying_axes(operand) == varying_axes(variable.aval)
            for operand, variable in zip(operands, program.invars, strict=True)
        )
        if differ_alike:
            flat = evaluate_open(program, [], *operands)
        else:
            flat = evaluate_retyped(program, operands)
        return jax.tree.unflatten(structure, flat)

    # An argument that no equation reads, and that is no result either, has no effect.
    used = {id(atom) for equation in program.eqns for atom in equation.invars}
    used |= {id(atom) for atom in program.outvars}
    reads = [id(variable) in used for variable in program.invars[len(is_closed) :]]
    read_trees = jax.tree.unflatten(jax.tree.structure(examples), reads)
    loops = has_while(program)
    concrete = tuple(c for c, lifted in zip(jaxpr.consts, is_closed, strict=True) if not lifted)
    return Lifted(
        call, closed, shape, loops, read_trees, rules(jaxpr), program, tuple(is_closed), concrete
    )


def traced_once(
    fun: Callable[..., Any],
) -> tuple[Callable[..., Any], Callable[[], list[Any]]]:
    """`fun` of arrays, traced once for each set of shapes and dtypes, and a function that lists these programs.

    Later calls evaluate the equations of such a program.

    A function that closes over a tracer is run anew in each call. Its equations hold that tracer, which
    belongs to one trace and would leak into the next.

    Cost: to evaluate the equations of a gradient takes a third of the time of tracing it again.
    """
    known: dict[Any, Any] = {}

    def call(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        key = (structure, *map(jax.typeof, leaves))
        if key not in known:
            jaxpr, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
            traced = any(isinstance(const, jax.core.Tracer) for const in jaxpr.consts)
            # Without its constants where these are tracers: this function may outlive their trace.
            kept = (constants_first(jaxpr), None) if traced else (jaxpr, jax.tree.structure(shape))
            known[key] = kept
        program, structure = known[key]
        if structure is None:
            return fun(*args)
        return jax.tree.unflatten(structure, evaluate(program, *leaves))

    return call, lambda: [program for program, _ in known.values()]


def _is_first(first: Any, *others: Any) -> list[bool]:
    """For each leaf of the examples, whether it belongs to the first of them."""
    return [True] * len(jax.tree.leaves(first)) + [False] * len(jax.tree.leaves(others))


def has_while(jaxpr: Any) -> bool:
    """Whether it contains a `while_loop` that reverse mode would have to cross."""
    for equation in jaxpr.eqns:
        # A `custom_linear_solve` is transposed as a whole, by another solve: reverse mode never enters its
        # loops. Nor those of an operation with both modes.
        if equation.primitive.name == "custom_linear_solve" or has_both_modes(equation):
            continue
        if equation.primitive.name == "while":
            return True
        if any(map(has_while, inner(equation))):
            return True
    return False
