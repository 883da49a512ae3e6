"""One process writes a run directory: of several starts one wins, and nobody ever has to remove a lock."""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.run.torture import kit


def run_together(words, count):
    """[(exit code, stderr)] of simultaneous processes, in the order in which they end."""
    processes, ended = [kit.start(*words) for _ in range(count)], []
    pids = [process.pid for process in processes]
    while len(ended) < count:
        for process in [p for p in processes if p.poll() is not None]:
            processes.remove(process)
            ended.append((process.returncode, process.communicate()[1]))
        time.sleep(0.01)
    return pids, ended


@pytest.mark.parametrize("times", [1, kit.full(10)])
def test_of_simultaneous_starts_one_wins(work, times):
    for number in range(times):
        out = f"fresh{number}/x"
        words = ("run", "stream.yaml", "steps=2000", "checkpoint_every=500", "log_every=100")
        pids, ended = run_together((*words, "--out", out), 4)
        assert sorted(code for code, _ in ended) == [0, 4, 4, 4], ended
        assert ended[-1][0] == 0  # the others are refused before they load jax, so they end first
        for code, err in ended:
            if code == 4:
                named = re.search(r"in use, got process (\d+) on (\S+?),", err)
                assert int(named[1]) in pids and named[2] == socket.gethostname(), err
                assert len(err.splitlines()) == 1
        assert not kit.temporaries(".")


@pytest.mark.slow
def test_a_living_run_is_not_resumed_and_a_killed_one_needs_no_unlocking(work):
    words = ("run", "stream.yaml", "steps=200000", "checkpoint_every=50", "--out", "x")
    process = kit.start(*words)
    assert kit.wait_until(lambda: kit.steps_logged("x") > 60, process)
    for again in (("resume", "x"), words):
        code, _, err = kit.finish(*again)
        assert code == 4
        assert f"error: x: in use, got process {process.pid} on {socket.gethostname()}" in err
    process.send_signal(signal.SIGKILL)
    process.communicate()
    goal = kit.steps_logged("x") + 100
    other = kit.start("resume", "x")
    assert kit.wait_until(lambda: kit.steps_logged("x") > goal, other)
    other.send_signal(signal.SIGTERM)
    other.communicate()
    assert other.returncode == 143


def test_a_finished_directory_does_not_change(toolkit, finished):
    def everything():
        return {
            str(p): (p.stat().st_mtime_ns, p.stat().st_size)
            for p in sorted(Path("whole").rglob("*"))
        }

    before = everything()
    for words in (("resume", "whole"), ("run", "stream.yaml", "steps=40", "--out", "whole")):
        code, _, err = toolkit(*words)
        assert (code, len(err)) == (4, 1)
        assert "the run is finished" in err[0]
    assert everything() == before


def test_a_start_that_fails_leaves_nothing(toolkit, work):
    source = work / "experiments/stream.py"
    source.write_text(source.read_text().replace("def init(key):", "def init(key):\n        1 / 0"))
    assert toolkit("run", "stream.yaml", "--out", "deep/er/x")[0] == 2
    assert toolkit("run", "stream.yaml", "stepz=1", "--out", "deep/er/x")[0] == 2
    assert not Path("deep").exists()


def test_a_lock_without_its_process_is_no_lock(toolkit, finished, work):
    Path(".x.tmp-lock").write_text('{"pid": 1, "host": "elsewhere"}')
    from tests.run.torture.conftest import SHORT

    assert toolkit("run", "stream.yaml", *SHORT, "--out", "x")[0] == 0
    assert kit.result("x") == finished
    assert not kit.temporaries(".")
