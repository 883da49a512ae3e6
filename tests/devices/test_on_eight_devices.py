"""The tests in `on_eight/`, in one process with eight virtual devices.

With eight devices the bits of every test and the times of every compilation are others, so the rest of the
suite has one. To run one of these tests by hand:

    XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest tests/devices/on_eight -k mean
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.devices.conftest import FLAG

HERE = Path(__file__).parent


def run(marked: str) -> None:
    """Run the tests of `on_eight/` that are marked so; a failure shows pytest's report of them."""
    # The arguments of an outer pytest are not for the inner one, nor is its place among xdist's workers.
    environment = {name: held for name, held in os.environ.items() if "PYTEST" not in name}
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {FLAG}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-m", marked, str(HERE / "on_eight")],
        cwd=HERE.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout


@pytest.mark.skipif(FLAG in os.environ.get("XLA_FLAGS", ""), reason="on_eight/ runs right here")
def test_on_eight_devices() -> None:
    run("not slow")


@pytest.mark.slow
@pytest.mark.skipif(FLAG in os.environ.get("XLA_FLAGS", ""), reason="on_eight/ runs right here")
def test_on_eight_devices_at_length() -> None:
    run("slow")
