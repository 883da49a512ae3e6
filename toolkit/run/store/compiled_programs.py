"""Compiled programs, kept in the run's folder: a resumed run, and the next one of a sweep, need not compile again.

JAX keeps them, one a file, and runs what it finds there. But a run directory may come from anybody. So an entry
is used only as long as it is the very file that a run has written here: the same inode, time of change and
bytes. The kernel sets the time of change, so no copy and no archive can bring it along; their entries are
removed and compiled again. This also finds entries that were damaged or are half written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from toolkit.run.store import environment, files, sweeps

FOLDER, SEALS = "cache", "seals.jsonl"
ENTRY = "-cache"  # ends the name of an entry
LARGEST = 1 << 30  # bytes of an entry
ROOM = 256 << 20  # bytes that have to be free: checkpoints need the last ones
# Programs from 0 seconds of compiling and 0 bytes on: a run has many small ones, which add up.
SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    # XLA's own caches would be set by the options of the compiler, and those decide bits.
    "jax_persistent_cache_enable_xla_caches": "none",
}
DIRECTORY = "jax_compilation_cache_dir"
TAG = "Signature: 8a477f597d28d172789f06886806bc55\n"  # programs that make backups leave such folders out
LOGGING = "TF_CPP_MIN_LOG_LEVEL"

Seal = dict[str, Any]


def quiet() -> None:
    """Must run before jax is imported: XLA of jax 0.10 prints pages of errors on loading what it has saved itself."""
    if str(environment.version_of("jaxlib")).startswith("0.10."):
        os.environ.setdefault(LOGGING, "3")


@contextlib.contextmanager
def kept(run: Path) -> Iterator[Callable[[], None]]:
    """Within the block programs are compiled by way of the cache in the folder of `run`, or of its sweep.

    A cache that the user has chosen (`JAX_COMPILATION_CACHE_DIR`) is left alone. Nothing that is wrong with
    the cache ends a run.

    Gives the function that seals what was compiled so far; at the end of the block it is called once more.
    """
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    folder = _folder(run)
    if getattr(jax.config, DIRECTORY) is not None or not _opened(folder):
        yield lambda: None
        return
    wanted = {**SETTINGS, DIRECTORY: str(folder)}
    before = {name: getattr(jax.config, name) for name in wanted}
    sealed = {name for name, _ in _entries(folder)}

    def seal() -> None:
        with contextlib.suppress(OSError):
            _seal(folder, sealed)

    def set_all(values: dict[str, Any]) -> None:
        for name, value in values.items():
            jax.config.update(name, value)
        reset_cache()  # jax asks for its directory only once

    set_all(wanted)
    try:
        with warnings.catch_warnings():
            # Of an entry that another run of the sweep is just writing.
            message = "Error (reading|writing) persistent compilation cache entry"
            warnings.filterwarnings("ignore", message)
            yield seal
    finally:
        set_all(before)
        seal()


def _folder(run: Path) -> Path:
    """The cache for a run on this machine: another one needs another program, even where jax thinks it does not."""
    above = run.absolute().parent
    shared = (above / sweeps.RECORD).is_file()
    machine = {**environment.machine(), "platform": platform.machine()}
    digest = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()
    return (above if shared else run.absolute()) / FOLDER / digest[:12]


def _opened(folder: Path) -> bool:
    """Makes the folder, and removes what is not sealed. False where there can be no cache."""
    # Written to stderr while a program is loaded, see `quiet`.
    loud = str(environment.version_of("jaxlib")).startswith("0.10.")
    if loud and os.environ.get(LOGGING) != "3":
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A link would lead out of the run directory.
        if folder.is_symlink() or folder.parent.is_symlink() or files.free_bytes(folder) < ROOM:
            return False
        (folder.parent / "CACHEDIR.TAG").write_text(TAG)
        seals = _read(folder / SEALS)
        for name, path in _entries(folder):
            if name not in seals or _described(path) != seals[name]:
                path.unlink()
    except OSError:
        return False
    return True


def _entries(folder: Path) -> list[tuple[str, Path]]:
    return [(path.name, path) for path in folder.iterdir() if path.name.endswith(ENTRY)]


def _read(path: Path) -> dict[str, Seal]:
    """The seals by the name of the entry, the last one of each; none where the file cannot be read."""
    seals: dict[str, Seal] = {}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        for line in files.read_regular(path, LARGEST).splitlines():
            seal = json.loads(line)
            seals[str(seal.pop("name"))] = seal
    return seals


def _seal(folder: Path, sealed: set[str]) -> None:
    """Appends a line for each entry that is not `sealed`. Several runs of a sweep may do so at once."""
    for name, path in _entries(folder):
        if name in sealed:
            continue
        found = _described(path)
        if found is not None:
            line = json.dumps({"name": name, **found}) + "\n"
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            with open(files.open_regular(folder / SEALS, flags), "ab", buffering=0) as file:
                file.write(line.encode())
            sealed.add(name)


def _described(path: Path) -> Seal | None:
    """What a copy cannot have in common with the file, and its bytes. None where it is gone."""
    try:
        with open(files.open_regular(path, os.O_RDONLY), "rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    return {"inode": status.st_ino, "changed": status.st_ctime_ns, "sha256": digest}
