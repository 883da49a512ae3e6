"""The programs of docs/credit.md run, one after the other as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import toolkit as tk

PAGE = Path(__file__).parents[1] / "docs" / "credit.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def typed() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    return names


def test_the_network_learns(typed: dict[str, Any]) -> None:
    assert float(typed["info"].status) == 0 and len(BLOCKS) == 7
    state, x, target = typed["state"], *typed["batch"]
    assert float(typed["loss"](typed["model"].apply(state.params, x), target).mean()) < 0.1


def test_alignment_is_measured_for_every_seed(typed: dict[str, Any]) -> None:
    cosine = typed["aligned"].cosine
    assert cosine.shape == (3, 3)
    assert abs(cosine[:, -1] - 1).max() < 1e-5 and abs(cosine[:, 0]).max() < 0.95


def test_rules_and_devices_of_ones_own_can_be_compared(typed: dict[str, Any]) -> None:
    rules = {
        "sign": typed["sign_of_the_error"],
        "leaky": tk.credit.DirectFeedbackAlignment(typed["Leaky"]()),
    }
    arguments = (typed["model"], typed["loss"], typed["params"], typed["batch"])
    rows = tk.credit.compare(*arguments, rules, typed["key"]).to_rows()
    assert [row["layer"] for row in rows] == [0, 1, 2] * 2
    assert all(0 < row["cosine"] < 1 for row in rows[:3])


def test_a_mismatched_chip_learns_in_place(typed: dict[str, Any]) -> None:
    losses = typed["losses"]
    assert losses[-1] < 0.05 * losses[0]


def test_every_rule_is_on_the_page() -> None:
    text = PAGE.read_text()
    rules = [n for n in tk.credit.__all__ if hasattr(getattr(tk.credit, n), "predict")]
    assert len(rules) >= 12 and [name for name in rules if f"`{name}(" not in text] == []
