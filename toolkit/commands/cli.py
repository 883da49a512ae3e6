"""The command line: finds the command that is asked for, and turns failures into one line and an exit code.

A command's module is imported when it is asked for, and imports what is slow to load (pydantic, jax) when it
runs. So `--help` and usage errors answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from toolkit.run.experiment.errors import (
    Exit,
    RunError,
    fail,
    nearest,
    printable,
    refused_by_system,
    shown,
)
from toolkit.run.experiment.output import flush, forgive, mute, say

COMMANDS = {  # what `toolkit --help` says of each; its module has the same name
    "run": "start a run, or continue the unfinished one",
    "resume": "continue a run from its newest checkpoint",
    "sweep": "run every combination of settings, or what is missing of it",
    "explain": "which line made a run not finite",
    "check": "validate a config, and try two steps, a save and a load, the end and the figures",
    "describe": "the parts of a config's experiment: shapes, sizes, FLOPs, where defined",
    "lower": "the step for a TPU or a GPU that is not here: FLOPs, memory, collectives",
    "audit": "list the numbers in a program that its config does not supply",
    "report": "draw the page of a run, or of several or a sweep side by side",
    "export": "the rows of runs or sweeps for other programs",
    "list": "what a config may name, with fields and defaults",
    "doctor": "versions, devices, and a check for known miscompilation",
    "schema": "JSON schema of a config, for editors",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        help_ = f"`{self.prog} --help` to list what there is"
        raise fail(Exit.CONFIG, self.prog, message, "these words", help_)


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code and never raises."""
    for stream in (sys.stdout, sys.stderr):
        forgive(stream)
    code = _answered(sys.argv[1:] if words is None else list(words))
    # Here, and not when Python ends, which would answer a full disk with a code of its own.
    try:
        flush(sys.stdout)
    except OSError as error:
        return code or _refused_by_system(error, "the terminal")
    return code


def _answered(words: list[str]) -> int:
    show_traceback = "--traceback" in words
    try:
        return int(_dispatch([word for word in words if word != "--traceback"]))
    except RunError as error:
        if show_traceback:
            traceback.print_exception(error)
        say(str(error), sys.stderr)
        return int(error.code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `toolkit list | head`
        mute(sys.stdout)
        return int(Exit.DONE)
    except SystemExit as done:  # argparse, after --help
        return int(done.code or 0)
    except OSError as error:  # what no place closer to it has explained
        if show_traceback:
            traceback.print_exception(error)
        return _refused_by_system(error, "the system")
    except Exception as error:
        if show_traceback:
            traceback.print_exception(error)
        say(printable(_bug(error)), sys.stderr)
        return int(Exit.BUG)


def _refused_by_system(error: OSError, where: str) -> int:
    say(str(refused_by_system(error, where)), sys.stderr)
    return int(Exit.STORAGE)


def _dispatch(words: list[str]) -> int:
    for word in words:
        # Python spells bytes that are not UTF-8 as surrogates, which no file of a run can hold.
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise fail(Exit.CONFIG, "toolkit", "not UTF-8", shown(word), "words in UTF-8")
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        expected, near = f"one of {', '.join(COMMANDS)}", nearest(words[0], COMMANDS)
        raise fail(Exit.CONFIG, "toolkit", "no such command", shown(words[0]), expected, near)
    parser = _parser(next((word for word in words if word in COMMANDS), None))
    arguments, rest = parser.parse_known_args(words)
    unknown = [word for word in rest if word.startswith("-") or "overrides" not in arguments]
    if unknown:
        help_ = " ".join(filter(None, ("toolkit", arguments.command, "--help")))
        expected = f"`{help_}` to list what there is"
        raise fail(Exit.CONFIG, "toolkit", "unknown words", shown(" ".join(unknown)), expected)
    # argparse takes positional words only up to the first option, and returns overrides behind it as unknown.
    if rest:
        arguments.overrides += rest
    if arguments.command is None:
        parser.print_help()
        return Exit.CONFIG
    arguments.line = shlex.join(["toolkit", *words])  # for the record of a run
    return arguments.run(arguments)


def _parser(command: str | None) -> argparse.ArgumentParser:
    """A parser that knows all commands by name, but the options of `command` alone.

    The options of the others are not needed, and to declare them would import their modules.
    """
    parser = _Parser(
        prog="toolkit",
        description="Bilevel optimization in JAX: run, resume and report experiments.",
        epilog="Failures are one line and an exit code; --traceback, with any command, adds Python's traceback.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, summary in COMMANDS.items():
        words = commands.add_parser(name, help=summary, allow_abbrev=False)
        if name == command:
            module = importlib.import_module(f"toolkit.commands.{name}")
            module.add(words)
            words.set_defaults(run=module.run)
    return parser


def _bug(error: Exception) -> str:
    """A bug of ours in one line: what was raised, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    reason = str(error).partition("\n")[0][:300]
    got = f"{type(error).__name__}: {reason} at {place}"
    return f"error: toolkit: internal error, got {got}, expected none; please report it with --traceback"
