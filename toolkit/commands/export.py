"""`toolkit export`: the rows of runs or sweeps for other programs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from toolkit.run.experiment.output_path import out


def add(parser: ArgumentParser) -> None:
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--format", required=True, metavar="csv|tensorboard")
    default = "default: the terminal, or the folder tensorboard"
    parser.add_argument("--out", type=out, metavar="PATH", help=default)


def run(arguments: Namespace) -> int:
    """Writes the rows to the terminal, a file or a folder. Returns the exit code."""
    from toolkit.run.report.several import export_rows

    return export_rows.export(arguments.directories, arguments.format, arguments.out)
