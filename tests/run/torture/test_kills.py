"""SIGKILL at any instant, half of them inside a save: issuing the command again ends with the same bits."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.run.conftest import ROOT
from tests.run.torture import dying, kit
from toolkit.run.store import directory

KILLS = 5  # of one run, before it is let to its end
AIMS = ("instant", "save", "instant", "birth", "instant", "save", "instant", "end")


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kit.lay_out(tmp_path)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(dying.SOURCE)
    return tmp_path


@pytest.mark.parametrize(("kills", "seed"), [(2, 0), kit.full((100, 1)), kit.full((100, 2))])
def test_killed_runs_end_with_the_bits_of_one_that_was_not(work, kills, seed):
    began = time.monotonic()
    assert kit.finish("run", "stream.yaml", "--out", "whole/x", env=hook("whole/", 0))[0] == 0
    seconds, operations = time.monotonic() - began, int(Path("operations").read_text())
    expected, draw, folders = kit.result("whole/x"), random.Random(seed), 0
    aimed = dict.fromkeys(AIMS, 0)  # kills that came to pass
    inside = 0  # of these, with a temporary file on disk
    while sum(aimed.values()) < kills:
        folders += 1
        target = Path(f"{folders:03d}/x")
        target.parent.mkdir()
        for _ in range(min(KILLS, kills - sum(aimed.values()))):
            before = kit.steps_logged(target)
            kind = AIMS[sum(aimed.values()) % len(AIMS)]
            code, out, err = killed(again(target, draw), kind, target, draw, seconds, operations)
            assert code in (-9, 0), (code, out, err)
            assert "Traceback" not in err and "error" not in err, err
            at_most_one_interval_is_lost(out, before, code)
            aimed[kind] += code == -9
            inside += bool(kit.temporaries(target.parent))
            if is_finished(target):  # even where the kill came after that mark
                break
        else:
            before = kit.steps_logged(target)
            code, out, err = kit.finish(*again(target, draw))
            assert code == 0, err
            at_most_one_interval_is_lost(out, before, code)
        assert kit.result(target) == expected
        assert not kit.temporaries(target.parent)
    print(f"{aimed} kills of {folders} runs, {inside} with a temporary file on disk")


def killed(command, kind, target, draw, seconds, operations):
    """(exit code, stdout, stderr) of a command that is killed at an instant, or at a file operation."""
    if kind == "instant":
        process = kit.start(*command)
        kit.wait_until(lambda: False, process, draw.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
    else:
        numbers = {"save": (1, operations), "birth": (1, 25), "end": (operations - 40, operations)}
        first, last = numbers[kind]
        left = (
            1 - kit.steps_logged(target) / 300
        )  # of a run that goes on, fewer operations are left
        at = draw.randint(max(1, int(first * left)), max(25, int(last * left)))
        process = kit.start(*command, env=hook(f"{target.parent}/", at))
    out, err = process.communicate()
    return process.returncode, out, err


def hook(folder, at):
    path = os.pathsep.join(["hook", str(ROOT)])
    return {"PYTHONPATH": path, "TORTURE_FOLDER": folder, "TORTURE_DIE_AT": str(at)}


def again(target, draw):
    """The command that goes on: the first one again, or `resume` where there is something to resume."""
    if target.exists() and draw.random() < 0.5:
        return "resume", target
    return "run", "stream.yaml", "--out", target


def is_finished(target):
    return target.exists() and directory.read_record(target).get("status") == "finished"


def at_most_one_interval_is_lost(out, before, code):
    at = [int(line.rsplit(" ", 1)[1]) for line in out.splitlines() if line.startswith("continuing")]
    assert at or code == -9 or before <= kit.EVERY, before  # a killed one may not have come so far
    assert all(step >= before - kit.EVERY for step in at), (at, before)
