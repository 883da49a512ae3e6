"""The blocks of docs/debugging.md print what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "debugging.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n^```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    code: str  # after as many empty lines as keep its lines where they stand
    printed: str


def blocks() -> list[Block]:
    text = PAGE.read_text()
    return [
        Block("\n" * text[: found.start(1)].count("\n") + found[1], found[2] or "")
        for found in _BLOCK.finditer(text)
    ]


PREAMBLE, *BLOCKS = blocks()


def printed(block: Block, capsys: pytest.CaptureFixture[str]) -> str:
    scope: dict = {}
    with jax.enable_x64(False):  # as a reader's session has it
        exec(PREAMBLE.code, scope)
        exec(compile(block.code, str(PAGE), "exec"), scope)
    return capsys.readouterr().out


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block_prints_what_the_page_says(
    block: Block, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PAGE.parents[1])

    assert printed(block, capsys) == block.printed
