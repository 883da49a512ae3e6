"""The marks of inner solves in a program (`derive/marks.py`), read while the program is evaluated.

An equation without marks inside is evaluated as it is. The others are opened: a loop also carries the bits
found so far, a branch returns those of the branch that was taken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from toolkit import tree
from toolkit.derive import marks
from toolkit.jaxprs import loops
from toolkit.jaxprs.read import called, evaluate, evaluate_equation, inner, literal, opened
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import Issue, Tree

Found = tuple[list[Any], Array]  # the results of a program, and the bits of all marks


def holds_marks(program: Any, depth: int) -> bool:
    """Whether a program holds marks for the solve number `depth` from outside."""
    jaxpr, _ = opened(program)
    return any(_is_marked(equation, depth) for equation in jaxpr.eqns)


def collect(fun: Callable[..., Tree], depth: int, *args: Tree) -> tuple[Tree, Array]:
    """`fun(*args)`, and the `tk.Issue` bits of the solves inside it; no derivative.

    Args:
      fun: traced once, as a function that stands inside `depth` solves.
      args: trees of arrays.
    """
    program, shape = _traced(fun, depth, args)
    results, found = _run(program, depth, jax.tree.leaves(args))
    return jax.tree.unflatten(shape, results), found


def collect_beside(
    fun: Callable[..., Tree],
    depth: int,
    *args: Tree,
    derived: Callable[[Callable[..., Tree]], Callable[..., Tree]] = lambda fun: fun,
) -> tuple[Tree, Array | None]:
    """As `collect`, but the results have their derivative, and without solves inside there are no bits.

    Args:
      derived: `jax.value_and_grad` where marks in the derivative of `fun` count, too.

    Cost: where there are solves inside, a second evaluation.
    """
    program, shape = _traced(fun, depth, args)

    def replayed(*args: Tree) -> Tree:
        return jax.tree.unflatten(shape, evaluate(program, *jax.tree.leaves(args)))

    found = None
    if holds_marks(program, depth):
        found = collect(derived(replayed), depth, *tree.stop_gradient(args))[1]
    return replayed(*args), found


def _traced(fun: Callable[..., Tree], depth: int, args: tuple[Tree, ...]) -> tuple[Any, Any]:
    """The program of `fun`, and the structure of its result."""
    with marks.at(depth):
        program, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
    return program, jax.tree.structure(shape)


def _is_marked(equation: Any, depth: int) -> bool:
    if marks.issues_of_mark(equation, depth) is not None:
        return True
    return any(holds_marks(program, depth) for program in inner(equation))


def _run(program: Any, depth: int, arguments: Sequence[Any]) -> Found:
    jaxpr, constants = opened(program)
    # The bits have no derivative. Without this, loops and solves that are taken apart here would be given one.
    arguments, constants = tree.stop_gradient((list(arguments), list(constants)))
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    known |= zip(jaxpr.invars, arguments, strict=True)
    found = _nothing(arguments)

    def read(atom: Any) -> Any:
        return literal(atom) if hasattr(atom, "val") else known[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        if not _is_marked(equation, depth):
            results = evaluate_equation(equation, operands)
        elif (position := marks.issues_of_mark(equation, depth)) is not None:
            results, found = operands[:1], found | _any_bits(operands[position])
        else:
            results, more = _opened(equation, depth, operands)
            found = found | more
        known |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars], found


def _opened(equation: Any, depth: int, operands: list[Any]) -> Found:
    """As `_run`, of one equation whose programs hold marks."""
    name = equation.primitive.name
    if name in _OPENED:
        return _OPENED[name](equation, depth, operands)
    if (program := called(equation)) is not None:
        return _run(program, depth, operands)
    # An operation that cannot be taken apart here: what the marks inside say stays unknown. The cautious answer
    # is that a solve in it may have stopped short.
    return evaluate_equation(equation, operands), jnp.asarray(int(Issue.INNER_NOT_CONVERGED))


def _scan(equation: Any, depth: int, operands: list[Any]) -> Found:
    loop = loops.scan_parts(equation)
    fixed, start, xs = map(list, loop.parted(operands))

    def body(carry: tuple[list[Any], Array], x: list[Any]) -> tuple[Any, list[Any]]:
        state, found = carry
        results, more = _run(loop.body, depth, [*fixed, *state, *x])
        return (results[: loop.carried], found | more), results[loop.carried :]

    (state, found), ys = jax.lax.scan(
        body, (start, _nothing(operands)), xs, loop.length, reverse=loop.reverse
    )
    return [*state, *ys], found


def _while(equation: Any, depth: int, operands: list[Any]) -> Found:
    loop = loops.while_parts(equation)
    of_condition, of_body, start = map(list, loop.parted(operands))

    def condition(state: list[Any]) -> Found:
        return _run(loop.condition, depth, [*of_condition, *state])

    def body(carry: tuple[list[Any], Array]) -> tuple[list[Any], Array]:
        state, found = carry
        new, more = _run(loop.body, depth, [*of_body, *state])
        return new, found | more | condition(state)[1]

    # The condition may hold solves, too. It is evaluated once more than the body, which ends the loop: that
    # evaluation is looked at below.
    state, found = jax.lax.while_loop(
        lambda carry: condition(carry[0])[0][0], body, (start, _nothing(operands))
    )
    return state, found | condition(state)[1]


def _cond(equation: Any, depth: int, operands: list[Any]) -> Found:
    def branch(program: Any) -> Callable[..., Found]:
        def run(*values: Any) -> Found:
            results, found = _run(program, depth, values)
            return results, found | _nothing(values)

        return run

    index, *values = operands
    return jax.lax.switch(index, [branch(one) for one in loops.branches(equation)], *values)


def _solve(equation: Any, depth: int, operands: list[Any]) -> Found:
    parts = loops.solve_parts(equation)
    return _run(parts.solve, depth, parts.of_solve(operands))


def _shard_map(equation: Any, depth: int, operands: list[Any]) -> Found:
    parts = loops.shard_parts(equation)

    def found(*values: Any) -> Array:
        return vary(_run(parts.body, depth, values)[1][None], parts.axes)

    each = jax.shard_map(
        found,
        mesh=parts.mesh,
        in_specs=parts.in_specs,
        out_specs=PartitionSpec(tuple(parts.axes)),
        axis_names=set(parts.axes),
        check_vma=parts.check_vma,
    )
    return evaluate_equation(equation, operands), _any_bits(each(*operands))


_OPENED: dict[str, Callable[[Any, int, list[Any]], Found]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "custom_linear_solve": _solve,
    "shard_map": _shard_map,
}


def _any_bits(issues: Any) -> Array:
    """The bits that any entry has."""
    every = jnp.ravel(jnp.asarray(issues, jnp.int32))
    return jax.lax.reduce(every, jnp.zeros((), jnp.int32), jax.lax.bitwise_or, (0,))


def _nothing(operands: Sequence[Any]) -> Array:
    # Inside `jax.shard_map` a loop's carry must vary over the same device axes before and after a step.
    axes = functools.reduce(frozenset.union, map(varying_axes, operands), frozenset[str]())
    return vary(jnp.zeros((), jnp.int32), axes)
