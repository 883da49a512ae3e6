"""Runs of several processes on this machine, over loopback: as one process, to rounding, and as safe."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.run.small_experiments import SPREAD
from toolkit.run.store import arrays, directory

ROOT = Path(__file__).parents[3]
CONFIG = "{experiment: spread, steps: 60, log_every: 5, checkpoint_every: 20}\n"
TWO = "devices.processes=2"
SLOW = "work=4000"  # about 0.1 s a step


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spread")
    (path / "experiments").mkdir()
    (path / "experiments" / "spread.py").write_text(SPREAD)
    (path / "config.yaml").write_text(CONFIG)
    return path


def start(here: Path, *words: str, devices: int = 1, **variables: str) -> subprocess.Popen[str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "toolkit", *words],
        cwd=here,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, (process.returncode, out[-1000:], err[-2000:])
    assert "Gloo" not in out
    return out, err


def run(here: Path, *words: str, code: int = 0, **options: Any) -> tuple[str, str]:
    return ended(start(here, "run", "config.yaml", *words, **options), code)


def final(path: Path) -> dict[str, np.ndarray]:
    data = (path / "final" / "params.safetensors").read_bytes()
    return arrays.decode(data, arrays.layout_of(data))


def rows(path: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in directory.read_rows(path)]


def record(path: Path) -> dict[str, Any]:
    return json.loads((path / "run.json").read_text())


def wait_for_step(path: Path, step: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with contextlib.suppress(Exception):
            if directory.read_rows(path)[-1]["step"] >= step:
                return
        time.sleep(0.05)
    raise AssertionError("no such row")


def children(pid: int) -> Iterator[int]:
    """All processes below one."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
            if parent == pid:
                yield int(entry.name)
                yield from children(int(entry.name))


def followers(launcher: subprocess.Popen[str], path: Path) -> list[int]:
    """Processes 1, 2, ... of a run: those with a number in their environment, but for the one that writes."""
    found = []
    for pid in children(launcher.pid):
        with contextlib.suppress(OSError):
            member = b"TOOLKIT_PROCESS=1 " in Path(f"/proc/{pid}/environ").read_bytes()
            tied = b"tied.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
            if member and not tied:
                found.append(pid)
    return found


def is_gone(pid: int) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.1)
    return False


def test_a_dead_process_ends_all_and_the_run_goes_on_to_the_bit(here: Path) -> None:
    whole, killed = here / "whole", here / "killed"
    run(here, TWO, SLOW, "--out", "whole")
    begun = start(here, "run", "config.yaml", TWO, SLOW, "--out", "killed")
    wait_for_step(killed, 25)
    (other,) = followers(begun, killed)
    os.kill(other, signal.SIGKILL)
    _, err = ended(begun, 128 + signal.SIGKILL)
    assert "process 1 of 2 ended with exit code 137" in err
    assert len(err.splitlines()) == 1
    assert record(killed)["status"] == "running"
    ended(start(here, "resume", "killed"))
    assert rows(killed) == rows(whole)
    for name, value in final(whole).items():
        np.testing.assert_array_equal(final(killed)[name], value)
    layout = {"processes": 2, "devices": 2, "mesh": {"data": 2}}
    assert record(whole)["layout"] == record(killed)["layout"] == layout
    assert json.loads((whole / "final" / "metrics.json").read_text())["mse"] < 1e-3


def test_words_that_make_no_layout_are_refused(here: Path) -> None:
    for words, said in (
        (
            (TWO, "devices.mesh={data: 1}"),
            'devices.mesh: 1 devices, got {"data": 1}, expected all 2',
        ),
        (("devices.mesh={data: 3}",), "mesh(data=3) needs 3 devices, there are 2"),
        (("devices.processes=auto",), "devices.processes: auto: no cluster found"),
        (("devices.mesh={data: 2}", "seeds=2"), "devices.mesh: with `seeds: 2`"),
    ):
        several = 1 if TWO in words else 2
        _, err = run(here, *words, "--out", "refused", code=2, devices=several)
        assert said in err and len(err.splitlines()) == 1, err
        assert not (here / "refused").exists()


@pytest.mark.slow
def test_another_layout_is_asked_for(here: Path) -> None:
    run(here, "--out", "alone")
    begun = start(here, "run", "config.yaml", TWO, SLOW, "--out", "moved")
    wait_for_step(here / "moved", 15)
    begun.send_signal(signal.SIGTERM)
    ended(begun, 128 + signal.SIGTERM)
    saved = record(here / "moved")
    assert saved["status"] == "stopped"
    _, err = ended(start(here, "resume", "moved", "devices.processes=1"), 7)
    assert "layout" in err and "--allow-drift" in err
    _, err = ended(start(here, "resume", "moved", "steps=3"), 2)
    assert "another config is another run" in err
    ended(start(here, "resume", "moved", "devices.processes=1", "--allow-drift"))
    assert record(here / "moved")["layout"] == saved["layout"]
    assert "layout" in record(here / "moved")["drift"]
    assert {row.get("drift") for row in directory.read_rows(here / "moved")} == {None, True}
    moved, alone = final(here / "moved"), final(here / "alone")
    np.testing.assert_allclose(moved["theta"], alone["theta"], rtol=1e-5)


