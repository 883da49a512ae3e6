"""Arithmetic on pytrees, and their leaves: which are differentiated, which are only carried along.

JAX differentiates floating and complex arrays. A user's tree may also hold integers, keys, strings or
None: `split` sets them aside and `merge` puts them back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec, reshard

from toolkit.leaves import module_variables
from toolkit.leaves.containers import packed, unpacked
from toolkit.leaves.promotion import standard_promotion, wide_type
from toolkit.types import Tree


class Parts(NamedTuple):
    """A tree in three: same structure each, `None` where a leaf belongs to another part.

    A tree of a class that takes no `None` is split as its `Leaves` (`toolkit/leaves/containers.py`).
    """

    inexact: Tree  # floating and complex leaves, as arrays: differentiated
    arrays: Tree  # integer, boolean and PRNG-key leaves: carried
    static: Tree  # everything else: carried, and never handed to JAX


def is_numeric(leaf: Any) -> bool:
    """Whether `leaf` is an array (PRNG keys too) or a Python number."""
    if isinstance(leaf, (np.ndarray, np.generic)):
        return leaf.dtype.kind not in "OSUMm"  # objects, text and dates are static
    return isinstance(leaf, (jax.Array, bool, int, float, complex))


def is_inexact(leaf: Any) -> bool:
    """Whether `leaf` is a floating or complex array or Python number."""
    if isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype.char in "gG":
        raise TypeError(
            f"a leaf must have a type that JAX has: got {leaf.dtype}[{','.join(map(str, leaf.shape))}]; "
            "use .astype(float) or .astype(complex)."
        )
    return is_numeric(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def split(tree: Tree) -> Parts:
    """Split `tree` into what is differentiated, what is carried as arrays, and the rest.

    A Python number becomes a weakly typed array, as JAX makes it: beside a bfloat16 array it is bfloat16.
    """
    tree = unpacked(tree)
    inexact = jax.tree.map(lambda leaf: jnp.asarray(leaf) if is_inexact(leaf) else None, tree)
    carried = jax.tree.map(
        lambda leaf: leaf if is_numeric(leaf) and not is_inexact(leaf) else None, tree
    )
    static = jax.tree.map(lambda leaf: None if is_numeric(leaf) else leaf, tree)
    return Parts(inexact, carried, static)


def parts(tree: Tree) -> Parts:
    """`split` of what a user hands in to be moved: of a module of nnx its parameters alone are `inexact`.

    Other floating variables of a module, such as the mean of a batch norm, are among the `arrays`.
    """
    found, mask = split(tree), module_variables.carried(tree)
    if mask is None:
        return found
    carried, inexact = select(found.inexact, unpacked(mask))
    return Parts(inexact, merge(found.arrays, carried), found.static)


def strong(tree: Tree) -> Tree:
    """`tree` of arrays, none of them weakly typed.

    A loop's carry must have one type before and after a step, and arithmetic makes weak types strong: so
    they are made strong before the loop.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=leaf.dtype), tree)


def whole(*parts: Tree) -> Tree:
    """Undo `split`: the tree as the user wrote it."""
    return packed(merge(*parts))


def merge(*trees: Tree) -> Tree:
    """Undo `select`: at each place the one leaf that is not `None`."""

    def pick(*leaves: Any) -> Any:
        return next((leaf for leaf in leaves if leaf is not None), None)

    return jax.tree.map(pick, *trees, is_leaf=_is_none)


def select(tree: Tree, mask: Tree) -> tuple[Tree, Tree]:
    """Split `tree` by a tree of Python booleans into (where true, where false)."""

    def keep(wanted: bool) -> Tree:
        return jax.tree.map(
            lambda leaf, chosen: leaf if chosen == wanted else None, tree, mask, is_leaf=_is_none
        )

    return keep(True), keep(False)


