"""The cache of compiled programs: what it saves, and that it is never trusted with more than time."""

import json
import os
import shutil
from pathlib import Path

import jax
import pytest
from jax import monitoring

from tests.run.conftest import outcome
from toolkit.run.drive import run_loop
from toolkit.run.report import draw
from toolkit.run.store import compiled_programs, environment

pytestmark = pytest.mark.skipif(
    jax.__version__.startswith("0.10."),
    reason="in this process jax is loaded already, and 0.10 could only be made quiet before that",
)


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(draw, "write", lambda *_: [])
    monkeypatch.setattr(environment, "_package_hash", lambda: "constant")


@pytest.fixture
def found():
    """The hits and misses of jax's cache since the last look."""
    events: list[str] = []

    def listen(event, **_):
        if event.endswith(("/cache_hits", "/cache_misses")):
            events.append(event.rpartition("_")[2])

    monitoring.register_event_listener(listen)

    def look():
        counts = events.count("hits"), events.count("misses")
        events.clear()
        return counts

    yield look
    monitoring.unregister_event_listener(listen)


@pytest.fixture
def killed_at(toolkit, monkeypatch):
    """Runs a command up to a step, and ends it there as a kill does; programs in memory are forgotten."""

    def run(step, *words):
        jax.clear_caches()
        whole = run_loop._written

        def written(job, log, stride, call, **how):
            if call.chunk.end >= step:
                raise Killed
            return whole(job, log, stride, call, **how)

        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(run_loop, "_written", written)
            toolkit(*words)

    return run


def entries(folder):
    return sorted(Path(folder).glob("cache/*/*-cache"))


def test_a_resumed_run_compiles_nothing_again(toolkit, killed_at, found):
    killed_at(6, "run", "toy.yaml", "--out", "runs/a")
    first_hits, first = found()
    assert first_hits == 0 and first >= 2  # `init` and the steps, at least
    assert len(entries("runs/a")) == first
    killed_at(12, "resume", "runs/a")
    assert found()[0] >= 2  # what loads the checkpoint is new
    killed_at(16, "resume", "runs/a")
    hits, misses = found()
    assert misses == 0 and hits >= 2
    assert toolkit("resume", "runs/a")[0] == 0

    # Without it, and with all of it, the numbers are the same to the bit.
    jax.clear_caches()
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert toolkit("run", "toy.yaml", "--out", "runs/b")[0] == 0
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert outcome("runs/a")[:3] == outcome("runs/b")[:3]
    record = json.loads(Path("runs/a/run.json").read_text())
    assert record["wrote"] == [] and not [k for k in record["environment"] if k.startswith("read/")]


def test_the_second_run_of_a_sweep_compiles_nothing_again(toolkit, found):
    Path("runs/s").mkdir(parents=True)
    Path("runs/s/sweep.json").write_text('{"runs": []}')
    jax.clear_caches()
    assert toolkit("run", "toy.yaml", "--out", "runs/s/a")[0] == 0
    found()
    jax.clear_caches()
    assert toolkit("run", "toy.yaml", "--out", "runs/s/b")[0] == 0
    hits, misses = found()
    assert misses == 0 and hits >= 2
    assert entries("runs/s") and not Path("runs/s/a/cache").exists()


def damaged(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncated(path):
    path.write_bytes(path.read_bytes()[:100])


def rotten(path):
    """As a disk damages a file: nothing was written, so the time of change is what it was."""
    damaged(path)
    seals = path.with_name(compiled_programs.SEALS)
    lines = [json.loads(line) for line in seals.read_text().splitlines()]
    for line in lines:
        line["changed"] = path.with_name(line["name"]).stat().st_ctime_ns
    seals.write_text("".join(json.dumps(line) + "\n" for line in lines))


def copied(path):
    """As in a run directory that comes in an archive: all bytes are right, the seals too."""
    other = path.with_name("copy")
    shutil.copy2(path, other)
    os.replace(other, path)


def linked(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def without_seals(path):
    path.with_name(compiled_programs.SEALS).write_bytes(b'{"name": 3}\nnonsense')


@pytest.mark.parametrize("harm", [damaged, truncated, rotten, copied, linked, without_seals])
def test_an_entry_that_is_not_ours_is_compiled_again(toolkit, killed_at, found, harm):
    killed_at(6, "run", "toy.yaml", "--out", "runs/a")
    for entry in entries("runs/a"):
        harm(entry)
    found()
    jax.clear_caches()
    code, _, lines = toolkit("resume", "runs/a")
    assert (code, lines) == (0, []) and found()[0] == 0
    assert not any(entry.is_symlink() for entry in entries("runs/a"))


def test_a_cache_that_the_user_has_chosen_is_left_alone(toolkit):
    jax.config.update("jax_compilation_cache_dir", "mine")
    try:
        assert toolkit("run", "toy.yaml", "--out", "runs/a")[0] == 0
        assert jax.config.jax_compilation_cache_dir == "mine"
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    assert not Path("runs/a/cache").exists()


def test_what_is_in_the_way_of_a_cache_is_no_failure(toolkit, monkeypatch):
    Path("elsewhere").mkdir()

    def in_the_way(run):
        (run / "cache").symlink_to(Path("elsewhere").absolute())
        return whole(run)

    whole = compiled_programs._folder
    monkeypatch.setattr(compiled_programs, "_folder", in_the_way)
    assert toolkit("run", "toy.yaml", "--out", "runs/link")[0] == 0
    assert not [*Path("elsewhere").rglob("*-cache")]
    monkeypatch.setattr(compiled_programs, "_folder", lambda run: Path("toy.yaml/cache"))
    assert toolkit("run", "toy.yaml", "--out", "runs/file")[0] == 0
    monkeypatch.setattr(compiled_programs, "_folder", whole)
    monkeypatch.setattr(compiled_programs, "ROOM", 1 << 62)
    assert toolkit("run", "toy.yaml", "--out", "runs/full")[0] == 0
    assert not [*Path("runs/full").rglob("*-cache")]
