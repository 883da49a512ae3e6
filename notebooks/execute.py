"""Runs the notebooks and keeps their outputs:    python notebooks/execute.py [NAME.ipynb ...]

On 8 virtual devices of a CPU, as the outputs in git were made. A notebook in git says in its metadata which code its
outputs are of, so that a test can tell that they are not of an older one.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
DEVICES = "--xla_force_host_platform_device_count=8"
SECONDS = 180  # for a whole notebook


def code_of(notebook: Any) -> list[str]:
    """The sources of the code cells."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def digest(notebook: Any) -> str:
    """A hash of the code."""
    return hashlib.sha256("\n".join(code_of(notebook)).encode()).hexdigest()[:16]


def execute(path: Path, work: Path) -> Any:
    """The notebook with new outputs. `work`: the folder in which it runs."""
    notebook = nbformat.read(path, as_version=4)
    flags = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()
    environment = {**os.environ, "XLA_FLAGS": flags}
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(work)}},
    )
    client.execute(env=environment)
    return notebook


def tidied(notebook: Any) -> Any:
    """Without what differs from one execution to the next, and with the hash of its code."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "accelerator": "TPU",
        "colab": {"provenance": []},
        "executed": digest(notebook),
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    return notebook


def main(names: list[str]) -> None:
    import tempfile

    for path in [Path(name) for name in names] or sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as work:
            notebook = tidied(execute(path, Path(work)))
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
