"""`python -m benchmarks transforms`, in a process of its own: in float64, on eight virtual devices."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

FLAG = "--xla_force_host_platform_device_count=8"


def start(words: Sequence[str]) -> int:
    """The command, in a process that has what the table needs before JAX starts. Returns its exit code."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}"
    needs = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    needs["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # 650 programs are compiled, and each runs once
    command = [sys.executable, "-m", "benchmarks.transforms", *words]
    return subprocess.run(command, env=os.environ | needs, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks transforms")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; 1 where a cell differs"
    )
    parser.add_argument("--rows", nargs="*", metavar="PATH", help="these alone; default: all")
    arguments = parser.parse_args()
    import jax

    jax.config.update(
        "jax_traceback_filtering", "off"
    )  # which frame raised is told by the traceback
    from benchmarks.transforms import table
    from benchmarks.transforms.rows import programs

    known = programs()
    chosen = list(known) if arguments.rows is None else arguments.rows
    if unknown := set(chosen) - set(known):
        parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    old = table.written() if (table.DOCS / "transforms.json").exists() else {}
    rows = {path: old[path] for path in known if path in old and path not in chosen}
    faults = 0
    for path in chosen:
        try:
            rows[path] = table.filled(path)
            print(path, *(f"\n    {n}: {said}" for n, said in rows[path].items()), flush=True)
        except table.Fault as fault:
            print(f"neither right nor refused: {fault}", file=sys.stderr, flush=True)
            faults += 1
    if faults:
        return 1
    rows = {path: rows[path] for path in known if path in rows}
    if not arguments.check:
        table.write(rows)
        return 0
    for line in (found := table.differences(rows, old)):
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
