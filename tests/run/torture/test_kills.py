"""SIGKILL at any instant, half of them inside a save: issuing the command again ends with the same bits."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.run.torture import kit

KILLS = 5  # of one run, before it may end
AIMS = ("anywhere", "anywhere", "checkpoint", "anywhere", "birth", "anywhere", "checkpoint", "end")


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kit.lay_out(tmp_path)
    return tmp_path


def aim(kind, target, process, draw, whole):
    """Returns at the instant at which to kill."""
    target = Path(target)
    if kind == "anywhere":
        kit.wait_until(lambda: False, process, draw.uniform(0, whole))
    elif kind == "birth":  # the first 100 ms on disk, from the very first temporary name
        kit.wait_until(lambda: kit.has_temporary(target.parent, "x") or target.exists(), process)
        time.sleep(draw.uniform(0, 0.1))
    elif kind == "checkpoint":
        goal = kit.steps_logged(target) + draw.randrange(1, 100)
        kit.wait_until(lambda: kit.steps_logged(target) >= goal, process)
        kit.wait_until(lambda: kit.has_temporary(target / "checkpoints"), process)
        time.sleep(draw.choice([0, 0, draw.uniform(0, 0.003)]))
    elif kind == "end":  # final/, report, card, the record
        kit.wait_until(lambda: kit.steps_logged(target) >= 300, process)
        name = draw.choice(["final", "report", "README", "run.json"])
        kit.wait_until(lambda: kit.has_temporary(target, name), process)


@pytest.mark.parametrize("kills", [6, kit.full(200)])
def test_killed_runs_end_with_the_bits_of_one_that_was_not(work, kills):
    began = time.monotonic()
    assert kit.finish("run", "stream.yaml", "--out", "whole")[0] == 0
    whole = time.monotonic() - began
    expected, draw, done, directories = kit.result("whole"), random.Random(5), 0, 0
    inside = dict.fromkeys(AIMS, 0)
    while done < kills:
        directories += 1
        target = Path(f"{directories:03d}/x")
        target.parent.mkdir()
        for _ in range(min(KILLS, kills - done)):
            before = kit.steps_logged(target)
            command = again(target, draw)
            process = kit.start(*command)
            kind = AIMS[done % len(AIMS)]
            aim(kind, target, process, draw, whole)
            process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
            assert process.returncode in (-9, 0), (command, out, err)
            assert "Traceback" not in err and "error" not in err, err
            lost(out, before)
            inside[kind] += bool(kit.temporaries(target.parent))
            done += 1
            if process.returncode == 0:
                break
        else:
            before = kit.steps_logged(target)
            code, out, err = kit.finish(*again(target, draw))
            assert code == 0, err
            lost(out, before)
        assert kit.result(target) == expected
        assert not kit.temporaries(target.parent)
    print(f"{done} kills in {directories} directories, of these left a temporary: {inside}")


def again(target, draw):
    """The command that goes on: the first one again, or `resume` where there is something to resume."""
    if target.exists() and draw.random() < 0.5:
        return "resume", target
    return "run", "stream.yaml", "--out", target


def lost(out, before):
    """Asserts that a continued run starts at most one checkpoint interval before where it was killed."""
    at = [int(line.rsplit(" ", 1)[1]) for line in out.splitlines() if line.startswith("continuing")]
    assert not at or at[0] > before - kit.EVERY - 1, (at, before)
