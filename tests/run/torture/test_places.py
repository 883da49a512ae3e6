"""Where runs and sweeps go: links, names, starts at the same moment, and who is said to hold a run."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.run.torture.conftest import SHORT
from toolkit.run.store import birth, process


def test_a_place_that_another_start_holds_is_left_to_it(toolkit, quick, work):
    with birth.alone(Path("runs/stream-1")), birth.alone(Path("runs/stream-2")):
        assert toolkit("run", "stream.yaml", *SHORT)[0] == 0
        code, _, err = toolkit("run", "stream.yaml", *SHORT, "--out", "runs/stream-1")
        assert (
            code == 4 and f"process {os.getpid()} on" in err[0]
        )  # a place that was named is that place
    assert [path.name for path in Path("runs").iterdir()] == ["stream-3"]


def test_an_unfinished_run_of_other_code_is_named(toolkit, stopped, work):
    Path("runs").mkdir()
    stopped("runs/stream-1")
    source = work / "experiments/stream.py"
    source.write_text(source.read_text() + "# edited\n")
    code, _, err = toolkit("run", "stream.yaml", *SHORT)
    assert code == 0
    assert len(err) == 1 and err[0].startswith(
        "warning: runs/stream-1: unfinished, with the same config and other"
    )
    assert Path("runs/stream-2/final").is_dir()


def test_out_may_be_a_link_to_an_empty_folder_or_to_none(toolkit, quick, work):
    Path("scratch").mkdir()
    for link, target in (("a", "scratch"), ("b", "not/there")):
        Path(link).symlink_to(target)
        assert toolkit("run", "stream.yaml", *SHORT, "--out", link)[0] == 0
        assert (work / target / "final").is_dir()
    Path("c").symlink_to("c")
    code, _, err = toolkit("run", "stream.yaml", *SHORT, "--out", "c")
    assert code in (2, 4, 5) and len(err) == 1


@pytest.mark.parametrize(
    ("out", "code", "words"),
    [
        ("", 2, "--out: empty"),
        ("x" * 300, 2, "--out: name too long, got a name of 300 bytes"),
        ("é" * 128, 2, "--out: name too long, got a name of 256 bytes"),
        ("x" * 250, 5, "File name too long"),
        ("~nobody-of-this-name/x", 2, "--out: no home folder"),
        ("stream.yaml", 4, "not a run directory"),
        ("stream.yaml/x", 4, "not a run directory"),
        ("/proc/nowhere/x", 5, "cannot write"),
        ("/dev/null", 4, "not a run directory"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_is_refused_in_one_line(toolkit, quick, work, out, code, words):
    found, _, err = toolkit("run", "stream.yaml", *SHORT, f"--out={out}")
    assert (found, len(err)) == (code, 1) and words in err[0]


def test_a_tilde_is_the_home_folder(toolkit, quick, work, monkeypatch):
    monkeypatch.setenv("HOME", str(work / "home"))
    assert toolkit("run", "stream.yaml", *SHORT, "--out=~/x")[0] == 0
    assert (work / "home/x/final").is_dir() and not (work / "~").exists()


@pytest.fixture
def dead():
    """The record of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return {**process.this_process(), "pid": child.pid}


def test_the_holder_is_the_living_process(toolkit, stopped, dead):
    """After a kill, whoever resumes first writes itself into run.json; until then the number there is of the dead."""
    path = stopped("x") / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "process": dead}))
    living = {**record, "process": process.this_process()}
    with open("x/config.yaml", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = threading.Timer(0.15, lambda: path.write_text(json.dumps(living)))
        writer.start()
        code, _, err = toolkit("resume", "x")
        writer.join()
    assert code == 4 and f"process {os.getpid()} on" in err[0]


def test_a_process_that_is_gone_or_another_is_not_named(dead):
    assert process.holder(lambda: dead) == "process ? on ?"
    assert process.is_alive(process.this_process())
    assert not process.is_alive({**process.this_process(), "began": 1})  # its number is used again
    for damaged in (
        None,
        [],
        {},
        {"pid": "x"},
        {**dead, "pid": 10**30},
        {**dead, "pid": -1, "began": 0},
    ):
        assert not process.is_alive(damaged)
    assert process.holder(lambda: {"pid": 3, "host": "elsewhere"}) == "process 3 on elsewhere"


def test_who_only_asks_does_not_keep_others_out(tmp_path):
    path = tmp_path / "x"
    path.touch()
    assert not process.is_locked(path)
    with open(path, "r+b") as file, open(path, "rb") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        threading.Timer(0.1, lambda: fcntl.flock(asking, fcntl.LOCK_UN)).start()
        assert process.lock(file.fileno(), lambda: None)
        assert process.is_locked(path)
