"""Gradients leaf by leaf: which parameter gets none, too much, or what is no number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import keystr, tree_flatten_with_path

from toolkit import tables, tree
from toolkit.array_arguments import require_scalar
from toolkit.errors.readable import readable
from toolkit.leaves.promotion import standard_promotion
from toolkit.types import Tree

_ARRAYS = ("norm", "max_abs", "zero_fraction", "nonfinite", "update_ratio")
_HEAD = ("path", "norm", "largest", "zero", "non-finite", "update/param")


@dataclass(frozen=True, eq=False)
class GradientReport:
    """The `L` floating and complex leaves of a gradient; outside `jit` it prints as a table, and is one in a notebook.

    Numbers are float32, or float64 where a leaf is.
    """

    norm: Array  # [L] 2-norm of the finite entries
    max_abs: Array  # [L] largest magnitude of the finite entries
    zero_fraction: Array  # [L] part of the entries that are zero; 0 of a leaf without entries
    nonfinite: Array  # [L] int32; entries that are NaN or infinite
    update_ratio: Array  # [L] |update| / |param|; NaN if not given, inf for a param that is 0
    paths: tuple[str, ...]  # static; as `jax.tree_util.keystr` writes them

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict a leaf, keys `path` and the names of the arrays. Not inside `jit`."""
        columns = {name: getattr(self, name).tolist() for name in _ARRAYS}
        return [
            {"path": path} | {name: column[i] for name, column in columns.items()}
            for i, path in enumerate(self.paths)
        ]

    def __repr__(self) -> str:
        if self._untold():
            return f"GradientReport of {len(self.paths)} leaves, {self._untold()}"
        return tables.text(_HEAD, [_printed(row) for row in self.to_rows()])

    def _repr_html_(self) -> str:
        if self._untold():
            return tables.page([str(self)], [])
        return tables.page(_HEAD, [_printed(row) for row in self.to_rows()])

    def _untold(self) -> str:
        """Why there is no table of leaves; empty where there is one."""
        if not tables.is_known(self.norm):
            return "not computed yet: print it outside jit"
        if self.norm.ndim != 1:
            return f"stacked {self.norm.shape[:-1]}: print one of them"
        return ""


jax.tree_util.register_dataclass(GradientReport, data_fields=_ARRAYS, meta_fields=("paths",))


class ClipReport(NamedTuple):
    """What `optax.clip_by_global_norm` takes from a gradient; arrays `[]`."""

    norm: Array  # 2-norm over all leaves before clipping; NaN or inf where an entry is
    lost_norm: Array  # how much of it is cut off; 0 where nothing is
    clipped: Array  # bool
    steps: Array  # int32; gradients seen so far
    frequency: Array  # part of them that were clipped


@readable
def gradient_report(
    grads: Tree, params: Tree = None, updates: Tree = None, *, when: Any = True
) -> GradientReport:
    """Norm, largest entry, zeros, non-finite entries and relative update of each leaf.

    Integer, boolean, PRNG-key, static and `None` leaves of `grads` are left out. Norms are scaled by
    the largest entry, so that neither 1e30 in bfloat16 nor 1e-6 in float16 is lost in its square.
    What the device's arithmetic flushes to zero counts as zero.

    Args:
      grads: any tree with at least one floating or complex leaf.
      params, updates: trees like `grads`; what stands beside a `None` of `grads` is not looked at.
      when: bool `[]`, as `step % 50 == 0`; only where it holds is anything computed
        (`jax.lax.cond`). Elsewhere the numbers are NaN and `nonfinite` is -1.

    Raises: ValueError naming the argument and the path that does not fit.

    Differentiation: none; the report's derivative is zero.

    Cost: some passes over `grads`, `params` and `updates`. With `when`, every step pays for keeping
    the three at hand, which it would otherwise fuse and overwrite. A second program for the steps
    that report costs the others nothing: jit two steps, or let the runner do so.

    Example:
      print(tk.debug.gradient_report(jax.grad(loss)(params), params))
    """
    found = _required(grads)
    beside = {
        name: _beside(name, other, grads, found)
        for name, other in (("params", params), ("updates", updates))
        if other is not None
    }
    if (
        not tree.is_numeric(when)
        or jnp.shape(when)
        or not jnp.issubdtype(jnp.result_type(when), jnp.bool_)
    ):
        raise ValueError(f"`when` must be a boolean of shape (): got {tree.describe(when)}.")

    def measured() -> GradientReport:
        return _measured(found, **beside)

    return measured() if when is True else jax.lax.cond(when, measured, lambda: _unmade(measured))


@readable
@standard_promotion
def clip_report(grads: Tree, max_norm: Any, previous: ClipReport | None = None) -> ClipReport:
    """How often, and by how much, `optax.clip_by_global_norm(max_norm)` cuts these gradients.

    Args:
      grads: before clipping.
      max_norm: `[]`, positive.
      previous: the last step's report, whose count goes on; None starts at this gradient.

    Differentiation: none; the report's derivative is zero.

    Cost: two passes over `grads`.
    """
    require_scalar("max_norm", max_norm)
    if isinstance(max_norm, (int, float)) and not max_norm > 0:
        raise ValueError(f"`max_norm` must be positive: got {max_norm!r}.")
    norm = tree.norm([_wide(leaf) for leaf in _required(grads).values()])
    # True for a NaN norm too, where optax makes every entry NaN; `norm > max_norm` would be false.
    clipped = ~(norm <= max_norm)
    lost = jnp.where(clipped, norm - max_norm, 0).astype(norm.dtype)
    seen = jnp.asarray(0, jnp.int32) if previous is None else previous.steps
    frequency = jnp.zeros_like(norm) if previous is None else previous.frequency
    steps = seen + 1
    # As a running mean the frequency needs no second counter, and keeps its type in a loop's carry.
    frequency = frequency + (clipped - frequency) / steps
    return ClipReport(norm, lost, clipped, steps, frequency.astype(norm.dtype))


