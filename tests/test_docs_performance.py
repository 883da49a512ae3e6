"""The code of docs/performance.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import jax

PAGE = Path(__file__).parents[1] / "docs/performance.md"


def test_python_blocks_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        with jax.enable_x64(False):
            exec(compile(block, str(PAGE), "exec"), {})
