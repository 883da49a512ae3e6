"""Many steps of a method: stops at the first values that are not finite, and says which and when."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import tables, tree
from toolkit.bilevel.parts.problem import Info
from toolkit.settings import Count, require
from toolkit.types import Tree

_LINES = 20  # of progress
_SHOWN = 5  # records at each end that are printed


class Record(NamedTuple):
    """What is kept of a path; `R` records, numpy arrays. Prints as a table of the first and the last ones."""

    step: np.ndarray  # [R] steps made
    info: Info  # [R] each; the counts are sums from the start, in int64
    observed: Tree  # [R, ...] what `observe` gives

    def __repr__(self) -> str:
        return tables.text(*self._printed())

    def _repr_html_(self) -> str:
        return tables.page(*self._printed())

    def _printed(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Names of columns, and rows: a record each. Of a record of another form, its parts."""
        parts = {"step": self.step, **self.info._asdict()}
        for path, leaf in jax.tree_util.tree_flatten_with_path(self.observed)[0]:
            parts["observed" + jax.tree_util.keystr(path)] = leaf
        count = len(self.step) if np.ndim(self.step) == 1 else -1
        if any(
            not tables.is_known(part) or np.shape(part)[:1] != (count,) for part in parts.values()
        ):
            return ("record", ""), [(name, tables.cell(part)) for name, part in parts.items()]
        rows = [tuple(tables.cell(part[i]) for part in parts.values()) for i in _shown(count)]
        if count > len(rows):
            rows.insert(_SHOWN, ("...",) * len(parts))
        return tuple(parts), rows


def _shown(count: int) -> list[int]:
    """Which records are printed."""
    if count <= 2 * _SHOWN:
        return list(range(count))
    return [*range(_SHOWN), *range(count - _SHOWN, count)]


class _Stretch(NamedTuple):
    """What compiled code carries through the steps between two records."""

    state: Any
    gradients: Array  # [] since the last record
    hvps: Array
    failed: Array  # [] int32, steps made when a variable was first not finite; -1
    bad: dict[str, Array]  # which were, then
    norm: Array  # [] of the last direction that was finite


def iterate(
    step: Callable[..., tuple[Any, Info]],
    state: Any,
    num_steps: int,
    *,
    data: Any = None,
    every: int = 1,
    observe: Callable[[Any], Tree] | None = None,
    progress: bool = False,
) -> tuple[Any, Record]:
    """`num_steps` steps of a method from `state`, with a record after each `every` of them.

        init, step = tk.bilevel.SOBA(0.1, 0.1, batch_size=64)(problem)
        state, record = tk.bilevel.iterate(step, init(key, y0, theta0), 1000, every=10)

    Args:
      step: of an `Algorithm`; compiled once for all calls with this very function.
      num_steps: a multiple of `every`.
      data: `(inner_data, outer_data)` in place of the problem's, as `init` had them; arguments of the
        compiled program, where the problem's are constants in it.
      every: steps between records, which are made outside compiled code.
      observe: `state -> arrays`, called in compiled code at each record.
      progress: whether to print `SOBA: 300/1000, outer loss 0.123` on stderr, at records, at most twenty
        times.

    Returns: (the last state, `Record`).

    Raises:
      FloatingPointError: y, theta or v is not finite; the message names the method and the step.
      ValueError: `every` does not divide `num_steps`.
    """
    require("every", every, Count)
    require("num_steps", num_steps, Count)
    if num_steps % every:
        raise ValueError(f"`every` must divide `num_steps`: got {every} and {num_steps}.")
    rows: list[tuple[Any, ...]] = []
    totals = np.zeros(2, np.int64)
    for _ in range(num_steps // every):
        part, info, observed = _advance(step, observe, state, every, data)
        state = part.state
        if part.failed >= 0:
            raise FloatingPointError(_not_finite(step, part))
        # int32 counts of a long run would overflow: they are summed in int64, outside of compiled code,
        # as JAX has no int64 by default.
        totals += np.asarray([part.gradients, part.hvps])
        counted = info._replace(gradient_evals=totals[0].copy(), hvp_evals=totals[1].copy())
        rows.append((int(state.step), *jax.device_get((counted, observed))))
        done = len(rows) * every
        # At a record that is the first beyond another twentieth of the steps.
        if progress and done * _LINES // num_steps > (done - every) * _LINES // num_steps:
            loss = f"outer loss {float(info.outer_loss):.4g}"
            print(f"{_name(step)}: {done}/{num_steps}, {loss}", file=sys.stderr, flush=True)
    steps, infos, observed = zip(*rows, strict=True)
    stacked = lambda rows: jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    return state, Record(np.asarray(steps), stacked(infos), stacked(observed))


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def _advance(
    step: Any, observe: Any, state: Any, every: int, data: Any
) -> tuple[_Stretch, Info, Tree]:
    def one(part: _Stretch, _: None) -> tuple[_Stretch, Info]:
        new, info = step(part.state) if data is None else step(part.state, data)
        bad = {name: ~tree.all_finite(part) for name, part in _variables(new).items()}
        # A scan cannot end early. After the first failure the steps go on, but what is noted of it stays:
        # later steps would name every variable, as NaN spreads.
        going = part.failed < 0
        failed = jnp.where(going & jnp.any(jnp.stack([*bad.values()])), new.step, part.failed)
        bad = jax.tree.map(lambda now, then: jnp.where(going, now, then), bad, part.bad)
        norm = jnp.where(jnp.isfinite(info.gradient_norm), info.gradient_norm, part.norm)
        norm = jnp.where(going, norm, part.norm).astype(part.norm.dtype)
        gradients, hvps = part.gradients + info.gradient_evals, part.hvps + info.hvp_evals
        return _Stretch(new, gradients, hvps, failed, bad, norm), info

    zero, names = jnp.asarray(0, jnp.int32), _variables(state)
    first = _Stretch(
        state, zero, zero, zero - 1, dict.fromkeys(names, zero > 0), jnp.asarray(jnp.nan)
    )
    part, infos = jax.lax.scan(one, first, length=every)
    last = jax.tree.map(lambda leaf: leaf[-1], infos)
    return part, last, None if observe is None else observe(part.state)


def _variables(state: Any) -> dict[str, Tree]:
    names = [name for name in ("y", "theta", "v") if hasattr(state, name)]
    return {name: tree.parts(getattr(state, name)).inexact for name in names}


def _name(step: Any) -> str:
    return getattr(step, "__name__", "step")


def _not_finite(step: Any, part: _Stretch) -> str:
    names = ", ".join(name for name, bad in part.bad.items() if bad)
    before = (
        f" (after a gradient norm of {float(part.norm):.3g})" if jnp.isfinite(part.norm) else ""
    )
    return (
        f"{_name(step)}: not finite at step {int(part.failed)}: {names}{before}; lower its step sizes, or look "
        "for a loss that is not finite at the start."
    )
