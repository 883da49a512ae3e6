"""What stands beside figures, and where they are kept: RESULTS.md."""

from __future__ import annotations

import datetime
import platform
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent
PACKAGES = ("jax", "jaxopt", "optimistix", "torch", "higher", "torchopt", "betty-ml", "fabricpc")


def machine(
    reference: str = "the contestant that the row's own is compared with, `hand` unless it says otherwise",
) -> str:
    """When, on what, and with which versions figures were measured, and how to read them."""
    today = datetime.date.today().isoformat()
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    found = [f"{name} {version(name)}" for name in PACKAGES if find_spec(name.split("-")[0])]
    return (
        f"{today}, one core of {cpu}, Python {platform.python_version()}, {', '.join(found)}; CPU time, medians of "
        f"paired turns; reference: {reference}."
    )


def write(name: str, text: str) -> None:
    """Replaces the suite's section of RESULTS.md, between its marks, or appends one."""
    path = FOLDER / "RESULTS.md"
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    section = f"{begin}\n{text}{end}\n"
    old = path.read_text()
    pattern = re.compile(f"{begin}.*?{end}\n", re.DOTALL)
    new = pattern.sub(lambda _: section, old) if begin in old else f"{old.rstrip()}\n\n{section}"
    path.write_text(new)
