"""`toolkit sweep`: run every combination of settings, or what is missing of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from toolkit.commands.arguments import add_config
from toolkit.run.experiment.output_path import out


def add(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.epilog = (
        "key=a,b,c lists values, key=0:5 is the range 0 1 2 3 4, key=value holds for all runs."
    )
    option = parser.add_argument
    option("--out", type=out, metavar="DIR", help="default: runs/<config name>-sweep-<number>")
    option(
        "--seeds-together",
        action="store_true",
        help="seed=0:5 as one program: on all cores, or by vmap on accelerators",
    )
    option("--engine", default="local", metavar="local|dask|ray|slurm", help="where the runs go")
    room = "runs at once (default: what the engine has room for)"
    option("--jobs", type=int, metavar="N", help=room)
    option("--address", metavar="A", help="dask, ray: a cluster that is running")
    option("--partition", metavar="P", help="slurm")
    limit = "slurm: limit of a run, minutes or H:MM:SS (default: 1 hour)"
    option("--time", metavar="T", help=limit)
    option("--devices", type=int, metavar="D", help="slurm, ray: accelerators for each run")
    option("--cluster", metavar="slurm|local", help="slurm: local tries submitit on this machine")


def run(arguments: Namespace) -> int:
    """Makes the runs that are missing, and returns the exit code of the sweep."""
    from toolkit.run.sweep import run_sweep
    from toolkit.run.sweep.launch.options import Options, names

    options = Options(**{name: getattr(arguments, name) for name in names()})
    words = arguments.config, arguments.overrides, arguments.out, arguments.engine
    return run_sweep.sweep(*words, options, arguments.line, arguments.seeds_together)
