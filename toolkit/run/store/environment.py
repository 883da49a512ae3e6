"""What determines a run's bits besides its config: recorded at its start, compared on resume."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from toolkit.run.experiment import heard
from toolkit.run.experiment import sources as experiment_sources

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax")
# XLA and OpenBLAS divide a sum among their threads, so the number of threads decides the last bits. Fixed
# numbers make machines agree. Whoever wants more threads sets these variables; the record of the run says so.
THREADS = {"NPROC": "4", "OPENBLAS_NUM_THREADS": "1"}
PACKAGE = Path(__file__).parents[2]
CODE_OF_PACKAGE = (".py", ".html", ".js")  # pages of a run are made of the last two
EXPERIMENT = "experiment_sha256"
CODE, READ = (
    "code/",
    "read/",
)  # begin the names of a module that it imports and of a file that it reads


def pin_threads() -> None:
    """Fixes the thread counts that change bits, where the user has not. Must run before jax is imported."""
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)


def sources(experiment: Path) -> dict[str, str]:
    """Hashes of the code that runs, once the experiment is loaded; cheap, no jax."""
    modules = {CODE + name: digest for name, digest in heard.modules(experiment).items()}
    own = experiment_hash(experiment, lambda path: heard.ran(path) or file_hash(path))
    return {EXPERIMENT: own, "toolkit_sha256": _package_hash(), **modules}


def code_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a recorded environment says of the user's own code."""
    return {
        key: value for key, value in record.items() if key == EXPERIMENT or key.startswith(CODE)
    }


def experiment_hash(experiment: Path, hash_of: Callable[[Path], str] | None = None) -> str:
    """A hash of the experiment's file and of the files beside it that it consists of, as they are now."""
    hashes = [(hash_of or file_hash)(path) for path in experiment_sources.files(experiment)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def record(experiment: Path) -> dict[str, Any]:
    """Everything that must be equal for a resumed run to continue bit for bit.

    Call it once the experiment is loaded: an experiment may set jax's options.
    """
    import jax

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        **{name: version_of(name) for name in PACKAGES},
        "toolkit": version_of("toolkit-jax"),
        **user_files(experiment),
        "platform": platform.platform(),
        "cpu_flags_sha256": _cpu_flags_hash(),
        "cpus": _cpus(),
        "NPROC": os.environ.get("NPROC"),
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS"),
        "x64": _option("jax_enable_x64"),
        "matmul_precision": _option("jax_default_matmul_precision"),
        "prng_impl": str(_option("jax_default_prng_impl")),
        "threefry_partitionable": _option("jax_threefry_partitionable"),
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
    }


def machine() -> dict[str, Any]:
    """What decides, besides a program itself, to what it is compiled; without starting jax's backend."""
    return {
        **{name: version_of(name) for name in ("jax", "jaxlib")},
        "cpu_flags_sha256": _cpu_flags_hash(),
        "cpus": _cpus(),
        **{name: os.environ.get(name) for name in (*THREADS, "OMP_NUM_THREADS", "XLA_FLAGS")},
    }


def user_files(experiment: Path) -> dict[str, str]:
    """The files of the user that the experiment has run and read so far."""
    return sources(experiment) | {READ + name: said for name, said in heard.inputs().items()}


def code_state() -> dict[str, Any]:
    """The working directory's git commit, and whether tracked files differ from it; None outside git.

    This is for people and is not compared on resume. A commit may change only a text, and the hashes in
    `record` say what code runs.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def differences(
    then: Mapping[str, Any], now: Mapping[str, Any], wrote: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, with their values then and now; a missing one is None.

    Args:
        wrote: files that the run made itself. It may read them later, as a cache of what it computed.
    """
    now = {**now, **_again(then, now)}
    new = {READ + name for name in wrote} - then.keys()
    names = [
        name
        for name in {**then, **now}
        if (name in then, then.get(name)) != (name in now, now.get(name)) and name not in new
    ]
    # What was read comes last: data that the experiment declares say it with the name that it gave them.
    names.sort(key=lambda name: name.startswith(READ))
    return {name: (then.get(name), now.get(name)) for name in names}


def same_code(then: Mapping[str, Any], experiment: Path) -> bool:
    """Whether the user's code and ours are as a record says, modules that a run imports later included."""
    now = sources(experiment)
    return not differences({k: v for k, v in then.items() if k in now or k.startswith(CODE)}, now)


def _again(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """The recorded files of the user as they are on disk: modules that are not imported yet, and what was read."""
    found = {
        name: heard.description(name.removeprefix(CODE), "a hash")
        for name in then
        if name.startswith(CODE) and name not in now
    }
    read = [name for name in then if name.startswith(READ)]
    return found | {
        name: heard.description(name.removeprefix(READ), str(then[name])) for name in read
    }


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _option(name: str) -> Any:
    import jax

    return getattr(jax.config, name)  # jax adds its options at run time: no type checker knows them


def _package_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in PACKAGE.rglob("*") if p.suffix in CODE_OF_PACKAGE):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0{file_hash(path)}\n".encode())
    return digest.hexdigest()


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_flags_hash() -> str | None:
    """Hash of the instruction set's flags; None where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()


def _cpus() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