def _required(grads: Tree) -> dict[str, Array]:
    found = _measurable(grads)
    if not found:
        raise ValueError(
            f"`grads` must have a floating or complex leaf: got {tree.describe(grads)}."
        )
    return found


def _measurable(grads: Tree) -> dict[str, Array]:
    """The floating and complex leaves by path, without derivative."""
    return {
        keystr(path): tree.stop_gradient(jnp.asarray(leaf))
        for path, leaf in tree_flatten_with_path(grads)[0]
        if _is_measured(leaf)
    }


def _is_measured(leaf: Any) -> bool:
    # float0 is how `jax.grad(allow_int=True)` says that an integer has no gradient.
    return getattr(leaf, "dtype", None) != jax.dtypes.float0 and tree.is_inexact(leaf)


def _beside(name: str, other: Tree, grads: Tree, found: dict[str, Array]) -> dict[str, Array]:
    """The leaves of `other` at the paths of `found`; refuses a tree that is not like `grads`."""
    leaves = _measurable(other)
    for path, leaf in found.items():
        if path not in leaves or leaves[path].shape != leaf.shape:
            got = tree.describe(leaves[path]) if path in leaves else "no floating leaf"
            raise ValueError(
                f"`{name}` must be like `grads`: at {path or 'the root'} got {got}, expected "
                f"{tree.describe(leaf)}; pass the tree that was differentiated."
            )
    at_none = lambda leaf: leaf is None
    without = [
        path
        for path, leaf in tree_flatten_with_path(grads, is_leaf=at_none)[0]
        if not _is_measured(leaf)
    ]
    for path, leaf in tree_flatten_with_path(other)[0]:
        if keystr(path) in leaves.keys() - found and not any(
            path[: len(start)] == start for start in without
        ):
            raise ValueError(
                f"`{name}` must be like `grads`: at {keystr(path)} got {tree.describe(leaf)}, "
                "expected no leaf; put None into `grads` where there is no gradient."
            )
    return {path: leaves[path] for path in found}


def _measured(
    grads: dict[str, Array],
    params: dict[str, Array] | None = None,
    updates: dict[str, Array] | None = None,
) -> GradientReport:
    rows = []
    for path, leaf in grads.items():
        wide = _wide(leaf)
        finite = jnp.isfinite(wide)
        kept = jnp.where(finite, jnp.abs(wide), 0)
        ratio = jnp.asarray(jnp.nan, kept.dtype)
        if params is not None and updates is not None:
            ratio = _ratio(_norm(updates[path]), _norm(params[path]))
        rows.append(
            (
                _norm(kept),
                jnp.max(kept, initial=0),
                jnp.sum(wide == 0) / max(leaf.size, 1),
                jnp.sum(~finite),
                ratio,
            )
        )
    norm, largest, zeros, nonfinite, ratios = zip(*rows, strict=True)
    dtype = jnp.result_type(*norm)

    def stacked(column: tuple[Array, ...], dtype: Any = dtype) -> Array:
        return jnp.stack([entry.astype(dtype) for entry in column])

    return GradientReport(
        stacked(norm),
        stacked(largest),
        stacked(zeros),
        stacked(nonfinite, jnp.int32),
        stacked(ratios),
        tuple(grads),
    )


def _unmade(measured: Callable[[], GradientReport]) -> GradientReport:
    """The report of a step where nothing is measured: NaN, and -1 non-finite entries."""

    def filled(like: jax.ShapeDtypeStruct) -> Array:
        return jnp.full(like.shape, -1 if like.dtype == jnp.int32 else jnp.nan, like.dtype)

    return jax.tree.map(filled, jax.eval_shape(measured))


def _ratio(update: Array, parameter: Array) -> Array:
    """|update| / |parameter|; 0 where nothing was updated, even if the parameter is zero (0 / 0)."""
    return jnp.where(update == 0, 0, update / parameter)


def _wide(leaf: Array) -> Array:
    """The leaf in at least 32 bits, where the squares of a norm lose less."""
    if jnp.iscomplexobj(leaf) or leaf.dtype == jnp.float64:
        return leaf
    return leaf.astype(jnp.float32)


def _norm(leaf: Array) -> Array:
    wide = _wide(leaf)
    return tree.norm(wide).astype(wide.real.dtype)


def _printed(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["path"] or "(one leaf)",
        f"{row['norm']:.3g}",
        f"{row['max_abs']:.3g}",
        f"{row['zero_fraction']:.1%}",
        str(row["nonfinite"]),
        "-" if row["update_ratio"] != row["update_ratio"] else f"{row['update_ratio']:.2e}",
    )
