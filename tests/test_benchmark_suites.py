"""What the benchmarks conclude from numbers, and what they claim of the library without a clock."""

from __future__ import annotations

from itertools import pairwise

import jax
import numpy as np
import pytest

import toolkit as tk
from benchmarks import scaling, scaling_plot
from benchmarks.suites import credit_gradients, credit_step, p6_accuracy
from toolkit import linear
from toolkit.adjoint import Implicit, Unroll

STEPS = np.array([10, 30, 100, 300, 1000, 3000])


@pytest.mark.parametrize(
    ("measured", "slope", "power"),
    [
        (5.0 * STEPS, 1.0, 1.0),
        (1e6 + 5e4 * STEPS**0.5, 0.2, 0.5),  # what grows is hidden under a constant at first
        (1e6 + 200.0 * STEPS, 0.06, 1.0),
        (np.full(6, 7.0), 0.0, None),
    ],
)
def test_exponents(measured: np.ndarray, slope: float, power: float | None) -> None:
    got = scaling.fit(STEPS.tolist(), measured.tolist())
    assert abs(got.slope - slope) < 0.02
    assert got.power is None if power is None else abs(got.power - power) < 0.011


def test_names_of_lines_do_not_cover_each_other() -> None:
    heights = {"a": 0.5, "b": 0.5, "c": 0.52, "d": 0.9, "e": 0.1}
    placed = scaling_plot._apart(heights)
    assert placed["d"] == 0.9 and placed["e"] == 0.1
    order = sorted(placed.values())
    assert min(b - a for a, b in pairwise(order)) >= scaling_plot.LABEL - 1e-9
    assert placed["b"] < placed["c"]


@pytest.mark.slow
def test_reports_on_digits_in_float32() -> None:
    """Row by row what P6 prints: a sound rule says so, and a rule that is far off says that."""
    truth = p6_accuracy.truths()
    with jax.enable_x64(False):
        unrolled = p6_accuracy.find(Unroll(), 100)
        assert p6_accuracy.relative_error(unrolled, truth.iterate[100]) < 2e-6

        sound = p6_accuracy.find(Implicit(linear.CG(100, 1e-6)), p6_accuracy.SOLVED)
        error = p6_accuracy.relative_error(sound, truth.solution)
        assert sound.issues == 0
        assert error < 2e-5 and error < sound.stated < 1e-3

        for rule in (linear.Neumann(20), linear.Neumann(20, 0.1)):
            found = p6_accuracy.find(Implicit(rule), p6_accuracy.SOLVED)
            assert p6_accuracy.relative_error(found, truth.solution) > 0.4
            assert found.issues == tk.Issue.LINEAR_NOT_CONVERGED and found.stated == np.inf


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hand", "toolkit"),
    [
        ("hand, dual", "toolkit, dual propagation"),
        ("hand, equilibrium", "toolkit, equilibrium propagation"),
    ],
)
def test_rules_by_hand_are_the_same_rules(hand: str, toolkit: str) -> None:
    """Gradient, loss and residual: no contestant is faster because it does less."""
    found = []
    for name in (hand, toolkit):
        function, arguments = credit_gradients.SUITE.entries[name].build()
        found.append(jax.jit(function)(*arguments))
    (gradient, loss, residual), (ours, _, info) = found
    # The weights are float32, as flax draws them; a gradient is the difference of two settled states.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 * abs(b).max()), gradient, ours
    )
    np.testing.assert_allclose([loss, residual], [info.loss, info.residual], rtol=1e-6)


@pytest.mark.slow
def test_a_step_by_hand_is_the_same_step() -> None:
    moments = []
    for name in ("hand", "toolkit"):
        function, arguments = credit_step.SUITE.entries[name].build()
        moments.append(jax.jit(function)(*arguments)[1][0].mu)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * abs(b).max()), *moments)
