"""A linear map with a program for each direction, as one operation that JAX can differentiate again.

JAX gets reverse mode by transposing the program of a tangent. It can push a tangent through a `while_loop`,
but not transpose that: it does not know what to store. Where we have written both programs, that of the
tangent and that of the cotangent, they become the two directions of an operation, `apply`. To transpose it is
to take the other direction.

The map depends on a point, and a second derivative moves this point. That derivative is a linear map again.
It runs as the derivative of the same program, and is transposed by way of another one, which JAX can
transpose: a loop of fixed length, say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from toolkit.errors.readable import cause
from toolkit.jaxprs.own_rules import has_no_forward_mode, refusal_of_forward_mode
from toolkit.jaxprs.read import evaluate
from toolkit.types import Tree

Leaves = Sequence[Any]
Sizes = tuple[int, int]  # how many of the operands are the point, and how many are kept for the map


class Programs(NamedTuple):
    """One direction of a map, as three functions of trees with the same results.

    They close over no tracer.
    """

    run: Callable[
        [Tree, Tree, Tree], Tree
    ]  # (point, kept, vector), what is executed; may have an aux
    pushed: Callable[[Tree, Tree], Tree]  # (point, vector), with forward mode of any order
    any_mode: Callable[[Tree, Tree], Tree]  # (point, vector), with all modes of any order
    refusal: str = ""  # what to say where a function inside has a backward pass alone


def apply(
    forward: Programs,
    backward: Programs,
    point: Tree,
    kept: Tree,
    vector: Tree,
    like: Tree,
    side_effects: frozenset[Any] = frozenset(),
    aux: Tree = None,
) -> Tree:
    """The map at `point`, applied to `vector`.

    Args:
      point: what the map depends on.
      kept: what follows from the point, and was computed already.
      like: a tree like the result.
      side_effects: of the programs, as JAX knows them: prints and other callbacks.
      aux: where both directions' `run` return a pair (result, aux), a tree like that aux. A pair is then
        returned here, too.

    Differentiation: all modes, any order; an aux has none.
    """
    (points, at), (keeps, with_kept), (vectors, of), (likes, to), (auxes, beside) = (
        _taken_apart(part) for part in (point, kept, vector, like, aux)
    )
    made = _map_p.bind(
        *points, *keeps, *vectors,
        forward=_direction(forward, at, with_kept, of),
        backward=_direction(backward, at, with_kept, to),
        sizes=(len(points), len(keeps)),
        types=tuple(map(jax.typeof, likes)),
        aux_types=tuple(map(jax.typeof, auxes)),
        side_effects=side_effects,
    )  # fmt: skip
    result = _put_together(to, made[: len(likes)])
    return (result, _put_together(beside, made[len(likes) :])) if auxes else result


class _Shape(NamedTuple):
    """How a list of leaves becomes a tree."""

    structure: Any
    kinds: list[Any]  # for each leaf, the kind of its random keys; None for an array of numbers


def _taken_apart(part: Tree) -> tuple[list[Any], _Shape]:
    """The leaves, keys as their numbers: JAX cannot hand a key from a branch of a `cond` to its derivative."""
    leaves, structure = jax.tree.flatten(part)
    is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    pairs = [*zip(leaves, is_key, strict=True)]
    kinds = [jax.random.key_impl(leaf) if key else None for leaf, key in pairs]
    return [jax.random.key_data(leaf) if key else leaf for leaf, key in pairs], _Shape(
        structure, kinds
    )


def _put_together(shape: _Shape, leaves: Leaves) -> Tree:
    made = [
        leaf if kind is None else jax.random.wrap_key_data(leaf, impl=kind)
        for leaf, kind in zip(leaves, shape.kinds, strict=True)
    ]
    return jax.tree.unflatten(shape.structure, made)


def _direction(programs: Programs, at: _Shape, with_kept: _Shape, of: _Shape) -> Direction:
    leaves, tree = jax.tree.leaves, _put_together
    return Direction(
        lambda p, k, v: leaves(programs.run(tree(at, p), tree(with_kept, k), tree(of, v))),
        lambda p, v: leaves(programs.pushed(tree(at, p), tree(of, v))),
        lambda p, v: leaves(programs.any_mode(tree(at, p), tree(of, v))),
        programs.refusal,
    )


@dataclass(frozen=True, eq=False)
class Direction:
    """`Programs` of lists of arrays, which are the operands of the operation."""

    run: Callable[[Leaves, Leaves, Leaves], Leaves]  # (point, kept, vector), what is executed
    pushed: Callable[[Leaves, Leaves], Leaves]  # (point, vector), with forward mode of any order
    any_mode: Callable[[Leaves, Leaves], Leaves]  # (point, vector), with all modes of any order
    refusal: str = ""  # what to say where a function inside has no forward mode
    traced: dict[Any, Any] = field(default_factory=dict)  # `run`, for each set of types

    def program(self, sizes: Sizes, operands: Leaves) -> Any:
        """`run` as a program, for operands of these types."""
        key = (sizes, *operands)
        if key not in self.traced:
            run = lambda *operands: self.run(*_parted(sizes, operands))
            with self.naming_missing_mode():
                self.traced[key] = jax.make_jaxpr(run)(*operands)
        return self.traced[key]

    @contextmanager
    def naming_missing_mode(self) -> Iterator[None]:
        """JAX's refusal to push tangents through a backward pass, raised inside, becomes `refusal`."""
        try:
            yield
        except TypeError as error:
            if not self.refusal or "custom_vjp" not in str(error):
                raise
            raise TypeError(self.refusal) from cause(error)

    def require_forward_mode(self, program: Any) -> None:
        """Refuse to run what can only be transposed, by name."""
        if self.refusal and has_no_forward_mode(program):
            raise TypeError(refusal_of_forward_mode(program) or self.refusal)


