"""Where the non-finite entries of a value come from.

A *birth* is an equation that makes a NaN from none, or an infinity from finite numbers. Every value
of a replay carries the births of its bad entries, each with the mask of the entries that are its
own, so that one array may hold a legal -inf beside the NaN that is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.debug.source_lines import NOWHERE, SourceLine

# What takes the place of a bad entry, to see what the others do. Most functions are finite there; `acosh`
# needs a number above 1. A round number could cancel with another entry, and a 1 / 0 of our making would
# follow.
_HARMLESS = 0.54321
_HARMLESS_FOR = {"acosh": 1.54321}

# Factorisations and the like. A matrix with replaced entries may be indefinite or singular, and the equation
# would then fail for a reason of our making. So nothing is replaced here, and all bad results count as passed
# on.
_WHOLE = frozenset(
    {"cholesky", "cholesky_update", "eig", "eigh", "geqrf", "householder_product", "lu", "qr"}
    | {"ormqr", "schur", "svd", "triangular_solve", "tridiagonal", "tridiagonal_solve"}
)

Masks = dict["Birth", np.ndarray]


class Operand(NamedTuple):
    """What an equation read; ranges are those of the finite entries."""

    shape: tuple[int, ...]
    dtype: str
    min: float | None  # None where no entry is finite, and of complex numbers
    max: float | None
    nan: int  # entries that are NaN, infinite, zero, negative
    inf: int
    zero: int
    negative: int

    def __str__(self) -> str:
        text = f"{self.dtype}[{','.join(map(str, self.shape))}]"
        if self.min is not None:
            text += (
                f" = {self.min:.4g}"
                if self.min == self.max
                else f" in [{self.min:.4g}, {self.max:.4g}]"
            )
        counts = {"NaN": self.nan, "inf": self.inf, "zero": self.zero, "negative": self.negative}
        counted = [f"{count} {name}" for name, count in counts.items() if count]
        return ", ".join([text, *counted])


@dataclass(frozen=True, eq=False)
class Birth:
    """The making of non-finite entries."""

    order: tuple[int, ...]  # position in the computation; earlier ones compare smaller
    operation: str  # the primitive's name, or "input", "constant"
    place: SourceLine = NOWHERE
    inside: SourceLine = NOWHERE  # where an installed package is at work below `place`
    names: str = ""  # the name stack, which tells the transformations
    iterations: tuple[tuple[str, int], ...] = ()
    operands: tuple[Operand, ...] = ()
    makers: tuple[str, ...] = ()  # the primitive that made each operand
    depends_on: frozenset[str] = frozenset()
    has_nan: bool = True
    legal: bool = False  # an infinity that was written down, such as a mask's: no fault by itself
    causes: frozenset[Birth] = frozenset()  # of what was bad in the operands
    own_line: bool = True  # the user wrote it: not inside a function of `jax.numpy`
    note: str = ""


@dataclass(frozen=True)
class Value:
    """An array of the replay, and what is known of it."""

    array: Any
    masks: Masks = field(default_factory=dict)  # by birth: the bad entries that it caused
    depends_on: frozenset[str] = frozenset()  # paths of the arguments
    maker: str = ""  # the last primitive that did more than move or cast
    is_primal: bool = False  # made under differentiation, before the backward pass
    spoilt_by: frozenset[Birth] = frozenset()  # of the births, those within that computation
    told_by: frozenset[Birth] = frozenset()  # of a flag or a count: the births that decided it

    @property
    def ndim(self) -> int:
        return np.ndim(self.array)


def is_finite(array: Any) -> bool:
    """Whether no entry is NaN or infinite; integers and keys are finite."""
    if not _may_be_bad(array):
        return True
    if isinstance(array, jax.Array) and array.size > 2**16:
        return bool(_all_finite(array))  # on its device: one byte comes back
    return not nonfinite(array).any()


def nonfinite(array: Any) -> np.ndarray:
    """Mask of the bad entries."""
    return np.asarray(~np.isfinite(_wide(array))) if _may_be_bad(array) else _nothing(array)


def nans(array: Any) -> np.ndarray:
    """Mask of the NaN entries."""
    return np.asarray(np.isnan(_wide(array))) if _may_be_bad(array) else _nothing(array)


def by_kind(array: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks of NaN, +inf and -inf; a complex infinity, whose parts may differ, counts as +inf."""
    nan = nans(array)
    inf = nonfinite(array) & ~nan
    if not inf.any() or np.iscomplexobj(array):
        return nan, inf, np.zeros_like(inf)
    below = _wide(array) < 0
    return nan, inf & ~below, inf & below


