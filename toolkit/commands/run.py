"""`toolkit run`: start a run, or continue the unfinished one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from toolkit.commands.arguments import add_config
from toolkit.run.experiment.output_path import out


def add(parser: ArgumentParser) -> None:
    add_config(parser)
    default = "run directory (default: runs/<config name>-<number>)"
    parser.add_argument("--out", type=out, metavar="DIR", help=default)


def run(arguments: Namespace) -> int:
    """Makes a run, and returns its exit code."""
    from toolkit.run.drive import runs

    return runs.run(arguments.config, arguments.overrides, arguments.out, arguments.line)