@pytest.mark.slow
def test_devices_of_one_process_share_the_rows(here: Path) -> None:
    run(here, "--out", "one")
    run(here, "devices.mesh={data: -1}", "split=true", "--out", "eight", devices=8)
    assert record(here / "eight")["layout"] == {"processes": 1, "devices": 8, "mesh": {"data": 8}}
    np.testing.assert_allclose(
        final(here / "eight")["theta"], final(here / "one")["theta"], rtol=1e-5
    )
    assert (here / "eight" / "checkpoints" / "60" / "state.safetensors").exists()


def copied(here: Path, name: str, other: str) -> Path:
    shutil.copytree(here / name, here / other)
    return here / other


@pytest.mark.slow
def test_a_state_in_parts_moves_between_layouts_and_is_refused_where_a_byte_differs(
    here: Path,
) -> None:
    split = ("split=true", SLOW)
    run(here, TWO, *split, "--out", "parts")
    begun = start(here, "run", "config.yaml", TWO, *split, "--out", "halfway")
    wait_for_step(here / "halfway", 25)
    begun.send_signal(signal.SIGINT)
    ended(begun, 128 + signal.SIGINT)
    at = max(int(entry.name) for entry in (here / "halfway" / "checkpoints").iterdir())
    saved = here / "halfway" / "checkpoints" / str(at)
    assert not (saved / "state.safetensors").exists() and (saved / "state").is_dir()

    # By one process, and from there by two again.
    to_one = copied(here, "halfway", "to_one")
    begun = start(here, "resume", "to_one", "devices.processes=1", "--allow-drift")
    wait_for_step(to_one, at + 5)
    begun.send_signal(signal.SIGTERM)
    code = begun.wait(timeout=120)
    ended(begun, code)
    if code:
        ended(start(here, "resume", "to_one", "--allow-drift"))
    np.testing.assert_allclose(final(to_one)["theta"], final(here / "parts")["theta"], rtol=1e-5)

    # One flipped byte: the checkpoint is set aside, and the one before is taken.
    flipped = copied(here, "halfway", "flipped")
    damaged = flipped / "checkpoints" / str(at) / "state"
    largest = max((f for f in damaged.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    _, err = ended(start(here, "resume", "flipped"))
    assert "wrong checksum" in err and "set aside" in err
    for path in (flipped, copied(here, "halfway", "back")):
        if path != flipped:
            ended(start(here, "resume", path.name))
        assert rows(path) == rows(here / "parts")
        for name, value in final(here / "parts").items():
            np.testing.assert_array_equal(final(path)[name], value)


@pytest.mark.slow
def test_nan_ends_all_processes_and_one_explains_it(here: Path) -> None:
    _, err = run(here, TWO, "nan_at=33", "--out", "nan", code=6)
    assert "not finite" in err and "toolkit explain nan" in err
    assert record(here / "nan")["status"] == "failed"
    out, _ = ended(start(here, "explain", "nan"))
    assert "spread.py:" in out and "jnp.where(count == config.nan_at, jnp.nan, theta)" in out


@pytest.mark.slow
def test_no_process_outlives_the_one_that_started_it(here: Path) -> None:
    begun = start(here, "run", "config.yaml", TWO, SLOW, "--out", "orphans")
    wait_for_step(here / "orphans", 15)
    below = [*children(begun.pid)]
    assert len(below) == 4  # two processes, and what ties them to the first
    begun.kill()
    begun.wait()
    assert all(map(is_gone, below))
    assert record(here / "orphans")["status"] == "stopped"
    ended(start(here, "resume", "orphans"))


@pytest.mark.slow
def test_processes_that_a_cluster_starts(here: Path) -> None:
    job = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
    }
    words = ("run", "config.yaml", "devices.processes=auto", SLOW, "--out", "cluster")
    both = [start(here, *words, SLURM_PROCID=str(i), SLURM_LOCALID=str(i), **job) for i in range(2)]
    wait_for_step(here / "cluster", 15)
    # A scheduler may tell one machine alone that it will be taken away.
    both[1].send_signal(signal.SIGTERM)
    for one in both:
        ended(one, 128 + signal.SIGTERM)
    assert record(here / "cluster")["status"] == "stopped"
    assert record(here / "cluster")["layout"]["processes"] == 2
