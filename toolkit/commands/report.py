"""`toolkit report`: draw the page of a run again, or of several or a sweep side by side."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from toolkit.run.experiment.output_path import out


def add(parser: ArgumentParser) -> None:
    parser.add_argument("directories", type=Path, nargs="+", metavar="RUN_DIR")
    default = "default: report.html in the run directory"
    parser.add_argument("--out", type=out, metavar="FILE.html", help=default)


def run(arguments: Namespace) -> int:
    """Draws a page and prints its path. Returns the exit code.

    Raises: RunError: exit 8 if the runs miss a claim over several seeds.
    """
    from toolkit.run.report import redraw

    return redraw.redraw(arguments.directories, arguments.out)