def present(tree: Tree) -> Tree:
    """A tree of Python booleans: where a leaf is not `None`."""
    return jax.tree.map(lambda leaf: leaf is not None, tree, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def typed_like(like: Tree, tree: Tree) -> Tree:
    """`tree`, its floating and complex leaves in the types of those of `like`, of the same structure."""

    def one(leaf: Array, like: Array) -> Array:
        return leaf.astype(like.dtype) if is_inexact(leaf) and is_inexact(like) else leaf

    return jax.tree.map(one, tree, like)


def conj(tree: Tree) -> Tree:
    """Complex conjugate of each complex leaf; real leaves are untouched."""
    return jax.tree.map(lambda leaf: jnp.conj(leaf) if jnp.iscomplexobj(leaf) else leaf, tree)


def as_real(tree: Tree) -> Tree:
    """Each complex leaf as the pair (real, imaginary)."""
    return jax.tree.map(
        lambda leaf: (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else leaf, tree
    )


def as_like(template: Tree, real: Tree) -> Tree:
    """Undo `as_real`: `template` says which leaves were complex."""
    return jax.tree.map(
        lambda leaf, part: jax.lax.complex(*part) if jnp.iscomplexobj(leaf) else part,
        template,
        real,
    )


@standard_promotion
def widened(tree: Tree) -> Tree:
    """Each leaf in float32 at least: where sums of squares of float16 neither overflow nor vanish."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree)


@standard_promotion
def norm(tree: Tree) -> Array:
    """2-norm over all leaves, in float32 at least; 0 for a tree without leaves.

    Scaled by the largest entry. The plain sum of squares of entries of 1e-25 is 0 in float32: an
    unsolved problem of that size would have the residual 0 and count as solved. The norm of 400 entries
    of 5,000 is too large for float16, though each of them fits: so the result is no float16 either.
    """
    leaves = widened([jnp.abs(leaf) for leaf in jax.tree.leaves(tree) if leaf.size])
    if not leaves:
        return jnp.zeros(())
    dtype = jnp.result_type(*leaves)
    leaves = [leaf.astype(dtype) for leaf in leaves]
    # XLA computes scalars where it needs them, in one place as 1e-17 and in another, rounded otherwise, as 0. Their
    # scales are 1e-17 and 1: dividing by one and multiplying by the other would make a norm of 1.
    if all(leaf.size == 1 for leaf in leaves):
        leaves = [leaf.reshape(()) for leaf in leaves]
        if len(leaves) == 1:
            return leaves[0]
        leaves = [jnp.stack(leaves)]
    scale = unit(leaves)
    squares = sum(jnp.sum(jnp.square(leaf / scale)) for leaf in leaves)
    return scale * jnp.sqrt(squares)


@standard_promotion
def quick_norm(tree: Tree) -> Array:
    """2-norm over all leaves, for loops that compare it with a tolerance: half the cost of `norm`.

    Where the sum of squares is too large or too small for its type, it is an upper bound instead, the largest
    entry times the root of the number of entries. A loop then never ends too early, nor takes a large residual
    for an infinite one.
    """
    leaves = widened([jnp.abs(leaf) for leaf in jax.tree.leaves(tree) if leaf.size])
    if sum(leaf.size for leaf in leaves) <= 1:
        return norm(leaves)
    wide = jnp.result_type(*leaves)
    total = sum(jnp.sum(jnp.square(leaf.astype(wide))) for leaf in leaves)
    largest = functools.reduce(jnp.maximum, [jnp.max(leaf).astype(wide) for leaf in leaves])
    limits = jnp.finfo(wide)
    in_range = (total > limits.tiny / limits.eps) & (total < limits.max)
    return jnp.where(in_range, jnp.sqrt(total), largest * sum(leaf.size for leaf in leaves) ** 0.5)


@standard_promotion
def unit(tree: Tree) -> Array:
    """The largest entry, by which to divide all leaves before squaring; 1 if it is 0 or not finite."""
    leaves = [jnp.abs(leaf) for leaf in jax.tree.leaves(tree) if leaf.size]
    if not leaves:
        return jnp.ones(())
    wide = wide_type(*leaves)
    largest = functools.reduce(jnp.maximum, [jnp.max(leaf).astype(wide) for leaf in leaves])
    tiny = jnp.finfo(wide).tiny
    normal = (largest >= tiny) & jnp.isfinite(largest)
    # XLA may divide by multiplying with 1 / scale. For a scale above 1 / tiny this reciprocal is
    # below the smallest normal number and flushed to 0; a smaller scale avoids that.
    return jnp.where(normal, jnp.minimum(largest, 1 / (4 * tiny)), 1)


@standard_promotion
def vdot(a: Tree, b: Tree) -> Array:
    """`<a, b> = sum conj(a) * b` over all entries, in float32 at least."""

    def one(x: Array, y: Array) -> Array:
        # A dot product over an explicit mesh axis leaves it open where its result lies, which JAX refuses.
        if spec(x) or spec(y):
            return jnp.sum(jnp.conj(x) * y)
        return jnp.vdot(x, y, precision="highest")

    return _summed(one, a, b)


@standard_promotion
def half_square(tree: Tree) -> Array:
    """`sum |entry|^2 / 2` over all leaves, in their common real type."""
    one = lambda leaf: jnp.sum(
        jnp.square(leaf.real) + jnp.square(leaf.imag)
        if jnp.iscomplexobj(leaf)
        else jnp.square(leaf)
    )
    return functools.reduce(jnp.add, [one(leaf) for leaf in jax.tree.leaves(tree)]) / 2


@standard_promotion
def pairing(cotangent: Tree, tree: Tree) -> Array:
    """`sum cotangent * tree` over all entries, in float32 at least: how JAX pairs them, unconjugated."""
    return _summed(lambda bar, leaf: jnp.sum(bar * leaf), cotangent, tree)


def _summed(product: Callable[[Array, Array], Array], a: Tree, b: Tree) -> Array:
    products = jax.tree.leaves(jax.tree.map(product, widened(a), widened(b)))
    return functools.reduce(jnp.add, products) if products else jnp.zeros(())


def spec(leaf: Any) -> PartitionSpec | None:
    """How the array lies on the explicit axes of a mesh; None where it lies along none."""
    # The type of a program's variable has a sharding itself, but is no array of which JAX knows the type.
    typed = jax.typeof(leaf) if isinstance(leaf, (Array, np.ndarray, np.generic)) else leaf
    found = typed.sharding.spec
    return found if any(axis is not None for axis in found) else None


def gathered(tree: Tree) -> Tree:
    """`tree`, each leaf whole on every device of an explicit mesh."""
    return jax.tree.map(lambda leaf: reshard(leaf, PartitionSpec()) if spec(leaf) else leaf, tree)


def specs(tree: Tree) -> list[PartitionSpec | None]:
    """`spec` of each leaf."""
    return [*map(spec, jax.tree.leaves(tree))]


def spread(tree: Tree, specs: list[PartitionSpec | None]) -> Tree:
    """Undo `gathered`: each leaf lies as its spec says."""
    leaves, structure = jax.tree.flatten(tree)
    pairs = zip(leaves, specs, strict=True)
    return jax.tree.unflatten(structure, [reshard(x, at) if at else x for x, at in pairs])


@standard_promotion
def ravel(tree: Tree) -> tuple[Array, Callable[[Array], Tree]]:
    """All leaves as one vector, whole on every device, and the way back."""
    flat, unravel = ravel_pytree(gathered(tree))
    lying = specs(tree)  # and not the tree itself, whose arrays the way back would keep
    return flat, (lambda vector: spread(unravel(vector), lying)) if any(lying) else unravel


def eps(tree: Tree) -> float:
    """The relative rounding of the leaf with the fewest digits; 0 for a tree without leaves."""
    return max([float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(tree)], default=0.0)


def size(tree: Tree) -> int:
    """The number of real unknowns: a complex entry counts twice."""
    return sum(leaf.size * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in jax.tree.leaves(tree))


def all_finite(tree: Tree) -> Array:
    """Whether every entry of every leaf is finite."""
    checks = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(checks)) if checks else jnp.asarray(True)


@standard_promotion
def add_scaled(tree: Tree, scale: Any, direction: Tree) -> Tree:
    """`tree + scale * direction`, leaf by leaf, in the types of `tree`: trees may mix precisions."""
    return jax.tree.map(lambda a, d: (a + scale * d).astype(a.dtype), tree, direction)


@standard_promotion
def safe_divide(a: Array, b: Array) -> Array:
    """`a / b`, and 0 where `b` is 0.

    The inner `where` keeps 0 out of the denominator: a derivative passes through both branches of a
    `where`, and 1 / 0 in the unused one would make it NaN.
    """
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def nan_unless(condition: Array, tree: Tree) -> Tree:
    """`tree` where `condition` holds, NaN elsewhere."""
    # With `jax_disable_jit` JAX looks at every number that is made, and `jax_debug_nans` would take the NaN
    # below for a mistake also where it is not used.
    seen = jax.config.jax_disable_jit and not isinstance(condition, jax.core.Tracer)  # type: ignore[attr-defined]
    if seen and condition.all():
        return tree
    return jax.tree.map(lambda leaf: jnp.where(condition, leaf, jnp.nan), tree)


def where(condition: Array, true: Tree, false: Tree) -> Tree:
    """`true` where the scalar `condition` holds, else `false`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), true, false)


def stop_gradient(tree: Tree) -> Tree:
    """`tree` without derivative; any leaf that carries none is passed through."""
    return jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(leaf) if is_inexact(leaf) else leaf, tree
    )


@jax.custom_jvp
def graft(value: Tree, carrier: Tree) -> Tree:
    """`value` to the bit, with the derivative of `carrier` (a tree of the same shapes).

    The usual `carrier + stop_gradient(value - carrier)` rounds, and is not `value` in its last bits.
    """
    del carrier
    return value


@graft.defjvp
def _graft_jvp(primals: tuple[Tree, Tree], tangents: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
    value, carrier = primals
    return graft(value, carrier), tangents[1]


def describe(tree: Tree) -> str:
    """Structure, shapes and dtypes in a line, for error messages."""

    def one(leaf: Any) -> str:
        if is_numeric(leaf) or hasattr(leaf, "shape"):
            dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
            return f"{dtype}[{','.join(map(str, jnp.shape(leaf)))}]"
        return type(leaf).__name__

    return str(jax.tree.map(one, unpacked(tree))).replace("'", "")
