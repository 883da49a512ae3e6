"""`toolkit doctor`: what is installed, what it runs on, and whether it computes correctly."""

from __future__ import annotations

import os
from pathlib import Path

from toolkit.run import environment
from toolkit.run.errors import Exit, fail
from toolkit.run.progress import table

ROWS = 40_000  # the miscompiled loop needs this many to show


def command() -> int:
    """Prints the environment and runs the canary. Raises: RunError (exit 7) if numbers come out wrong."""
    environment.pin_threads()
    import jax

    record = environment.record(Path(__file__))
    hidden = ("experiment_sha256", "toolkit_sha256", "cpu_flags_sha256")
    rows = [(name, str(value)) for name, value in record.items() if name not in hidden]
    rows.append(("devices", ", ".join(map(str, jax.devices()))))
    if os.environ.get("JAX_PLATFORMS"):
        rows.append(("JAX_PLATFORMS", os.environ["JAX_PLATFORMS"]))
    print(table(tuple(rows)))
    wrong = canary()
    if wrong:
        release = f"jax {jax.__version__}"
        expected = "none: install another release (0.10.2 is known to miscompile this on CPU)"
        raise fail(
            Exit.ENVIRONMENT, release, "wrong numbers", f"{wrong} of {ROWS} rows wrong", expected
        )
    print(f"canary: {ROWS} of {ROWS} rows right")
    return Exit.DONE


def canary() -> int:
    """How many of 40,000 squared norms `|M r|^2` this jax gets wrong, against NumPy in double precision."""
    import jax
    import numpy as np

    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((3, 3)).astype(np.float32)
    rows = generator.standard_normal((ROWS, 3)).astype(np.float32)
    norm = jax.jit(jax.vmap(lambda row: jax.numpy.sum((jax.numpy.asarray(matrix) @ row) ** 2)))
    expected = np.sum((rows.astype(np.float64) @ matrix.T.astype(np.float64)) ** 2, axis=1)
    # A device may multiply in bfloat16 or TF32 (1e-2); the miscompiled rows are wrong by their own size.
    return int(np.sum(~np.isclose(np.asarray(norm(rows)), expected, rtol=5e-2, atol=1e-2)))
