"""The README's code runs, and does what the text around it says."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text()
# Empty lines before each block keep its lines where they stand: `@control_flow` reads the source.
BLOCKS = [
    "\n" * TEXT[: block.start(1)].count("\n") + block[1]
    for block in re.finditer(r"```python\n(.*?)```", TEXT, re.DOTALL)
]


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_run(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict = {}
    with jax.enable_x64(False):  # as a reader's session has it
        exec(compile(code, str(README), "exec"), scope)
    assert capsys.readouterr().out


def test_the_example_learns_which_features_are_noise() -> None:
    scope: dict = {}
    with jax.enable_x64(False):
        exec(compile(BLOCKS[0], str(README), "exec"), scope)
        theta, hg = scope["theta"], scope["hg"]
    assert int(hg.report.status) == 0
    assert jnp.max(theta[:2]) < jnp.min(theta[2:])
    first = scope["hypergradient"](jnp.zeros(8, jnp.float32), jnp.zeros(8, jnp.float32))
    assert hg.value < 0.2 * first.value


def test_paths_exist() -> None:
    root = README.parent
    for path in re.findall(
        r"`((?!experiments/NAME)(?:toolkit|tests|experiments|configs)/[\w/.]*)`", TEXT
    ):
        assert (root / path).exists(), path
    for path in re.findall(r"\]\(([\w/.]+)\)", TEXT):
        assert (root / path).exists(), path
