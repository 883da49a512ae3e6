"""Runs of the stream, in this process where that is enough."""

import json
import shutil
import time

import pytest

from tests.run.torture import kit
from toolkit.run.drive import runs
from toolkit.run.drive.prepare import config_hash
from toolkit.run.program import seeds_on_cores
from toolkit.run.report import draw
from toolkit.run.store import checkpoints, environment


class Killed(BaseException):
    """Passes through every handler, as a SIGKILL does."""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory with the stream's experiment and config, made the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("NPROC", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # `run` sets them where they are not set
    kit.lay_out(tmp_path)
    return tmp_path


PREPARED, COMPILED = {}, {}  # what was traced and compiled, in all tests of this process


def prepare_once(loaded, written=None, team=None, prepare=runs.prepare):
    """An experiment's program and config, traced once."""
    runner = {"steps", "log_every", "checkpoint_every", "keep_checkpoints", "budget", "claims"}
    others = {name: value for name, value in loaded.resolved.items() if name not in runner}
    key = loaded.experiment.read_bytes(), json.dumps(others)
    if key not in PREPARED:
        PREPARED[key] = prepare(loaded)
    return PREPARED[key]._replace(
        loaded=loaded,
        settings=loaded.settings,
        digest=config_hash(written or loaded.resolved),
        began=time.perf_counter(),
        environment=environment.record(loaded.experiment),
    )


def compile_once(traced, source, compile_program=seeds_on_cores.compile_program):
    if id(traced) not in COMPILED:
        # With the program: an object that is gone would leave its id to the next.
        COMPILED[id(traced)] = traced, compile_program(traced, source)
    return COMPILED[id(traced)][1]


@pytest.fixture
def quick(monkeypatch):
    """Leaves out the report, and the second tracing and compiling of a program: nearly all of a small run's time."""
    monkeypatch.setattr(draw, "write", lambda *_: [])
    monkeypatch.setattr(environment, "_package_hash", lambda: "constant")
    monkeypatch.setattr(runs, "prepare", prepare_once)
    monkeypatch.setattr(seeds_on_cores, "compile_program", compile_once)


SHORT = ("steps=40", "log_every=2", "checkpoint_every=10")


@pytest.fixture
def finished(toolkit, quick):
    """The result of an uninterrupted short run."""
    assert toolkit("run", "stream.yaml", *SHORT, "--out", "whole")[0] == 0
    return kit.result("whole")


@pytest.fixture
def stopped(toolkit, finished, work):
    """Makes fresh copies of a run that was killed after step 34, with checkpoints 10, 20 and 30."""
    saved, calls = checkpoints.save, []

    def dying(*words):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return saved(*words)

    checkpoints.save = dying
    try:
        with pytest.raises(Killed):
            toolkit("run", "stream.yaml", *SHORT, "--out", "killed")
    finally:
        checkpoints.save = saved

    def copy(name):
        shutil.rmtree(work / name, ignore_errors=True)
        shutil.copytree(work / "killed", work / name)
        return work / name

    return copy
