"""`@tk.control_flow` against Python itself, on whole programs of mixed types and effects.

A program gives what Python gives, its effects included, or it is refused with an error of ours. No other
error, and no other value, is allowed.
"""

from __future__ import annotations

import linecache
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.mixed import (
    ACTS,
    DEEDS,
    NUMBERS,
    RETURNS,
    TEXTS,
    Program,
    generate,
    outside,
    world,
)

FAST = {"xla_backend_optimization_level": 0}
REFUSALS = (tk.control.ControlFlowError, UnboundLocalError)
INPUTS = ((0.8, 3), (-0.6, 1))


class Outcome(NamedTuple):
    value: Any  # what the program returns, or the type of its error
    outside: Any  # what it has changed outside of itself


class Verdict(NamedTuple):
    kind: (
        str  # "same", "refused", "wrong", or "crashed" (an error that is neither Python's nor ours)
    )
    detail: str = ""


def load(program: Program) -> tuple[Any, dict[str, Any]]:
    file = f"<mixed {program.seed}>"
    lines = program.source.splitlines(keepends=True)
    linecache.cache[file] = (len(program.source), None, lines, file)
    space = world()
    exec(compile(program.source, file, "exec"), space)
    return space["f"], space


def as_python(program: Program, x: float, k: int) -> Outcome:
    f, space = load(program)
    try:
        value = f(jnp.float32(x), jnp.int32(k))
    except Exception as error:
        return Outcome(error, None)
    return Outcome(value, outside(space))


def compiled(program: Program) -> list[Outcome]:
    """One compilation for all inputs: its effects, too, are those of one trace."""
    f, space = load(program)
    f = tk.control_flow(f)
    fixed: list[Any] = []

    def run(x: Any, k: Any) -> Any:
        # Text and None are no results of a compiled program: they are the same for any data.
        leaves, structure = jax.tree.flatten(f(x, k), is_leaf=lambda leaf: leaf is None)
        arrays = [leaf for leaf in leaves if _is_number(leaf)]
        fixed[:] = [structure, [None if _is_number(leaf) else (leaf,) for leaf in leaves]]
        return [_widest(leaf) for leaf in arrays]

    go = jax.jit(run, compiler_options=FAST)
    found, left = [], None
    for x, k in INPUTS:
        arrays = iter(go(jnp.float32(x), jnp.int32(k)))
        left = left or outside(space)
        structure, texts = fixed
        leaves = [next(arrays) if one is None else one[0] for one in texts]
        found.append(Outcome(jax.tree.unflatten(structure, leaves), left))
    return found


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, (bool, int, float, np.generic, np.ndarray, jax.Array))


def _widest(leaf: Any) -> Any:
    # An integer that nothing traced has touched may be larger than that of an array.
    whole = isinstance(leaf, (int, np.integer))
    return np.float64(leaf) if whole and abs(leaf) >= 2**31 else leaf


def difference(expected: Any, got: Any) -> str:
    """Empty if both are the same: structure, kinds and values; dtypes where Python's value has one."""
    is_leaf = lambda leaf: leaf is None
    e_leaves, e_tree = jax.tree.flatten_with_path(expected, is_leaf=is_leaf)
    g_leaves, g_tree = jax.tree.flatten(got, is_leaf=is_leaf)
    if e_tree != g_tree:
        return f"structure: expected {e_tree}, got {g_tree}"
    for (path, e), g in zip(e_leaves, g_leaves, strict=True):
        if found := leaf_difference(e, g):
            return f"{jax.tree_util.keystr(path)}: {found}"
    return ""


def leaf_difference(e: Any, g: Any) -> str:
    if not _is_number(e) or not _is_number(g):
        return "" if type(e) is type(g) and e == g else f"expected {e!r}, got {g!r}"
    typed = hasattr(e, "dtype") and not getattr(e, "weak_type", False)
    e, g = np.asarray(e), np.asarray(g)
    # A Python float that a branch joins with a float32 (with 64 bits: a float64) is one, and so is what is
    # narrower beside it.
    wider = g.dtype in (np.float32, np.float64) and e.dtype.itemsize < g.dtype.itemsize
    joined = wider and e.dtype.kind not in "biu"
    if typed and e.dtype.itemsize <= 4 and e.dtype != g.dtype and not joined:
        return f"expected {e.dtype}, got {g.dtype}"
    large = e.dtype.kind in "iu" and np.any(np.abs(e.astype(float)) >= 2**31)
    # An int that is joined with a float is a float afterwards.
    kinds = {"b": ("b",), "i": ("i", "u", "f"), "u": ("i", "u")}.get(e.dtype.kind)
    if not large and kinds and g.dtype.kind not in kinds:
        return f"expected {e!r}, got {g!r}"
    # XLA rounds once where Python rounds after every operation, by up to 8e-3 in bfloat16. Two of these may
    # add up in a few operations; a wrong branch or a lost effect is off by whole numbers.
    narrow = e.dtype in (jnp.bfloat16, jnp.float16)
    same = e.shape == g.shape and np.allclose(
        e.astype(float), g.astype(float), rtol=2e-2 if narrow else 1e-4, atol=1e-5, equal_nan=True
    )
    return "" if same else f"expected {e!r}, got {g!r}"


def judge(program: Program) -> Verdict:
    expected = [as_python(program, x, k) for x, k in INPUTS]
    try:
        found = compiled(program)
    except REFUSALS as error:
        return Verdict("refused", str(error))
    except Exception as error:
        if any(type(error) is type(one.value) for one in expected):
            return Verdict("refused", f"as Python: {error!r}")
        return Verdict("crashed", f"{type(error).__name__}: {error}")
    for at, one, got in zip(INPUTS, expected, found, strict=True):
        if isinstance(one.value, Exception):
            return Verdict("wrong", f"at {at}: Python says {one.value!r}, got {got.value}")
        if wrong := difference(one, got):
            return Verdict("wrong", f"at {at}: {wrong}")
    return Verdict("same")


def report(program: Program, verdict: Verdict) -> str:
    lines = "\n".join(f"{n:3} {line}" for n, line in enumerate(program.source.splitlines(), 1))
    return f"program {program.seed}: {verdict.kind}: {verdict.detail}\n{lines}"


def survey(seeds: range) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for seed in seeds:
        program = generate(seed)
        verdict = judge(program)
        assert verdict.kind in ("same", "refused"), report(program, verdict)
        kinds[verdict.kind] += 1
    jax.clear_caches()
    return kinds


def test_programs_of_mixed_types_and_effects() -> None:
    kinds = survey(range(40))
    assert kinds["same"] >= 8, kinds


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_a_thousand_programs(start: int) -> None:
    kinds = survey(range(start, start + 100))
    assert kinds["same"] >= 20, kinds


def test_the_programs_hold_every_construct() -> None:
    found: Counter[str] = Counter()
    for seed in range(1000):
        found += Counter(set(generate(seed).constructs))
    tables = {"effect": {**ACTS, **DEEDS}, "number": NUMBERS, "text": TEXTS, "return": RETURNS}
    expected = {f"{kind}: {name}" for kind, table in tables.items() for name in table}
    assert not {name for name in expected if found[name] < 5}
    rare = {name for name, count in found.items() if count < 5}
    assert not rare and len(found) > len(expected) + 50
    assert generate(7) == generate(7)