def describe(array: Any) -> Operand:
    """Shape, range and counts."""
    dtype = str(jnp.result_type(array)) if hasattr(array, "dtype") else type(array).__name__
    shape = tuple(np.shape(array))
    if hasattr(array, "dtype") and jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended):
        return Operand(shape, dtype, None, None, 0, 0, 0, 0)
    wide = _wide(array)
    nan = int(np.isnan(wide).sum())
    inf = int(np.isinf(wide).sum())
    zero = int((wide == 0).sum())
    finite = wide[np.isfinite(wide)]
    if np.iscomplexobj(wide) or not finite.size:
        negative = 0 if np.iscomplexobj(wide) else int((wide < 0).sum())
        return Operand(shape, dtype, None, None, nan, inf, zero, negative)
    low, high = float(finite.min()), float(finite.max())
    return Operand(shape, dtype, low, high, nan, inf, zero, int((wide < 0).sum()))


def attribute(
    primitive: str,
    evaluate: Callable[[Sequence[Any]], Sequence[Any]],
    values: Sequence[Value],
    results: Sequence[Any],
    bear: Callable[[bool], Birth],
) -> list[Masks]:
    """For each result of an equation, which of its bad entries belong to which birth.

    The equation is evaluated again for each birth, with the bad entries of all other births replaced by a
    harmless number. What is bad then belongs to that birth. What is bad with all of them replaced is born
    here. So is a NaN that legal infinities alone make, such as `-inf - -inf`.

    Args:
      primitive: the name of the equation's primitive.
      evaluate: the equation, run on other operands.
      values: the operands.
      bear: makes the birth of this equation, told whether it has a NaN.
    """
    wanted = [nonfinite(result) for result in results]
    # A dict, because the order of a set differs between processes, and so would the report.
    births = list({birth: None for value in values for birth in value.masks})
    if not births:
        return _given(bear(_any_nan(results)), wanted)
    real = [birth for birth in births if not birth.legal]
    legal = [birth for birth in births if birth.legal]

    def without(removed: Sequence[Birth]) -> Sequence[Any]:
        if primitive in _WHOLE or not removed:
            return results
        return evaluate([_cleaned(value, removed, primitive) for value in values])

    fresh = [np.zeros_like(mask) for mask in wanted]  # bad with all births made harmless: born here
    apart = list(fresh)  # of those, the entries that are the same with the births in place
    if primitive not in _WHOLE:
        alone = without(births)
        fresh = [nonfinite(r) & mask for r, mask in zip(alone, wanted, strict=True)]
        apart = [_unchanged(r, old) & f for r, old, f in zip(alone, results, fresh, strict=True)]
    found: list[Masks] = [{} for _ in results]
    if legal and not (real and primitive in _WHOLE):
        # With the legal infinities alone: an infinity that stays one is passed on, a NaN is born here.
        alone = without(real)
        made = [nans(r) & mask for r, mask in zip(alone, wanted, strict=True)]
        fresh = [old | new for old, new in zip(fresh, made, strict=True)]
        for i, result in enumerate(alone):
            kept = nonfinite(result) & wanted[i] & ~fresh[i]
            found[i] |= {birth: kept for birth in legal if kept.any()}
    # Each other birth alone: what is bad now is its own, unless it would be bad without any birth.
    for birth in real:
        others = [other for other in births if other is not birth]
        for i, result in enumerate(without(others)):
            own = nonfinite(result) & wanted[i] & ~apart[i]
            if own.any():
                found[i][birth] = own
    if any(mask.any() for mask in fresh):
        new = bear(any(np.any(nans(r) & mask) for r, mask in zip(results, fresh, strict=True)))
        found = [old | own for old, own in zip(found, _given(new, fresh), strict=True)]
    return [
        _completed(masks, mask, real or legal) for masks, mask in zip(found, wanted, strict=True)
    ]


