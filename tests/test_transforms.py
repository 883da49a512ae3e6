"""docs/transforms.json: every public function has a row, and the page is made of it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import toolkit as tk
from benchmarks.transforms import table
from benchmarks.transforms.columns import COLUMNS
from benchmarks.transforms.rows import programs
from toolkit.vocabulary import roles

ROOT = Path(__file__).parents[1]
ROOMS = {
    "adjoints": "adjoint",
    "solvers": "solver",
    "linear_solvers": "linear",
    "bilevel_methods": "bilevel",
    "learning_rules": "credit",
}


def public():
    """The paths of all rules and functions."""
    rules = {
        f"tk.{room}.{cls.__name__}"
        for family, room in ROOMS.items()
        for cls in roles.family(family).values()
    }
    functions = {f"tk.{name}" for name in dir(tk) if inspect.isfunction(getattr(tk, name))}
    return rules | functions | {"tk.bilevel.AID", "tk.bilevel.ITD"}  # functions that return a rule


def test_every_public_function_has_a_row():
    assert set(programs()) == set(table.written()) == public()


def test_every_cell_works_or_names_an_error():
    found = json.loads((ROOT / "docs/transforms.json").read_text())
    assert found["columns"] == list(COLUMNS)
    for path, cells in found["rows"].items():
        assert list(cells) == found["columns"], path
        for said in cells.values():
            assert said == "works" or said.split(":")[0] in ("TypeError", "ValueError"), (
                path,
                said,
            )


def test_the_page_is_made_of_the_cells():
    assert (ROOT / "docs/transforms.md").read_text() == table.HEAD + table.page(table.written())


def test_another_cell_is_named():
    one, other = ({"tk.f": dict.fromkeys(COLUMNS, said)} for said in ("works", "TypeError: no"))
    assert table.differences(one, one) == []
    assert table.differences(one, {**one, "tk.f": {**one["tk.f"], "jvp": "TypeError: no"}}) == [
        "tk.f, jvp: works; written: TypeError: no"
    ]
    assert len(table.differences(one, other)) == len(table.differences(one, {})) == len(COLUMNS)


@pytest.mark.slow
def test_the_table_is_that_of_today():
    command = [sys.executable, "-m", "benchmarks", "transforms", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
