"""The notebooks: executed as they stand in git, small, and the same again on eight devices."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ["clean_on_tpu", "hypergradients", "seeds_on_cores", "without_backprop"]
IN_CI = {"hypergradients"}  # the others take half a minute each


def _execute_module() -> Any:
    spec = importlib.util.spec_from_file_location("notebooks_execute", FOLDER / "execute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXECUTE = _execute_module()


def _read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_these_are_all() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_is_kept_as_it_was_executed(name: str) -> None:
    path, notebook = FOLDER / f"{name}.ipynb", _read(name)
    assert path.stat().st_size < 1_000_000
    nbformat.validate(notebook)
    # The outputs are those of this code: `python notebooks/execute.py` makes them again.
    assert notebook.metadata["executed"] == EXECUTE.digest(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert "text/html" in shown and "image/png" in shown
    assert "colab-badge.svg" in notebook.cells[0].source


@pytest.mark.parametrize("name", NAMES)
def test_its_cells_have_their_roles(name: str) -> None:
    cells = EXECUTE.code_of(_read(name))
    install, devices, *_, last = cells
    assert install.startswith('import sys\n\nif "google.colab" in sys.modules:\n    %pip install')
    assert "jax.device_count()" in devices and "print(" in devices
    checks = ast.parse(last).body
    assert len(checks) >= 2 and all(isinstance(node, ast.Assert) for node in checks)
    assert not any("JAX_PLATFORMS" in cell for cell in cells)


@pytest.mark.parametrize(
    "name", [n if n in IN_CI else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_it_runs_on_eight_devices(name: str, tmp_path: Path) -> None:
    notebook = EXECUTE.execute(FOLDER / f"{name}.ipynb", tmp_path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "cpu 8 cpu" in cells[1].outputs[0].text
