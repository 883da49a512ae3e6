"""Where a run goes: a new directory that no other start can take, or the unfinished run that it continues."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from toolkit.run.experiment import load
from toolkit.run.experiment.errors import Exit, RunError, fail, printable, shown
from toolkit.run.experiment.output import warn
from toolkit.run.store import birth, directory, environment


def place(
    name: str, loaded: load.Loaded, out: Path | None, alone: contextlib.ExitStack
) -> tuple[Path, directory.RunDirectory | None]:
    """Where the run goes, and the run that it continues there, held; None for a new one.

    The right to create a new one is held by `alone`. Without `out`, a place that another start takes at the
    same moment is left to it, and the next number is tried.

    Args:
        name: begins the name of a place that is found without `out`.
    """
    passed: list[Path] = []
    others: list[Path] = []
    while True:
        if out is None:
            target = _default(name, lambda at: _continues(at, loaded, others), passed)
        else:
            target = directory.target_of(out)
        directory.remove_leftovers(target)
        try:
            new = directory.is_free(target)
            if new:
                alone.enter_context(birth.alone(target))
            # Asked again: another process may have made the run before this one had the right to.
            if new and directory.is_free(target):
                _tell_others(others)
                return target, None
            if out is not None or not new:
                return target, directory.claim(target)
        except RunError as error:
            if out is not None or error.code is not Exit.OCCUPIED:
                raise
        alone.close()
        passed.append(target)


def refuse_other_config(place: directory.RunDirectory, loaded: load.Loaded) -> None:
    """Raises: RunError (exit 4) that names the first keys in which the directory's config differs."""
    old, new = load.fields(directory.read_config(place.path)), load.fields(loaded.resolved)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if keys:
        got = ", ".join(f"{key} {shown(new.get(key))}" for key in keys[:4])
        expected = ", ".join(f"{key} {shown(old.get(key))}" for key in keys[:4])
        what = "the directory holds a run of another config"
        raise fail(
            Exit.OCCUPIED,
            place.path,
            what,
            got,
            f"{expected} as in its config.yaml, or another --out",
        )


def _default(name: str, continues: Callable[[Path], bool], passed: Collection[Path]) -> Path:
    """`runs/NAME-N`: the unfinished run that `continues` accepts and nobody holds, else the next number.

    Args:
        passed: paths that other processes took in the meantime.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-")[:64] or "run"
    numbers = {}
    for entry in {*Path("runs").glob(f"{name}-*"), *passed}:
        number = entry.name.removeprefix(f"{name}-")
        if number.isascii() and number.isdigit():
            numbers[int(number)] = entry
    for _, entry in sorted(numbers.items(), reverse=True):
        if (
            entry not in passed
            and directory.is_run(entry)
            and not directory.in_use(entry)
            and continues(entry)
        ):
            return entry
    return Path("runs") / f"{name}-{max(numbers, default=0) + 1}"


def _continues(at: Path, loaded: load.Loaded, others: list[Path]) -> bool:
    """Whether an unnamed run should continue the one at `at`: unfinished, same config, same code.

    One that differs in its code alone joins `others`.
    """
    try:
        record = directory.read_record(at)
        same_config = directory.read_config(at) == loaded.resolved
    except RunError:
        return False
    if not same_config or record.get("status") == "finished":
        return False
    if environment.same_code(record.get("environment", {}), loaded.experiment):
        return True
    others.append(at)
    return False


def _tell_others(others: Sequence[Path]) -> None:
    """Names the newest unfinished run that an edit of the code keeps from being continued."""
    if others:
        what = "unfinished, with the same config and other code; this is a new run"
        remedy = f"`toolkit resume --allow-drift {others[0]}` continues that one"
        warn(printable(f"{others[0]}: {what}; {remedy}"))
