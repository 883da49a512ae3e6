"""The blocks of docs/debugging.md print what the page says; to each its lines are those of a file `train.py`."""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "debugging.md"
FILE = "train.py"
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n^```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    code: str
    printed: str


PREAMBLE, *BLOCKS = [Block(found[1], found[2] or "") for found in _BLOCK.finditer(PAGE.read_text())]


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block_prints_what_the_page_says(
    block: Block, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = block.code.splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, FILE, (len(block.code), None, lines, FILE))
    scope: dict = {}
    with jax.enable_x64(False):  # as a reader's session has it
        exec(PREAMBLE.code, scope)
        exec(compile(block.code, FILE, "exec"), scope)

    assert capsys.readouterr().out == block.printed
