"""`iterate`: its records, its compilations, and what it refuses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.bilevel.methods import quadratic as q
from toolkit.bilevel import SOBA


def test_iterate_records_what_a_scan_would_and_compiles_once() -> None:
    traces = []

    def inner(y: Any, x: Any, batch: Any) -> Any:
        traces.append(1)
        return q.inner(y, x, batch)

    init, step = SOBA(0.2, 0.2, batch_size=2)(tk.bilevel.Problem(inner, q.outer, q.INNER, q.OUTER))
    state = init(jax.random.key(0), q.Y0, q.X0)
    expected, infos = jax.lax.scan(lambda s, _: step(s), state, length=12)
    traces.clear()
    half, first = tk.bilevel.iterate(step, state, 6, every=3, observe=lambda s: s.theta)
    once = len(traces)
    assert once > 0
    last, second = tk.bilevel.iterate(step, half, 6, every=3, observe=lambda s: s.theta)
    np.testing.assert_allclose(last.theta, expected.theta, rtol=1e-12)
    assert list(first.step) == [3, 6] and list(second.step) == [9, 12]
    assert list(first.info.gradient_evals) == [6, 12] == list(first.info.hvp_evals)
    np.testing.assert_allclose(
        second.info.gradient_norm, infos.gradient_norm[jnp.asarray([8, 11])], rtol=1e-12
    )
    np.testing.assert_allclose(second.observed[-1], last.theta, rtol=1e-12)
    traces.clear()
    tk.bilevel.iterate(step, last, 6, every=3)
    tk.bilevel.iterate(step, last, 6, every=3)
    assert len(traces) == once  # the same function: one more compilation, for another `observe`
    with pytest.raises(ValueError, match="`every` must divide `num_steps`: got 4 and 6"):
        tk.bilevel.iterate(step, last, 6, every=4)


def test_progress_is_told_at_most_twenty_times(capsys: pytest.CaptureFixture[str]) -> None:
    init, step = SOBA(0.2, 0.2)(tk.bilevel.Problem(q.inner, q.outer, q.INNER, q.OUTER))
    state = init(jax.random.key(0), q.Y0, q.X0)
    _, record = tk.bilevel.iterate(step, state, 50, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20 and lines[0].startswith("SOBA: 3/50, outer loss ")
    assert lines[-1] == f"SOBA: 50/50, outer loss {record.info.outer_loss[-1]:.4g}"
    tk.bilevel.iterate(step, state, 50)
    assert capsys.readouterr().err == ""
