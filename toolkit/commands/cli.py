"""The command line: argument parsing, and failures as one line with an exit code. The work is in `toolkit.run`.

Each command imports what it needs, so that `--help` and config errors answer before jax could even load.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from toolkit.run.experiment.errors import Exit, RunError, fail, nearest, printable, shown
from toolkit.run.experiment.output import mute, say

COMMANDS = (
    "run", "resume", "sweep", "explain", "check", "describe", "audit", "report", "export", "list",
    "doctor", "schema",
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise fail(
            Exit.CONFIG,
            self.prog,
            message,
            "these words",
            f"`{self.prog} --help` to list what there is",
        )


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code and never raises."""
    words = sys.argv[1:] if words is None else list(words)
    show_traceback = "--traceback" in words
    try:
        return int(_dispatch([word for word in words if word != "--traceback"]))
    except RunError as error:
        if show_traceback:
            traceback.print_exception(error)
        say("\n".join(error.lines()), sys.stderr)
        return int(error.code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `toolkit list | head`
        mute(sys.stdout)
        return int(Exit.DONE)
    except SystemExit as done:  # argparse, after --help
        return int(done.code or 0)
    except Exception as error:
        if show_traceback:
            traceback.print_exception(error)
        say(printable(_bug(error)), sys.stderr)
        return int(Exit.BUG)


def _dispatch(words: list[str]) -> int:
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        near = nearest(words[0], COMMANDS)
        raise fail(
            Exit.CONFIG,
            "toolkit",
            "no such command",
            shown(words[0]),
            f"one of {', '.join(COMMANDS)}",
            near,
        )
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)
    unknown = [word for word in rest if word.startswith("-") or "overrides" not in arguments]
    if unknown:
        expected = f"`toolkit {arguments.command or ''} --help` to list what there is".replace(
            "  ", " "
        )
        raise fail(Exit.CONFIG, "toolkit", "unknown words", shown(" ".join(unknown)), expected)
    if rest:  # overrides after an option, which argparse leaves over
        arguments.overrides += rest
    if arguments.command is None:
        parser.print_help()
        return Exit.CONFIG
    arguments.words = shlex.join(["toolkit", *words])
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": _run,
        "resume": _resume,
        "sweep": _sweep,
        "explain": _explain,
        "check": _check,
        "describe": _describe,
        "audit": _audit,
        "report": _report,
        "export": _export,
        "list": _list,
        "doctor": _doctor,
        "schema": _schema,
    }
    return commands[arguments.command](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="toolkit",
        description="Bilevel optimization in JAX: run, resume and report experiments.",
        epilog="Failures are one line and an exit code; --traceback, with any command, adds Python's traceback.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser(
        "run", help="start a run, or continue the unfinished one", allow_abbrev=False
    )
    _add_config(run)
    run.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="run directory (default: runs/<config name>-<number>)",
    )

    resume = commands.add_parser(
        "resume", help="continue a run from its newest checkpoint", allow_abbrev=False
    )
    resume.add_argument("directory", type=Path, metavar="RUN_DIR")
    resume.add_argument(
        "--allow-drift", action="store_true", help="continue in a changed environment, rows marked"
    )

    _add_sweep(
        commands.add_parser(
            "sweep",
            help="run every combination of settings, or what is missing of it",
            allow_abbrev=False,
        )
    )

    explain = commands.add_parser(
        "explain", help="which line made a run not finite", allow_abbrev=False
    )
    explain.add_argument("directory", type=Path, metavar="RUN_DIR")

    _add_config(
        commands.add_parser(
            "check",
            help="validate a config, and try two steps, a save and a load",
            allow_abbrev=False,
        )
    )

    _add_config(
        commands.add_parser(
            "describe",
            help="the parts of a config's experiment: shapes, sizes, FLOPs, where defined",
            allow_abbrev=False,
        )
    )

    _add_config(
        commands.add_parser(
            "audit",
            help="list the numbers in a program that its config does not supply",
            allow_abbrev=False,
        )
    )

    report = commands.add_parser(
        "report", help="draw the page of a run, or of several or a sweep side by side"
    )
    report.add_argument("directories", type=Path, nargs="+", metavar="RUN_DIR")
    report.add_argument(
        "--out", type=Path, metavar="FILE.html", help="default: report.html in the run directory"
    )

    export = commands.add_parser("export", help="the rows of runs or sweeps for other programs")
    export.add_argument("directories", type=Path, nargs="+", metavar="DIR")
    export.add_argument("--format", required=True, metavar="csv|tensorboard")
    export.add_argument(
        "--out", type=Path, metavar="PATH", help="default: the terminal, or the folder tensorboard"
    )

    listing = commands.add_parser("list", help="what a config may name, with fields and defaults")
    listing.add_argument(
        "family", nargs="?", metavar="adjoints|solvers|linear_solvers|optimizers|experiments"
    )

    commands.add_parser("doctor", help="versions, devices, and a check for known miscompilation")

    schema = commands.add_parser("schema", help="JSON schema of a config, for editors")
    schema.add_argument(
        "config",
        type=Path,
        nargs="?",
        metavar="CONFIG.yaml",
        help="default: what all configs share",
    )
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. steps=100 adjoint.kind=unroll"
    )


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.epilog = (
        "key=a,b,c lists values, key=0:5 is the range 0 1 2 3 4, key=value holds for all runs."
    )
    option = parser.add_argument
    option("--out", type=Path, metavar="DIR", help="default: runs/<config name>-sweep-<number>")
    option(
        "--seeds-together",
        action="store_true",
        help="seed=0:5 as one program: on all cores, or by vmap on accelerators",
    )
    option("--engine", default="local", metavar="local|dask|ray|slurm", help="where the runs go")
    option(
        "--jobs", type=int, metavar="N", help="runs at once (default: what the engine has room for)"
    )
    option("--address", metavar="A", help="dask, ray: a cluster that is running")
    option("--partition", metavar="P", help="slurm")
    option(
        "--time", metavar="T", help="slurm: limit of a run, minutes or H:MM:SS (default: 1 hour)"
    )
    option("--devices", type=int, metavar="D", help="slurm, ray: accelerators for each run")
    option("--cluster", metavar="slurm|local", help="slurm: local tries submitit on this machine")


