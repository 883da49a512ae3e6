"""What `python -m benchmarks` says of contestants that cannot be compared; no peer need be installed."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from types import SimpleNamespace

import pytest

from benchmarks import contestant, race
from benchmarks.__main__ import _line
from benchmarks.contest import Entry, Ready
from benchmarks.moving import __main__ as moving

TRUTH = [3.0, 4.0]


def _unprepared(build) -> Ready:
    return Ready(lambda: None, None, None, build()[0])


def _absent():
    import a_package_that_nobody_has  # noqa: F401


def _answers(monkeypatch, entry: Entry) -> list[dict]:
    """Of a contestant's process that is told to run twice, in this one."""
    suite = SimpleNamespace(SUITE=SimpleNamespace(entries={"peer": entry}))
    monkeypatch.setitem(sys.modules, "benchmarks.suites.made_up", suite)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    for variable in ("JAX_PLATFORMS", "JAX_ENABLE_X64"):  # put back after the test
        monkeypatch.setenv(variable, os.environ.get(variable, "cpu"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("2\n"))
    monkeypatch.setattr(sys, "stdout", answers := io.StringIO())
    contestant.main("made_up", "peer", "0")
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_contestant_names_the_package_that_is_missing(monkeypatch) -> None:
    found = _answers(monkeypatch, Entry(_absent, prepare=_unprepared))
    assert found == [{"missing": "a_package_that_nobody_has is not installed"}]


def test_a_contestant_need_not_compile_nor_know_its_bytes(monkeypatch) -> None:
    ready, timed = _answers(monkeypatch, Entry(lambda: (TRUTH, ()), prepare=_unprepared))
    assert ready == {"compile_seconds": None, "temporary_bytes": None, "gradient": TRUTH}
    assert timed["seconds"] >= 0


@pytest.mark.parametrize(
    ("ready", "says"),
    [
        ({"gradient": [3.0, 4.0]}, ""),
        ({"gradient": [3.0, 4.04]}, ""),
        ({"gradient": [3.0]}, ""),  # not a gradient: the solve alone
        ({"gradient": [3.0, 4.06]}, "its gradient is 1% wrong"),
        ({"gradient": [-3.0, -4.0]}, "its gradient is 200% wrong"),
        ({"gradient": [3.0, math.nan]}, "its gradient is nan% wrong"),
        ({"missing": "torch is not installed"}, "torch is not installed"),
    ],
)
def test_why_a_contestant_is_not_measured(ready, says) -> None:
    assert race._why_not(ready, TRUTH) == says
    assert "gradient" not in ready or not race._why_not(ready, None)  # without a truth, no verdict


def test_a_row_leaves_out_what_is_not_known() -> None:
    known = {"compile_seconds": 2.0, "temporary_bytes": 4_000_000, "gradient": TRUTH}
    unknown = {"compile_seconds": None, "temporary_bytes": None, "gradient": TRUTH}
    ready = {"hand": known, "eager": unknown, "half": {**known, "compile_seconds": 1.0}}
    times = {"hand": [1.0, 1.0], "eager": [3.0, 3.0], "half": [0.5, 0.5]}
    line = lambda name: _line(race._row(name, "hand", ready, times, TRUTH))
    assert line("eager") == "| eager | 3.00 | 3.00 to 3.00 | 3e+03 |  |  |  | 0e+00 |"
    assert line("half") == "| half | 0.50 | 0.50 to 0.50 | 500 | 0.50 | 4 | 1 | 0e+00 |"
    missing = _line(race.Row("eager", "torch is not installed"))
    assert missing == "| eager | not measured: torch is not installed | | | | | | |"


def test_every_suite_says_how_it_is_measured() -> None:
    from importlib import import_module

    from benchmarks.__main__ import FOLDER
    from benchmarks.contest import Suite

    names = sorted(path.stem for path in (FOLDER / "suites").glob("[a-z]*.py"))
    for name in names:
        module = import_module(f"benchmarks.suites.{name}")
        assert hasattr(module, "tables") or isinstance(module.SUITE, Suite), name


def test_moving_says_why_there_are_no_figures(monkeypatch, tmp_path) -> None:
    ready = {
        "toolkit": {"gradient": TRUTH, "compile_seconds": 1.0},
        "jaxopt": {"gradient": [3.0, 4.5], "compile_seconds": 2.0},
        "optimistix": {"missing": "optimistix is not installed"},
    }

    class Answering:
        def __init__(self, suite: str, name: str, core: int) -> None:
            self.ready, self.name = ready[name], name

        def seconds(self, repeats: int) -> float:
            return 1.0 if self.name == "toolkit" else 4.0

        def end(self) -> None: ...

    monkeypatch.setattr(moving, "Process", Answering)
    out = tmp_path / "moving.json"
    words = ["--json", str(out), "--rounds", "1", "--programs", "lasso"]
    assert moving.start(words) == 0
    rows = json.loads(out.read_text())
    assert [(row["program"], row["what"], row["peer"]) for row in rows] == [
        ("lasso", what, peer) for what in ("value", "gradient") for peer in ("jaxopt", "optimistix")
    ]
    compared, missing = rows[:2]
    assert compared["reason"] is None
    assert (compared["ratio"], compared["compile_ratio"]) == (0.25, 0.5)
    assert compared["difference"] == pytest.approx(0.5 / (9 + 4.5**2) ** 0.5)
    assert missing["reason"] == "optimistix is not installed"
    assert all(missing[figure] is None for figure in moving.FIGURES)


def test_moving_names_the_programs_there_are(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        moving.start(["--programs", "lass"])
    assert stopped.value.code == 2
    assert "no lass; there are deq, anderson" in capsys.readouterr().err
