"""Words that several commands take."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path


def add_config(parser: ArgumentParser) -> None:
    """A config and what to change in it."""
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. steps=100 adjoint.kind=unroll"
    )


def add_run_directory(parser: ArgumentParser) -> None:
    """A run that exists."""
    parser.add_argument("directory", type=Path, metavar="RUN_DIR")