def _run(arguments: argparse.Namespace) -> int:
    from toolkit.run.drive import runs

    return runs.run(arguments.config, arguments.overrides, arguments.out, arguments.words)


def _resume(arguments: argparse.Namespace) -> int:
    from toolkit.run.drive import runs

    return runs.resume(arguments.directory, arguments.allow_drift, arguments.words)


def _sweep(arguments: argparse.Namespace) -> int:
    from toolkit.run import sweep
    from toolkit.run.sweep.launch.options import Options, names

    options = Options(**{name: getattr(arguments, name) for name in names()})
    words = arguments.config, arguments.overrides, arguments.out, arguments.engine
    return sweep.command(*words, options, arguments.words, arguments.seeds_together)


def _explain(arguments: argparse.Namespace) -> int:
    from toolkit.run.store import environment

    environment.pin_threads()  # before jax, which the next line imports
    from toolkit.run.drive import explain

    return explain.command(arguments.directory)


def _check(arguments: argparse.Namespace) -> int:
    from toolkit.commands import check

    return check.check(arguments.config, arguments.overrides)


def _describe(arguments: argparse.Namespace) -> int:
    from toolkit.commands import describe

    return describe.command(arguments.config, arguments.overrides)


def _audit(arguments: argparse.Namespace) -> int:
    from toolkit.run.store import environment

    environment.pin_threads()  # before jax, which the next line imports
    from toolkit.commands import audit

    return audit.command(arguments.config, arguments.overrides)


def _report(arguments: argparse.Namespace) -> int:
    from toolkit.run import report

    return report.command(arguments.directories, arguments.out)


def _export(arguments: argparse.Namespace) -> int:
    from toolkit.run.report import export

    return export.command(arguments.directories, arguments.format, arguments.out)


def _list(arguments: argparse.Namespace) -> int:
    from toolkit import catalogue
    from toolkit.commands import listing

    return listing.list_names(catalogue.FAMILIES, arguments.family)


def _doctor(_: argparse.Namespace) -> int:
    from toolkit.commands import doctor

    return doctor.command()


def _schema(arguments: argparse.Namespace) -> int:
    from toolkit import catalogue
    from toolkit.commands import listing

    return listing.schema(catalogue.FAMILIES, arguments.config)


def _bug(error: Exception) -> str:
    """A bug of ours in one line: what was raised, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    reason = str(error).partition("\n")[0][:300]
    got = f"{type(error).__name__}: {reason} at {place}"
    return f"error: toolkit: internal error, got {got}, expected none; please report it with --traceback"
