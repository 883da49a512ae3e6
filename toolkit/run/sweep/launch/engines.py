"""The engine of a name: a `launch(commands, options, stop)`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from toolkit.run.drive.signals import StopRequest
from toolkit.run.sweep.launch.command_line import Command, Outcome
from toolkit.run.sweep.launch.options import Options


class Engine(Protocol):
    """Executes the commands in any order, and gives each outcome as soon as it is there.

    Once `stop.number` is set, it starts nothing more, has what runs save and leave, and ends.
    """

    def __call__(
        self, commands: Sequence[Command], options: Options, stop: StopRequest
    ) -> Iterator[Outcome]: ...


def engine(name: str) -> Engine:
    """The engine of a checked name; its packages are imported only here."""
    if name == "dask":
        from toolkit.run.sweep.launch.dask import launch
    elif name == "ray":
        from toolkit.run.sweep.launch.ray import launch
    elif name == "slurm":
        from toolkit.run.sweep.launch.slurm import launch
    else:
        from toolkit.run.sweep.launch.local import launch
    return launch
