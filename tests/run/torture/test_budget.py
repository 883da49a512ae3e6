"""A budget of time ends a run inside it, and a step that asks for the fraction used gets it as data."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.run.small_experiments import FADING, lay_out
from tests.run.torture import kit
from toolkit.run.drive import drive_steps
from toolkit.run.experiment import durations
from toolkit.run.program import budget, seeds_on_cores
from toolkit.run.store import checkpoints


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400), ("16h", 57600), ("1d1h1m1s", 90061)],
)  # fmt: skip
def test_durations(text, seconds):
    assert durations.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "90", "1:30", "-5s", "5 s", "1m1h", "1e3s", "s", "٣s"])
def test_other_texts_are_no_durations(toolkit, quick, text):
    code, _, err = toolkit("run", "stream.yaml", f"budget='{text}'", "--out", "x")
    assert (code, len(err)) == (2, 1)
    assert "budget: bad value" in err[0] and "a duration such as 90s, 1h30m or 2d" in err[0]


class Clock:
    """Stands for `time.perf_counter`: only steps and pauses take time, however busy the machine is."""

    def __init__(self):
        self.now = time.perf_counter()

    def __call__(self):
        return self.now


def slowed(monkeypatch, seconds):
    """Makes each step last so long on a clock that nothing else moves; returns the clock."""
    monkeypatch.setattr(drive_steps, "DRAWING", 0.5)
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    # The field's default was taken from `time` when the class was made, and reads the real clock.
    monkeypatch.setattr(
        drive_steps, "Pace", lambda *given: budget.Pace(*given, _previous=clock.now)
    )
    whole = seeds_on_cores.compile_program

    def slow(traced, source):
        made = whole(traced, source)

        def advance(state, rows, every):
            clock.now += seconds * int(rows * every)
            return made.advance(state, rows, every)

        return made._replace(advance=advance)

    monkeypatch.setattr(seeds_on_cores, "compile_program", slow)
    return clock


def record(folder):
    return json.loads((Path(folder) / "run.json").read_text())


def test_a_budget_ends_the_run_inside_it(toolkit, quick, monkeypatch):
    toolkit("run", "stream.yaml", "steps=2", "--out", "warm")  # compiled, from here on
    clock = slowed(monkeypatch, 0.02)
    began = clock.now
    code, out, err = toolkit("run", "stream.yaml", "budget=4s", "steps=100000", "--out", "x")
    spent = clock.now - began
    assert (code, err) == (0, [])
    assert 2.0 < spent < 4.0
    found = record("x")
    assert (found["status"], found["ended_by"]) == ("finished", "budget")
    step = found["step"]
    assert kit.steps_logged("x") == step and (Path("x/checkpoints") / str(step)).is_dir()
    assert f"finished by its budget of 4s, at step {step}: x" in out
    assert Path("x/final/metrics.json").is_file()
    (told,) = [line for line in out if line.startswith("forecast: 100000 steps in about ")]
    assert "the budget of 4.0 s at about step " in told
    assert [event["event"] for event in kit.lines("x/events.jsonl")].count("forecast") == 1
    assert toolkit("resume", "x")[0] == 4


def test_a_budget_counts_the_time_of_all_processes(toolkit, quick, monkeypatch):
    toolkit("run", "stream.yaml", "steps=2", "--out", "warm")
    clock = slowed(monkeypatch, 0.02)
    calls, saved = [], checkpoints.save

    def stopping(*words):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return saved(*words)

    monkeypatch.setattr(checkpoints, "save", stopping)
    words = ("run", "stream.yaml", "budget=8s", "steps=100000", "--out", "x")
    began = clock.now
    assert toolkit(*words)[0] == 130
    first = clock.now - began
    clock.now += 3  # between two processes nothing is spent
    began = clock.now
    assert toolkit(*words)[0] == 0
    assert 4.0 < first + clock.now - began < 8.0
    assert record("x")["ended_by"] == "budget"


@pytest.mark.slow
def test_a_budget_ends_a_run_by_the_real_clock(work):
    code, *_ = kit.finish("run", "stream.yaml", "budget=40s", "steps=1000000000", "--out", "x")
    assert code == 0
    found = record("x")
    assert (found["status"], found["ended_by"]) == ("finished", "budget")
    assert kit.steps_logged("x") == found["step"]


def test_steps_end_a_run_whose_budget_is_long(toolkit, finished):
    words = ("steps=40", "log_every=2", "checkpoint_every=10", "budget=2d")
    assert toolkit("run", "stream.yaml", *words, "--out", "x")[0] == 0
    assert record("x")["ended_by"] == "steps"
    assert kit.result("x") == finished


def test_a_budget_too_short_for_its_end_takes_one_step_and_says_so(toolkit, quick):
    code, _, err = toolkit("run", "stream.yaml", "budget=1s", "--out", "x")
    assert code == 0
    assert record("x")["step"] == 1
    assert "the budget of 1s has no time for steps: " in err[0]


@pytest.fixture
def fractions(work):
    """An experiment with a rate that falls with the fraction used."""
    lay_out(work, "fading", FADING, kit.RUNNER)


def test_fractions_of_the_steps_are_data_and_the_run_resumes_to_the_same_bits(
    toolkit, quick, fractions, monkeypatch
):
    words = ("run", "fading.yaml", "steps=20", "checkpoint_every=5", "--out")
    assert toolkit(*words, "whole")[0] == 0
    rows = kit.lines("whole/metrics.jsonl")
    assert [row["fraction"] for row in rows] == pytest.approx([i / 20 for i in range(20)])
    calls, saved = [], checkpoints.save

    def stopping(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return saved(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", stopping)
        assert toolkit(*words, "x")[0] == 130
    assert toolkit("resume", "x")[0] == 0
    assert kit.result("x") == kit.result("whole")
    assert toolkit("check", "fading.yaml")[0] == 0


def test_fractions_of_the_time_are_read_once_a_row(toolkit, quick, fractions, monkeypatch):
    toolkit("run", "fading.yaml", "steps=2", "--out", "warm")
    slowed(monkeypatch, 0.02)
    words = ("budget=4s", "steps=100000", "log_every=5")
    assert toolkit("run", "fading.yaml", *words, "--out", "x")[0] == 0
    used = [row["fraction"] for row in kit.lines("x/metrics.jsonl")]
    assert used == sorted(used) and 0.8 < used[-1] <= 1
    assert len(set(used)) >= len(used) - 1


def test_check_tries_two_steps_a_save_and_a_load(toolkit, work, quick):
    code, out, _ = toolkit("check", "stream.yaml")
    assert code == 0
    assert out[-2].startswith("# tried 2 steps, a save and a load of ")
    assert out[-2].endswith(" bytes, finish and the figures")
    assert sorted(entry.name for entry in work.iterdir()) == ["experiments", "stream.yaml"]
    source = work / "experiments/stream.py"
    source.write_text(
        source.read_text().replace('"loss": loss', '"loss": loss / (state.position - 4)')
    )
    code, _, err = toolkit("check", "stream.yaml")
    assert (code, len(err)) == (6, 1)
    assert "step 2: loss not finite, got inf" in err[0]
