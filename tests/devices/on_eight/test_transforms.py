"""Rows of docs/transforms.json, filled again; the slow test of `tests/test_transforms.py` fills them all."""

from __future__ import annotations

import jax
import pytest

from benchmarks.transforms import table


@pytest.mark.parametrize("path", ["tk.adjoint.Stopped", "tk.linear.CG", "tk.credit.Backprop"])
def test_a_row_is_that_of_today(path):
    filtering = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        cells = table.filled(path)
    finally:
        jax.config.update("jax_traceback_filtering", filtering)
    assert table.differences({path: cells}, {path: table.written()[path]}) == []


def test_a_wrong_number_is_no_cell(monkeypatch):
    from benchmarks.transforms.columns import Program, Truth

    wrong = Program(lambda theta: theta.sum(), exact=lambda theta: 2.0 * theta.sum())
    with pytest.raises(table.Fault, match=r"tk\.f, grad: WrongNumber: gradient"):
        table.cell("tk.f", "grad", wrong, Truth(wrong))
    of_jax = Program(
        lambda theta: jax.lax.while_loop(lambda t: t[0] < 1, lambda t: t + 1, theta).sum()
    )
    with pytest.raises(table.Fault, match=r"tk\.f, grad: ValueError: Reverse-mode"):
        table.cell("tk.f", "grad", of_jax, Truth(of_jax))
