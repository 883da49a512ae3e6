"""The pairs of docs/control_flow.md: both sides give the same, and what the page says of refusals holds."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "control_flow.md"
PREAMBLE, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
SECTIONS = re.findall(r"^### (\d+)\..*?$(.*?)(?=^##)", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def _normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _spd(n: int) -> jax.Array:
    m = _normal(0, n, n)
    return m @ m.T + n * jnp.eye(n, dtype=jnp.float32)


def _gru_params() -> dict[str, jax.Array]:
    return {name: _normal(n, 9, 5) for n, name in enumerate(("gate", "reset", "new"))} | {
        "out": _normal(3, 5, 2)
    }


# Step sizes of which the last is good enough, of which some only lower the loss, of which none does.
ENOUGH = jnp.asarray([1.0, 0.16, 0.01], jnp.float32)
BETTER = jnp.asarray([0.25, 0.16, 0.17], jnp.float32)
NONE = jnp.asarray([1.0, 0.5], jnp.float32)
START = jnp.asarray([2.0, 0.3], jnp.float32)
SLOPE = 4 * START * (START**2 - 1)
# The arguments of each function, and whether the gradient by the first is compared, too.
CALLS: dict[str, tuple[list[tuple[Any, ...]], bool]] = {
    "horner": ([(jnp.float32(0.7), _normal(0, 6))], True),
    "trend": ([(_normal(0, 30), jnp.float32(0.2))], True),
    "kepler": ([(jnp.float32(m), jnp.float32(0.6)) for m in (0.3, 2.0)], False),
    "largest_eigenvalue": ([(_spd(4),), (_spd(30),)], True),
    "trust_region": (
        [
            tuple(jnp.float32(v) for v in (1.0, d, 0.5, s))
            for d in (0.1, 0.5, 0.9)
            for s in (0.2, 0.5)
        ],
        False,
    ),
    "gauss_seidel": ([(_spd(5), _normal(1, 5))], True),
    "gru": ([(_gru_params(), _normal(9, 7, 4))], True),
    "loss_after_training": ([(jnp.float32(-3.0), _normal(0, 20, 4), _normal(1, 20))], True),
    "edit_distance": ([(jnp.asarray([1, 2, 3, 3]), jnp.asarray([2, 3, 1, 3, 4]))], False),
    "line_search": ([(START, SLOPE, rates) for rates in (ENOUGH, BETTER, NONE)], False),
}


def _defined(code: str, path: Path) -> tuple[str, Any]:
    """The function of a block, imported from a file: `@tk.control_flow` reads its source."""
    path.write_text(PREAMBLE + code)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (name,) = re.findall(r"^def (\w+)", code, re.MULTILINE)
    return name, getattr(module, name)


def test_the_page_has_ten_pairs() -> None:
    assert [int(number) for number, _ in SECTIONS] == list(range(1, 11))


@pytest.mark.parametrize("number", [number for number, _ in SECTIONS])
def test_both_sides_give_the_same(number: str, tmp_path: Path) -> None:
    before, after = re.findall(r"```python\n(.*?)```", dict(SECTIONS)[number], re.DOTALL)
    assert "@tk.control_flow" in after
    assert "@tk.control_flow" not in before
    assert not re.search(r"\b(lax|jax\.checkpoint)\b", after)
    with jax.enable_x64(False):  # as a reader's session has it
        name, by_hand = _defined(before, tmp_path / "before.py")
        same_name, plain = _defined(after, tmp_path / "after.py")
        assert name == same_name
        calls, has_gradient = CALLS[name]
        for arguments in calls:
            _assert_same(jax.jit(plain)(*arguments), jax.jit(by_hand)(*arguments))
            if has_gradient:
                _assert_same(_gradient(plain, arguments), _gradient(by_hand, arguments))


def _gradient(function: Any, arguments: tuple[Any, ...]) -> Any:
    total = lambda *given: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(function(*given)))
    return jax.jit(jax.grad(total))(*arguments)


def _assert_same(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.all(np.isfinite(b))
        # float32, and XLA may add up either program in another order.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