_map_p = Primitive("linear_map")
_map_p.multiple_results = True


def _parted(sizes: Sizes, operands: Leaves) -> tuple[list[Any], list[Any], list[Any]]:
    """(point, kept, vector)"""
    first, second = sizes[0], sum(sizes)
    return [*operands[:first]], [*operands[first:second]], [*operands[second:]]


def _run(*operands: Any, forward: Direction, sizes: Sizes, **_: Any) -> list[Any]:
    program = forward.program(sizes, tuple(map(jax.typeof, operands)))
    forward.require_forward_mode(program)
    return evaluate(program, *operands)


def _jvp(primals: Leaves, tangents: Leaves, **params: Any) -> tuple[list[Any], list[Any]]:
    made = _map_p.bind(*primals, **params)
    point, kept, vector = _parted(params["sizes"], primals)
    # What is kept was computed from the point, and needs no tangent of its own here: the derivative runs the
    # program that computes it again from the point, and so differentiates it too.
    point_dot, _, vector_dot = _parted(params["sizes"], tangents)
    moves = [not isinstance(dot, ad.Zero) for dot in (*point_dot, *vector_dot)]

    def without_aux(dots: list[Any]) -> list[Any]:
        aux = made[len(params["types"]) :]
        return dots[: len(params["types"])] + [
            ad.Zero(jax.typeof(one).to_tangent_aval()) for one in aux
        ]

    if not any(moves[: len(point)]):
        vector_dot = [ad.instantiate_zeros(dot) for dot in vector_dot]
        return made, without_aux(_map_p.bind(*point, *kept, *vector_dot, **params))
    dots = [dot for dot, moving in zip((*point_dot, *vector_dot), moves, strict=True) if moving]
    derivative = {
        "forward": _derivative(params["forward"], len(point), moves),
        "backward": None,
        "sizes": (len(moves), 0),
        "aux_types": (),
    }
    return made, without_aux(_map_p.bind(*point, *vector, *dots, **params | derivative))


