"""What the command line may say about an engine, judged before anything starts."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec

from toolkit.run.experiment.errors import Exit, fail, nearest, shown

CLUSTERS = ("slurm", "local")
TIME = re.compile(r"(?:(?P<d>\d+)-)?(?P<a>\d+)(?::(?P<b>\d+))?(?::(?P<c>\d+))?", re.ASCII)
NEEDS = {
    "local": None,
    "dask": "distributed",
    "ray": "ray",
    "slurm": "submitit",
}  # package of the extra
TAKES = {
    "local": ("jobs",),
    "dask": ("jobs", "address"),
    "ray": ("jobs", "address", "devices"),
    "slurm": ("jobs", "partition", "time", "devices", "cluster"),
}


@dataclass(frozen=True)
class Options:
    """What the command line says about an engine; None is the engine's own choice."""

    jobs: int | None = None  # runs at once
    address: str | None = None  # of a running Dask scheduler or Ray head
    partition: str | None = None  # of SLURM
    time: str | None = None  # limit a run, as SLURM writes it: minutes, H:MM:SS, D-HH:MM
    devices: int | None = None  # accelerators a run
    cluster: str | None = None  # `local` tries submitit without SLURM


def names() -> tuple[str, ...]:
    return tuple(field.name for field in fields(Options))


def check(name: str, options: Options) -> None:
    """Raises: RunError (exit 2) for an unknown engine, an option it does not take, or a missing extra."""
    if name not in NEEDS:
        expected = f"one of {', '.join(NEEDS)}"
        raise fail(Exit.CONFIG, "--engine", "unknown", shown(name), expected, nearest(name, NEEDS))
    for option, value in asdict(options).items():
        if value is not None and option not in TAKES[name]:
            expected = f"those of the engine {name}, {', '.join(f'--{o}' for o in TAKES[name])}"
            raise fail(Exit.CONFIG, f"--{option}", "has no meaning here", shown(value), expected)
    for option in ("jobs", "devices"):
        value = getattr(options, option)
        if value is not None and value < 1:
            raise fail(Exit.CONFIG, f"--{option}", "wrong value", shown(value), "at least 1")
    package = NEEDS[name]
    if package is not None and find_spec(package) is None:
        expected = f'pip install "toolkit-jax[{name}]"'
        raise fail(
            Exit.CONFIG,
            f"--engine {name}",
            f"needs the package {package}",
            "no such package",
            expected,
        )
    if name == "slurm":
        _check_slurm(options)


def minutes(text: str) -> int:
    """SLURM's times: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    match = TIME.fullmatch(text.strip())
    if match is None:
        expected = "minutes, MM:SS, HH:MM:SS or D-HH[:MM[:SS]]"
        raise fail(Exit.CONFIG, "--time", "wrong value", shown(text), expected)
    a, b, c = (int(match[name] or 0) for name in "abc")
    if match["d"] is not None:
        seconds = ((int(match["d"]) * 24 + a) * 60 + b) * 60 + c
    elif match["c"] is not None:
        seconds = (a * 60 + b) * 60 + c
    else:
        seconds = a * 60 + b
    if seconds == 0:
        raise fail(Exit.CONFIG, "--time", "wrong value", shown(text), "more than 0")
    return -(-seconds // 60)


def _check_slurm(options: Options) -> None:
    if options.cluster not in (None, *CLUSTERS):
        raise fail(
            Exit.CONFIG, "--cluster", "unknown", shown(options.cluster), " or ".join(CLUSTERS)
        )
    minutes(options.time or "1")
    if options.cluster != "local" and shutil.which("sbatch") is None:
        expected = "a machine that submits jobs, or --cluster local to try it without SLURM"
        raise fail(Exit.CONFIG, "--engine slurm", "no SLURM here", "no command sbatch", expected)
