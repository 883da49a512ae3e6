"""Runs: whatever stops one, continuing it gives the bits of a run that was never stopped."""

import fcntl
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.run.conftest import CONFIG, EXPERIMENT, outcome, rows, spawn
from toolkit.run.report import draw
from toolkit.run.store import birth, checkpoints, directory, environment, files, metrics


class Killed(BaseException):
    """Passes through every handler, as a SIGKILL does."""


def killed_at(monkeypatch, module, name, count):
    """Makes the `count`-th call of a function the process's last."""
    whole, calls = getattr(module, name), []

    def function(*args):
        calls.append(1)
        if len(calls) == count:
            raise Killed
        return whole(*args)

    monkeypatch.setattr(module, name, function)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Leaves out the report, most of a small run's time; test_report.py looks at it."""
    monkeypatch.setattr(draw, "write", lambda *_: [])
    # A source file saved while the tests run is no drift of theirs.
    monkeypatch.setattr(environment, "_package_hash", lambda: "constant")


@pytest.fixture
def finished(toolkit):
    """The outcome of an uninterrupted run, in runs/toy-1."""
    assert toolkit("run", "toy.yaml")[0] == 0
    return outcome("runs/toy-1")


def test_a_run_leaves_what_it_promises(toolkit, finished):
    folder = Path("runs/toy-1")
    names = {"config.yaml", "run.json", "metrics.jsonl", "events.jsonl", "checkpoints", "final"}
    assert {entry.name for entry in folder.iterdir()} - {"cache"} == names
    assert {entry.name for entry in (folder / "final").iterdir()} == {
        "params.safetensors",
        "metrics.json",
    }
    assert [row["step"] for row in rows(folder)] == list(range(2, 21, 2))
    assert finished[3] == ["10", "15", "20"]
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["command"] == "toolkit run toy.yaml"
    events = [
        json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines()
    ]
    assert [event for event in events if event not in ("warning", "forecast")] == [
        "start",
        *["checkpoint"] * 4,
        "finish",
    ]


def test_equal_runs_are_equal(toolkit, finished):
    assert toolkit("run", "toy.yaml")[0] == 0
    assert outcome("runs/toy-2") == finished


@pytest.mark.parametrize(
    ("module", "name", "count"),
    [
        (metrics, "append", 1),  # before anything is logged
        (metrics, "append", 4),  # after step 6, one checkpoint
        (metrics, "append", 9),
        (checkpoints, "save", 1),
        (checkpoints, "save", 3),
        (checkpoints, "prune", 4),  # the last checkpoint is written, nothing after it
        (files, "write_folder", 5),  # while final/ is written
    ],
)
@pytest.mark.parametrize("command", ["run", "resume"])
def test_a_killed_run_continues_to_the_same_bits(
    toolkit, finished, monkeypatch, module, name, count, command
):
    with monkeypatch.context() as patch:
        killed_at(patch, module, name, count)
        with pytest.raises(Killed):
            toolkit("run", "toy.yaml", "--out", "x")
    words = ("run", "toy.yaml", "--out", "x") if command == "run" else ("resume", "x")
    assert toolkit(*words)[0] == 0
    assert outcome("x") == finished
    assert not list(Path().rglob("*.tmp-*"))


def test_an_unnamed_run_continues_itself(toolkit, finished, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, metrics, "append", 5)
        with pytest.raises(Killed):
            toolkit("run", "toy.yaml")
    code, out, _ = toolkit("run", "toy.yaml")
    assert code == 0
    assert out[:2] == ["toy in runs/toy-2", "continuing from step 5"]
    assert outcome("runs/toy-2") == finished


def wait_for(folder, text, process):
    """Returns once a file of the run directory contains `text`."""
    for _ in range(6000):
        path = Path(folder) / "events.jsonl"
        if path.exists() and text in path.read_text():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("the run did not get there")


LONG = ("steps=200000", "log_every=5000", "checkpoint_every=10000")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_signals(toolkit, work, number, code):
    process = spawn("run", "toy.yaml", *LONG, "--out", "x")
    wait_for("x", '"step": 10000', process)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code
    assert not err
    if number == signal.SIGTERM:
        assert "stopped: SIGTERM at step" in out
        assert json.loads(Path("x/run.json").read_text())["status"] == "stopped"
    whole = spawn("run", "toy.yaml", *LONG, "--out", "y")
    again = spawn("resume", "x")
    for process in (again, whole):
        _, err = process.communicate(timeout=300)
        assert (
            process.returncode,
            [e for e in err.splitlines() if not e.startswith("warning")],
        ) == (0, [])
    assert outcome("x") == outcome("y")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_other_signals(work, number, code):
    process = spawn("run", "toy.yaml", *LONG, "--out", "x")
    wait_for("x", '"step": 10000', process)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == code


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.05, 0.15, 0.3, 0.6, 0.9, 1.1])
def test_a_signal_during_the_start_leaves_no_traceback(work, delay):
    process = spawn("run", "toy.yaml", *LONG, "--out", "x")
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode in (143, -15)
    assert "Traceback" not in err
    assert spawn("run", "toy.yaml", "--out", "x", "steps=10").wait() in (0, 4)
    assert not list(work.glob(".x.tmp-*"))


