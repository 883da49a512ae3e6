"""`toolkit explain`: which line made a run not finite."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from toolkit.commands.arguments import add_run_directory


def add(parser: ArgumentParser) -> None:
    add_run_directory(parser)


def run(arguments: Namespace) -> int:
    """Prints which line made a run not finite. Returns the exit code."""
    from toolkit.run.store import environment

    # The numbers of threads change bits and are read when jax is imported, which the next line does.
    environment.pin_threads()
    from toolkit.run.drive import why_not_finite

    return why_not_finite.explain(arguments.directory)
