"""`toolkit resume`: continue a run from its newest checkpoint."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from toolkit.commands.arguments import add_run_directory


def add(parser: ArgumentParser) -> None:
    add_run_directory(parser)
    what = "to spread the run over something else, with --allow-drift"
    parser.add_argument("overrides", nargs="*", metavar="devices.KEY=VALUE", help=what)
    drift = "continue in a changed environment, rows marked"
    parser.add_argument("--allow-drift", action="store_true", help=drift)


def run(arguments: Namespace) -> int:
    """Continues a run to its end, and returns the exit code."""
    from toolkit.run.drive import runs

    return runs.resume(
        arguments.directory, arguments.overrides, arguments.allow_drift, arguments.line
    )
