"""A mistake at a public function is told in at most 12 lines, with the shapes and the user's line."""

from __future__ import annotations

import linecache
import os
import subprocess
import sys
import traceback
from pathlib import Path

import jax
import pytest

from tests.errors import mistakes
from tests.errors.mistakes import HEAD, SHAPES, Mistake, loss

ROOT = Path(__file__).parents[2]


def printed(tmp_path: Path, program: str) -> tuple[Exception | None, str]:
    """The error of a program, and what the interpreter would print for it as a script."""
    path = tmp_path / "script.py"
    path.write_text(HEAD + program + "\n")
    linecache.checkcache(str(path))
    try:
        with jax.enable_x64(False):  # as a user's session has it
            exec(compile(path.read_text(), path, "exec"), {"__name__": "__main__"})
    except Exception as error:
        error.__traceback__ = error.__traceback__.tb_next  # this function's own frame
        return error, "".join(traceback.format_exception(error)).rstrip()
    return None, ""


def told_in_twelve_lines(mistake: Mistake, tmp_path: Path) -> None:
    error, text = printed(tmp_path, mistake.program)
    assert isinstance(error, mistake.error)
    for fragment in mistake.said:
        assert fragment in text
    assert len(text.splitlines()) <= 12
    assert f"{ROOT / 'toolkit'}{os.sep}" not in text
    assert f"jax{os.sep}_src" not in text


def each(table: list[Mistake]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("mistake", table, ids=lambda mistake: mistake.name)


@each(mistakes.RETURNED)
def test_what_a_function_returns(mistake: Mistake, tmp_path: Path) -> None:
    told_in_twelve_lines(mistake, tmp_path)


@each(mistakes.SHAPES_AND_TYPES)
def test_shapes_and_types(mistake: Mistake, tmp_path: Path) -> None:
    told_in_twelve_lines(mistake, tmp_path)


@each(mistakes.TREES)
def test_trees(mistake: Mistake, tmp_path: Path) -> None:
    told_in_twelve_lines(mistake, tmp_path)


@each(mistakes.ROLES)
def test_what_stands_where_something_else_belongs(mistake: Mistake, tmp_path: Path) -> None:
    told_in_twelve_lines(mistake, tmp_path)


@each(mistakes.TRACED)
def test_traced_values(mistake: Mistake, tmp_path: Path) -> None:
    told_in_twelve_lines(mistake, tmp_path)


def test_the_interpreter_prints_the_same(tmp_path: Path) -> None:
    """Its own printer is another program than `traceback`'s."""
    mistake = next(
        one for one in mistakes.SHAPES_AND_TYPES if one.name == "matrix product in a helper"
    )
    script = tmp_path / "script.py"
    script.write_text(HEAD + mistake.program)
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    shown = run.stderr[run.stderr.index("Traceback") :].rstrip()
    assert run.returncode == 1
    assert len(shown.splitlines()) <= 12
    assert "    return X @ w\n           ~~^~~" in shown
    for fragment in mistake.said:
        assert fragment in shown


def test_what_jax_transforms_has_two_lines_of_jax_more(tmp_path: Path) -> None:
    program = loss('return jnp.sum(jnp.ones((7, 4)) @ y["w"])', call="solve = tk.argmin(loss, GD)")
    program += "\njax.grad(lambda theta: solve(y0, theta).value['w'][0])(theta)"
    error, text = printed(tmp_path, program)
    assert isinstance(error, TypeError)
    assert SHAPES in text
    assert text.count("JAX_TRACEBACK_FILTERING=off") == 1  # JAX says it itself
    assert f"{ROOT / 'toolkit'}{os.sep}" not in text
