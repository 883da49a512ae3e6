"""`compare`: rules side by side, layer by layer."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import toolkit as tk
from tests.networks import X, half_squares, network, targets

KEY = jax.random.key(0)
C = tk.credit
MODEL = network()
KEYS = [
    "rule",
    "layer",
    "cosine",
    "norm_ratio",
    "loss",
    "seconds",
    "seconds_ratio",
    "temp_bytes",
    "temp_bytes_ratio",
    "sweeps",
    "residual",
    "status",
    "reason",
]


def own(model: Any, loss: Any) -> Any:
    """A rule of one's own: the sign of the gradient."""
    _, gradients = C.Backprop()(model, loss)

    def signs(params: Any, state: Any, batch: Any, key: Any) -> Any:
        gradient, state, info = gradients(params, state, batch, key)
        return jax.tree.map(jnp.sign, gradient), state, info

    return lambda key, params, batch: (), signs


@pytest.fixture(scope="module")
def comparison() -> Any:
    rules = {
        "backprop": C.Backprop(),
        "short": C.EquilibriumPropagation(free_steps=2, nudged_steps=1),
        "photonic": C.DirectFeedbackAlignment(C.PhotonicProjection(0.1)),
        "few": C.PredictiveCoding(steps=1),
        "own <rule>": own,
        "broken": C.DirectFeedbackAlignment(Broken()),
    }
    return C.compare(MODEL, half_squares, MODEL.init(KEY, X), (X, targets(5)), rules, KEY)


class Broken:
    """A device that projects onto too few units."""

    def init(self, key: Any, num_errors: int, num_units: int, dtype: Any) -> Any:
        return ()

    def project(self, medium: Any, error: Any, key: Any) -> Any:
        return error


def test_rows(comparison: Any) -> None:
    rows = comparison.to_rows()
    assert all(list(row) == KEYS for row in rows)
    of = lambda name: [row for row in rows if row["rule"] == name]
    assert [row["layer"] for row in of("backprop")] == [0, 1, 2]
    assert all(
        abs(row["cosine"] - 1) < 1e-9 and abs(row["norm_ratio"] - 1) < 1e-9
        for row in of("backprop")
    )
    assert all(row["status"] == 0 and row["reason"] == "" for row in of("backprop"))
    assert all(0 < row["cosine"] < 1 for row in of("own <rule>"))
    (failed,) = of("broken")
    assert failed["layer"] is None and math.isnan(failed["cosine"])
    assert failed["reason"].startswith("`device` must project onto 11 units")


def test_illnesses_are_named(comparison: Any) -> None:
    reasons = {row["rule"]: row["reason"] for row in comparison.to_rows() if row["layer"] == 0}
    assert "INNER_NOT_CONVERGED; the gradient is 0: the rule has no signal here" in reasons["short"]
    assert "`threshold` 0.1 of PhotonicProjection is at most 1/classes" in reasons["photonic"]
    assert "`steps` 1 of PredictiveCoding is below the number of layers, 3" in reasons["few"]
    assert any(
        "scale of the feedback" in row["reason"]
        for row in comparison.to_rows()
        if row["rule"] == "own <rule>"
    )


def test_it_is_a_table_in_text_and_in_a_notebook(comparison: Any) -> None:
    lines = str(comparison).splitlines()
    assert lines[0].split()[:3] == ["rule", "layer", "cosine"] and len(lines) == 1 + 5 * 3 + 1
    assert lines[1].startswith("backprop") and "1.0000" in lines[1]
    page = comparison._repr_html_()
    assert page.count("<tr>") == len(lines) and "own &lt;rule&gt;" in page


def test_an_energy_without_layers_is_one_layer() -> None:
    energy = tk.energy.resistive([[0, 2], [1, 2], [2, 3], [0, 3]], [0, 1], [3])
    volts, target = jnp.asarray([[1.0, 0.2], [2.0, -1.0]]), jnp.asarray([[0.1], [0.4]])
    params = energy.init(KEY, volts)
    rules = {
        "ep": C.EquilibriumPropagation(beta=1e-3, free_steps=1, nudged_steps=3),
        "dual": C.DualPropagation(),
    }
    rows = C.compare(energy, half_squares, params, (volts, target), rules, KEY).to_rows()
    assert [row["layer"] for row in rows] == [0, None]
    assert rows[0]["cosine"] > 1 - 1e-6 and math.isnan(rows[0]["seconds_ratio"])
    assert "`model` must be layers" in rows[1]["reason"]
