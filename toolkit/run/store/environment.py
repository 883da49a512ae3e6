"""What determines a run's bits besides its config: recorded at its start, compared on resume."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from toolkit.run.experiment import sources as experiment_sources

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax")
# XLA and OpenBLAS divide a sum among their threads, so the number of threads decides the last bits. Fixed
# numbers make machines agree. Whoever wants more threads sets these variables; the record of the run says so.
THREADS = {"NPROC": "4", "OPENBLAS_NUM_THREADS": "1"}
PACKAGE = Path(__file__).parents[2]


def pin_threads() -> None:
    """Fixes the thread counts that change bits, where the user has not. Must run before jax is imported."""
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)


def sources(experiment: Path) -> dict[str, str]:
    """Hashes of the code that runs; cheap, no jax."""
    return {"experiment_sha256": experiment_hash(experiment), "toolkit_sha256": _package_hash()}


def experiment_hash(experiment: Path) -> str:
    """A hash of the experiment's file and of the files beside it that it consists of."""
    hashes = [file_hash(path) for path in experiment_sources.files(experiment)]
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
        **sources(experiment),
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


def code_state() -> dict[str, Any]:
    """The working directory's git commit, and whether tracked files differ from it; None outside git.

    This is for people and is not compared on resume. A commit may change only a text, and the hashes in
    `record` say what code runs.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of the fields that differ, a missing one included."""
    absent = object()
    return [name for name in {**then, **now} if then.get(name, absent) != now.get(name, absent)]


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _option(name: str) -> Any:
    import jax

    return getattr(jax.config, name)  # jax adds its options at run time: no type checker knows them


def _package_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".html")):
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