@pytest.mark.slow
def test_of_simultaneous_starts_one_wins(work):
    processes = [spawn("run", "toy.yaml", "--out", "x") for _ in range(4)]
    errors = [process.communicate()[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 4, 4, 4], errors
    assert not list(work.glob(".x.tmp-*"))


def test_a_finished_run_is_left_alone(toolkit, finished):
    before = Path("runs/toy-1/run.json").read_bytes()
    for words in (("run", "toy.yaml", "--out", "runs/toy-1"), ("resume", "runs/toy-1")):
        code, _, err = toolkit(*words)
        assert code == 4
        assert err[0].startswith("error: runs/toy-1: the run is finished")
    assert Path("runs/toy-1/run.json").read_bytes() == before


@pytest.fixture
def unfinished(toolkit, monkeypatch):
    """A run in `x` that was killed at step 18, with checkpoints 5, 10 and 15."""
    with monkeypatch.context() as patch:
        killed_at(patch, metrics, "append", 9)
        with pytest.raises(Killed):
            toolkit("run", "toy.yaml", "--out", "x")
    return Path("x")


def test_a_directory_in_use_is_refused(toolkit, unfinished):
    with open(unfinished / "config.yaml", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, err = toolkit("resume", "x")
    assert code == 4
    assert f"in use, got process {os.getpid()} on" in err[0]


def test_another_config_is_refused(toolkit, unfinished):
    code, _, err = toolkit("run", "toy.yaml", "rate=0.2", "--out", "x")
    assert code == 4
    assert "another config, got rate 0.2, expected rate 0.1" in err[0]


def test_a_directory_of_something_else_is_refused(toolkit, work):
    (work / "x").mkdir()
    assert toolkit("run", "toy.yaml", "steps=2", "--out", "x")[0] == 0  # empty is as good as new
    (work / "y").mkdir()
    (work / "y/letter.txt").touch()
    assert toolkit("run", "toy.yaml", "--out", "y")[0] == 4


def test_leftovers_of_killed_starts_are_removed(toolkit, unfinished, work):
    for name in (".x.tmp-1", ".x.tmp-2", "x/checkpoints/.15.tmp-3", "x/.final.tmp-4"):
        (work / name).mkdir()
    (work / ".x.tmp-2/config.yaml").write_text("steps")
    assert toolkit("resume", "x")[0] == 0
    assert not list(work.rglob("*.tmp-*"))


def damage_newest(kind, folder):
    state, manifest = folder / "state.safetensors", folder / "manifest.json"
    if kind == "flipped":
        data = bytearray(state.read_bytes())
        data[-1] ^= 1
        state.write_bytes(data)
    elif kind == "cut":
        os.truncate(state, 10)
    elif kind == "absent":
        state.unlink()
    elif kind == "manifest":
        manifest.write_text(manifest.read_text().replace('"metrics_bytes": ', '"metrics_bytes": 1'))
    elif kind == "deep":
        manifest.write_text("[" * 100_000)
    elif kind == "pipe":
        state.unlink()
        os.mkfifo(state)
    elif kind == "swapped":
        manifest.write_bytes((folder.parent / "10/manifest.json").read_bytes())
        state.write_bytes((folder.parent / "10/state.safetensors").read_bytes())


@pytest.mark.parametrize(
    "kind", ["flipped", "cut", "absent", "manifest", "deep", "pipe", "swapped"]
)
def test_a_damaged_checkpoint_is_set_aside(toolkit, finished, unfinished, kind):
    damage_newest(kind, unfinished / "checkpoints/15")
    code, out, err = toolkit("resume", "x")
    assert code == 0
    assert "continuing from step 10" in out
    assert err[0].startswith("warning: x/checkpoints/15: damaged (")
    assert (unfinished / "checkpoints/15.damaged-1").is_dir()
    result = outcome("x")
    assert result[:3] == finished[:3]


def test_without_a_usable_checkpoint_nothing_is_touched(toolkit, unfinished):
    for step in (5, 10, 15):
        damage_newest("flipped", unfinished / f"checkpoints/{step}")
    before = (unfinished / "metrics.jsonl").read_bytes()
    for _ in range(2):
        code, _, err = toolkit("resume", "x")
        assert (code, len(err)) == (3, 1)
        assert err[0].startswith(
            "error: x/checkpoints/15: no usable checkpoint, got state.safetensors: wrong checksum"
        )
    assert sorted(entry.name for entry in (unfinished / "checkpoints").iterdir()) == [
        "10",
        "15",
        "5",
    ]
    assert (unfinished / "metrics.jsonl").read_bytes() == before


def test_a_changed_experiment_is_drift(toolkit, finished, unfinished, work):
    (work / "experiments/toy.py").write_text(EXPERIMENT + "# a remark\n")
    for words in (("resume", "x"), ("run", "toy.yaml", "--out", "x")):
        code, _, err = toolkit(*words)
        assert (code, len(err)) == (7, 1)
        assert "x: the environment differs in experiment_sha256, got" in err[0]
    assert toolkit("resume", "x", "--allow-drift")[0] == 0
    found = rows("x")
    assert [row.pop("drift", False) for row in found] == [False] * 7 + [True] * 3
    assert found == finished[0]


def test_every_recorded_value_is_compared(work):
    record = environment.record(work / "experiments/toy.py")
    for name in record:
        assert list(environment.differences(record, {**record, name: "other"})) == [name]
        others = {k: v for k, v in record.items() if k != name}
        assert environment.differences(record, others) == {name: (record[name], None)}


def test_a_state_of_another_shape_is_refused(toolkit, unfinished, work):
    (work / "experiments/toy.py").write_text(EXPERIMENT.replace("jnp.zeros((2,)", "jnp.zeros((3,)"))
    code, _, err = toolkit("resume", "x", "--allow-drift")
    assert code == 3
    assert "got half bfloat16[2], expected half bfloat16[3]" in err[0]


def test_a_metric_that_is_not_finite_stops_the_run(toolkit, work):
    code, _, err = toolkit("run", "toy.yaml", "nan_at=12", "--out", "x")
    assert (code, len(err)) == (6, 1)
    assert err[0].startswith(
        "error: x: step 12: loss not finite, got NaN, expected finite numbers; "
    )
    assert rows("x")[-1]["loss"] is None
    assert rows("x")[-1]["nonfinite"] == ["loss"]
    assert sorted(entry.name for entry in (work / "x/checkpoints").iterdir()) == ["10", "5"]
    assert toolkit("resume", "x")[0] == 6


@pytest.mark.parametrize(
    ("claims", "code", "words"),
    [
        ("{error: {at_most: 100}}", 0, ""),
        ("{error: {at_most: 1e-9}}", 8, "claim missed: error, got "),
        (
            "{eror: {at_most: 1}}",
            8,
            "got no such metric, expected at most 1 (did you mean `error`?)",
        ),
    ],
)
def test_claims(toolkit, work, claims, code, words):
    (work / "toy.yaml").write_text(f"{CONFIG}claims: {claims}\n")
    found, _, err = toolkit("run", "toy.yaml")
    assert found == code
    assert words in "".join(e for e in err if not e.startswith("warning"))
    assert toolkit("resume", "runs/toy-1")[0] == 4


def test_a_full_disk_is_one_line_and_can_be_resumed(toolkit, finished, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        killed_at(patch, files, "write_folder", 3)
        patch.setattr(files.os, "fsync", full)
        code, _, err = toolkit("run", "toy.yaml", "--out", "x")
        assert (code, len(err)) == (5, 1)
        assert "cannot write, got No space left on device" in err[0]
        assert not Path("x").exists()
    with monkeypatch.context() as patch:
        whole = files.write_new
        patch.setattr(
            files,
            "write_new",
            lambda path, data: full() if "10.tmp" in str(path) else whole(path, data),
        )
        code, _, err = toolkit("run", "toy.yaml", "--out", "x")
        assert (code, len(err)) == (5, 1)
    assert toolkit("resume", "x")[0] == 0
    assert outcome("x") == finished


def test_a_living_start_is_not_a_leftover(work):
    place = birth.create(work / ".x.tmp-alive", "steps: 1\n", {"status": "running"})
    directory.remove_leftovers(work / "x")
    assert (work / ".x.tmp-alive").is_dir()
    os.close(place.lock)
    directory.remove_leftovers(work / "x")
    assert not (work / ".x.tmp-alive").exists()
