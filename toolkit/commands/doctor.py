"""`toolkit doctor`: installed and pinned versions, devices, and whether jax computes correctly."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from toolkit.run.experiment.errors import Exit, fail
from toolkit.run.experiment.output import warn
from toolkit.run.experiment.words import two_columns
from toolkit.run.store import environment

PACKAGE = Path(__file__).parents[1]
# Where the pinned versions stand in an installed wheel, and in a checkout.
PINS = (PACKAGE / "constraints.txt", PACKAGE.parent / "constraints.txt")
ROWS = 40_000  # the error of jax 0.10.2 shows only with so many rows


def add(_: ArgumentParser) -> None:
    """Takes no words."""


def run(_: Namespace) -> int:
    """Prints the environment and runs the canary. Raises: RunError (exit 7) if numbers come out wrong."""
    environment.pin_threads()
    import jax

    record = environment.record(Path(__file__))
    hidden = ("experiment_sha256", "toolkit_sha256", "cpu_flags_sha256")
    rows = [(name, str(value)) for name, value in record.items() if name not in hidden]
    rows.append(("devices", ", ".join(map(str, jax.devices()))))
    if os.environ.get("JAX_PLATFORMS"):
        rows.append(("JAX_PLATFORMS", os.environ["JAX_PLATFORMS"]))
    print(two_columns(rows))
    _tell_versions()
    _tell_internals()
    wrong = canary()
    if wrong:
        release = f"jax {jax.__version__}"
        expected = "none: install another release (0.10.2 is known to miscompile this on CPU)"
        raise fail(
            Exit.ENVIRONMENT, release, "wrong numbers", f"{wrong} of {ROWS} rows wrong", expected
        )
    print(f"canary: {ROWS} of {ROWS} rows right")
    return Exit.DONE


def _tell_versions() -> None:
    path = next((path for path in PINS if path.is_file()), None)
    if path is None:
        print("versions: no constraints.txt to compare with")
        return
    other, count = unpinned(path.read_text("utf-8"))
    for line in other:
        warn(line)
    print(f"versions: {count - len(other)} of {count} packages as pinned in {path.name}")


def _tell_internals() -> None:
    """Says what of JAX's internals has changed, and what that affects; about a second."""
    from toolkit.jaxprs.internals.known import INTERNALS, faults

    found = list(faults())
    for fault in found:
        warn(f"internals of jax: {fault}")
    kept = len(INTERNALS) - len(found)
    print(f"internals of jax: {kept} of {len(INTERNALS)} as this version of toolkit knows them")


def unpinned(constraints: str) -> tuple[list[str], int]:
    """A line for each package whose version is not the pinned one, and how many packages were compared."""
    from packaging.requirements import Requirement  # comes with matplotlib
    from packaging.version import Version

    other, count = [], 0
    for line in filter(None, (text.partition("#")[0].strip() for text in constraints.splitlines())):
        pin = Requirement(line)
        found = environment.version_of(pin.name)
        if found is None or (pin.marker is not None and not pin.marker.evaluate()):
            continue  # of an extra, or for another Python
        count += 1
        if not pin.specifier.contains(Version(found).public, prereleases=True):
            other.append(f"{pin.name}: installed {found}, pinned {pin.specifier}")
    return other, count


def canary() -> int:
    """How many of 40,000 squared norms `|M r|^2` this jax gets wrong, against NumPy in double precision."""
    import jax
    import numpy as np

    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((3, 3)).astype(np.float32)
    rows = generator.standard_normal((ROWS, 3)).astype(np.float32)
    norm = jax.jit(jax.vmap(lambda row: jax.numpy.sum((jax.numpy.asarray(matrix) @ row) ** 2)))
    expected = np.sum((rows.astype(np.float64) @ matrix.T.astype(np.float64)) ** 2, axis=1)
    # A device may multiply in bfloat16 or TF32, with errors of about 1e-2. Rows that were miscompiled are
    # wrong by as much as their own size, so a tolerance of 5e-2 tells the two apart.
    return int(np.sum(~np.isclose(np.asarray(norm(rows)), expected, rtol=5e-2, atol=1e-2)))