def _derivative(direction: Direction, size: int, moves: list[bool]) -> Direction:
    """That of a direction in its point, of `size` leaves, and its vector, where they move."""

    def of(fun: Callable[[Leaves, Leaves], Leaves]) -> Callable[[Leaves, Leaves], Leaves]:
        def tangent(at: Leaves, dots: Leaves) -> Leaves:
            def run(*moving: Any) -> Leaves:
                pending = iter(moving)
                full = [
                    next(pending) if moves else leaf for moves, leaf in zip(moves, at, strict=True)
                ]
                return fun(full[:size], full[size:])

            moving = [leaf for leaf, moves_ in zip(at, moves, strict=True) if moves_]
            return jax.jvp(run, tuple(moving), tuple(dots))[1]

        return tangent

    pushed = of(direction.pushed)
    run = lambda point, _, vector: pushed(point, vector)
    return Direction(run, pushed, of(direction.any_mode), direction.refusal)


def _transpose(cotangents: Leaves, *operands: Any, **params: Any) -> list[Any]:
    point, kept, vector = _parted(params["sizes"], operands)
    asked = [ad.is_undefined_primal(leaf) for leaf in vector]
    types = tuple(
        leaf.aval if ad.is_undefined_primal(leaf) else jax.typeof(leaf) for leaf in vector
    )
    cotangents = [ad.instantiate_zeros(bar) for bar in cotangents[: len(params["types"])]]
    forward, backward = params["forward"], params["backward"]
    if backward is None:
        zeros = [ad.instantiate_zeros(ad.Zero(one)) for one in types]
        with forward.naming_missing_mode():
            pull = jax.linear_transpose(lambda vector: forward.any_mode(point, vector), zeros)
            (bars,) = pull(list(cotangents))
    else:
        swapped = {"forward": backward, "backward": forward, "types": types}
        made = _map_p.bind(*point, *kept, *cotangents, **params | swapped)
        bars = made[: len(types)]
    no_bars = [None] * (len(point) + len(kept))
    return no_bars + [bar if one else None for bar, one in zip(bars, asked, strict=True)]


def _batch(axis: Any, operands: Leaves, axes: Leaves, **params: Any) -> tuple[Leaves, Leaves]:
    # An axis that the user has not named has an object of JAX's in place of a name.
    name = None if type(axis.name) is object else axis.name
    if name is None and all(at is None for at in axes):
        made = _map_p.bind(*operands, **params)
        return made, [None] * len(made)
    # All lanes have a vector of their own, because the vectors of the other direction are results of this one.
    point, kept, vector = _parted(params["sizes"], [*zip(operands, axes, strict=True)])
    fixed = [
        batching.bdim_at_front(x, at, axis.size) if at is not None else x
        for x, at in (*point, *kept)
    ]
    moving = [batching.bdim_at_front(x, at, axis.size) for x, at in vector]
    lanes = [[None if at is None else 0 for _, at in part] for part in (point, kept)]

    def over(fun: Callable[..., Leaves], *in_axes: Any) -> Callable[..., Leaves]:
        return jax.vmap(
            fun, in_axes, axis_size=axis.size, axis_name=name, spmd_axis_name=axis.spmd_name
        )

    def batched(direction: Direction | None) -> Direction | None:
        if direction is None:
            return None
        return Direction(
            over(direction.run, *lanes, 0),
            over(direction.pushed, lanes[0], 0),
            over(direction.any_mode, lanes[0], 0),
            direction.refusal,
        )

    spread = lambda *leaves: [jax.lax.broadcast(leaf, (axis.size,)) for leaf in leaves]
    changed = {
        "forward": batched(params["forward"]),
        "backward": batched(params["backward"]),
        "types": tuple(jax.make_jaxpr(spread)(*params["types"]).out_avals),
        "aux_types": tuple(jax.make_jaxpr(spread)(*params["aux_types"]).out_avals),
    }
    made = _map_p.bind(*fixed, *moving, **params | changed)
    return made, [0] * len(made)


_map_p.def_impl(_run)
_map_p.def_effectful_abstract_eval(
    lambda *_, types, aux_types, side_effects, **__: ([*types, *aux_types], side_effects)
)
mlir.register_lowering(_map_p, mlir.lower_fun(_run, multiple_results=True))
ad.primitive_jvps[_map_p] = _jvp
ad.primitive_transposes[_map_p] = _transpose
batching.fancy_primitive_batchers[_map_p] = _batch
