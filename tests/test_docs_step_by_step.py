"""The programs of docs/step_by_step.md run, one after the other as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "step_by_step.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_programs_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    assert len(BLOCKS) == 6
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[0] == "1" and [line.split()[0] for line in said[-3:]] == [
        "100",
        "200",
        "300",
    ]
    exact = np.linalg.solve(
        names["A"].T @ names["A"] / 200 + np.exp(-2.0) * np.eye(5), names["A"].T @ names["b"] / 200
    )
    np.testing.assert_allclose(names["last"].y, exact, atol=1e-4)