def of_their_cause(masks: Masks, deciders: frozenset[Birth]) -> Masks:
    """`masks`, with a NaN that was written down given to the births that `deciders` names.

    `jnp.where(jnp.isfinite(x), y, jnp.nan)` says that x was bad: what made x is looked for, not this NaN.
    """
    causes = [birth for birth in deciders if not birth.legal]
    written = [birth for birth in masks if birth.operation == "constant" and birth.has_nan]
    if not causes or not written:
        return masks
    kept = {birth: mask for birth, mask in masks.items() if birth not in written}
    entries = np.logical_or.reduce([masks[birth] for birth in written])
    return kept | {birth: kept.get(birth, False) | entries for birth in causes}


def told_by(values: Sequence[Value], result: Any) -> frozenset[Birth]:
    """The births that decided a result which has no bad entries itself, such as a flag or a count."""
    if _may_be_bad(result):
        return frozenset()
    return frozenset[Birth]().union(*(value.told_by | value.masks.keys() for value in values))


def restricted(masks: Masks, kept: np.ndarray) -> Masks:
    """Those of the entries in `kept`."""
    return {birth: mask & kept for birth, mask in masks.items() if (mask & kept).any()}


def _given(birth: Birth, masks: Sequence[np.ndarray]) -> list[Masks]:
    return [{birth: mask} if mask.any() else {} for mask in masks]


def _completed(masks: Masks, wanted: np.ndarray, births: Sequence[Birth]) -> Masks:
    """`masks`, with the entries that no birth makes bad alone: they belong to all of `births`."""
    left = wanted.copy()
    for mask in masks.values():
        left &= ~mask
    if not left.any():
        return masks
    return masks | {birth: masks.get(birth, False) | left for birth in births}


def _unchanged(array: Any, other: Any) -> np.ndarray:
    same = np.asarray(array == other)
    return same | (nans(array) & nans(other))


def _cleaned(value: Value, removed: Sequence[Birth], primitive: str) -> Any:
    """The array, with the entries of the removed births made harmless."""
    gone = _nothing(value.array)
    for birth in removed:
        gone = gone | value.masks.get(birth, False)
    # An entry that belongs to two births stays bad as long as one of them does.
    for birth, mask in value.masks.items():
        gone = gone if birth in removed else gone & ~mask
    if not gone.any():
        return value.array
    harmless = jnp.asarray(_HARMLESS_FOR.get(primitive, _HARMLESS), value.array.dtype)
    return jnp.where(gone, harmless, value.array)


def _any_nan(results: Sequence[Any]) -> bool:
    return any(nans(result).any() for result in results)


def _may_be_bad(array: Any) -> bool:
    return jnp.issubdtype(getattr(array, "dtype", np.result_type(type(array))), jnp.inexact)


def _nothing(array: Any) -> np.ndarray:
    return np.zeros(np.shape(array), bool)


def _wide(array: Any) -> np.ndarray:
    # NumPy's functions refuse bfloat16 and float8; float32 holds each of their numbers.
    known = np.asarray(array)
    return (
        known.astype(np.float32) if known.dtype.kind == "V" or known.dtype.itemsize < 2 else known
    )


@jax.jit
def _all_finite(array: Any) -> Any:
    return jnp.isfinite(array).all()
