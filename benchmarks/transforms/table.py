"""The table: filled, written as JSON and as a page, and compared with what is written.

A cell is `works`, or the first words of an error that the toolkit raises itself. A wrong number, or an error that
JAX raises instead of us, is a fault, which no cell can hold.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import jax

from benchmarks.transforms.columns import COLUMNS, Program, Truth
from benchmarks.transforms.rows import programs

DOCS = Path(__file__).parents[2] / "docs"
WORKS, WORDS = "works", 12
TOOLKIT = str(Path(__file__).parents[2] / "toolkit")
HEAD = """# Which transformation works with what

Every public function in a small program, under each transformation of JAX: **works**, or the error that it is refused
with. Made by `python -m benchmarks transforms`, which compares each number in float64: values with those of the plain
call, derivatives with a closed form, or with finite differences where there is none. There is no third state: an error
of JAX's own or a wrong number ends the command. `--check` compares the page with what is computed now.

`second_order` is reverse mode over reverse mode; `vmap`, `pmap`, `shard_map` (8 devices, its default checks) and
`checkpoint` are of the value and, where there is one, the gradient; `scan` and `control_flow` are loops whose sum is
differentiated, the latter in plain Python with `jax.checkpoint` around a step. Linear solvers are called directly; in
`tk.adjoint.Implicit` all of them serve every mode that it has. Learning rules and bilevel methods are differentiated
through: through a gradient that a rule gives, and through two steps of a method.

"""

Cells = dict[str, dict[str, str]]  # by path, by column


class Fault(Exception):
    """A cell that is neither right nor refused."""


def filled(path: str) -> dict[str, str]:
    """The cells of a row. Raises: Fault: the first one that is neither right nor refused."""
    program = programs()[path]
    truth = Truth(program)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = {column: cell(path, column, program, truth) for column in COLUMNS}
    jax.clear_caches()
    return cells


def cell(path: str, column: str, program: Program, truth: Truth) -> str:
    """What a cell says. Raises: Fault."""
    try:
        COLUMNS[column](program, truth)
    except Exception as error:
        if not _raised_by_us(error):
            raise Fault(f"{path}, {column}: {type(error).__name__}: {error}") from error
        words = str(error).replace("\n", " ").split()
        more = " …" if len(words) > WORDS else ""
        return f"{type(error).__name__}: {' '.join(words[:WORDS])}{more}"
    return WORKS


def _raised_by_us(error: BaseException) -> bool:
    """Whether the innermost frame of an error is the toolkit's. JAX's filter of tracebacks must be off."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_code.co_filename.startswith(TOOLKIT)


def written() -> Cells:
    """The rows of docs/transforms.json."""
    return json.loads((DOCS / "transforms.json").read_text())["rows"]


def write(rows: Cells) -> None:
    """docs/transforms.json and docs/transforms.md."""
    found = {"columns": list(COLUMNS), "rows": rows}
    (DOCS / "transforms.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (DOCS / "transforms.md").write_text(HEAD + page(rows))


def page(rows: Cells) -> str:
    """Markdown: a table in which an error is a number, and the errors by their numbers."""
    errors: dict[str, int] = {}
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---|" + ":-:|" * len(COLUMNS)]
    for path, cells in rows.items():
        marks = [
            WORKS
            if cells[name] == WORKS
            else f"[{errors.setdefault(cells[name], len(errors) + 1)}]"
            for name in COLUMNS
        ]
        lines.append(f"| `{path}` | {' | '.join(marks)} |")
    told = [f"{number}. `{text}`" for text, number in errors.items()]
    return "\n".join([*lines, "", *told]) + "\n"


def differences(found: Cells, expected: Cells) -> list[str]:
    """A line for each cell that is another one."""
    nothing = "no such cell"
    return [
        f"{path}, {column}: {found.get(path, {}).get(column, nothing)}; written: "
        f"{expected.get(path, {}).get(column, nothing)}"
        for path in {**found, **expected}
        for column in COLUMNS
        if found.get(path, {}).get(column) != expected.get(path, {}).get(column)
    ]
