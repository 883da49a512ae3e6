"""Exports: every row and digit of metrics.jsonl, and no cell that a spreadsheet would run."""

import csv
import io
import json
import struct
from pathlib import Path

import pytest

from tests.run.conftest import pretend
from toolkit.run.report.several import export_rows

ROWS = (
    {"step": 2, "loss": 0.1234567890123456, "count": 3, "seconds": 0.5},
    {"step": 4, "loss": None, "count": -4, "=evil()": 1e-30, "seconds": 0.75, "nonfinite": ["loss"]},
    {"step": 5, "loss": -1.5, "drift": True, "gradients": {"w['a']": {"norm": 2.5, "nonfinite": 0}}},
)  # fmt: skip


@pytest.fixture
def runs(work):
    """Two runs of different seeds, one with a name that a spreadsheet would run."""
    for seed, name in enumerate(("d/=cmd|x", "d/b")):
        pretend(("run", "toy.yaml", f"seed={seed}", "label='@x'", "--out", name))
        Path(name, "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        record = json.loads(Path(name, "run.json").read_text())
        record |= {"started": "2026-01-02T03:04:05.000+00:00", "step": 5}
        Path(name, "run.json").write_text(json.dumps(record))
    return ["d/=cmd|x", "d/b"]


def test_csv_has_every_row_and_digit(toolkit, runs):
    code, out, _ = toolkit("export", *runs, "--format", "csv")
    found = list(csv.DictReader(io.StringIO("\n".join(out))))
    assert code == 0
    assert len(found) == 6
    assert [row["config.seed"] for row in found] == ["0"] * 3 + ["1"] * 3
    assert found[3]["run"] == "b"
    assert float(found[0]["loss"]) == ROWS[0]["loss"]
    assert (found[1]["loss"], found[1]["nonfinite"], found[1]["count"]) == ("", "loss", "-4")
    assert float(found[1]["'=evil()"]) == 1e-30
    assert (found[2]["drift"], found[2]["gradients/w['a']/norm"]) == ("true", "2.5")
    assert toolkit("export", *runs, "--format", "csv", "--out", "x.csv")[1] == ["x.csv"]
    assert Path("x.csv").read_text().splitlines() == out


def test_a_metric_does_not_take_our_columns(toolkit, runs):
    row = {"step": 1, "run": 1.0, "config.seed": 2.0, "metric.run": 3.0, "seconds": 0.0}
    for name in runs:
        Path(name, "metrics.jsonl").write_text(json.dumps(row) + "\n")
    out = toolkit("export", *runs, "--format", "csv")[1]
    heads = out[0].split(",")
    assert len(set(heads)) == len(heads)
    found = next(csv.DictReader(io.StringIO("\n".join(out[:1] + out[2:]))))
    assert (found["run"], found["config.seed"]) == ("b", "1")
    assert (found["metric.run"], found["metric.config.seed"]) == ("1.0", "2.0")


def test_no_cell_is_a_formula(toolkit, runs):
    _, out, _ = toolkit("export", *runs, "--format", "csv")
    for row in csv.reader(io.StringIO("\n".join(out))):
        for cell in row:
            assert not cell.startswith(("=", "+", "@", "\t", "\r"))
            assert not cell.startswith("-") or float(cell) < 0  # a number stays one
    assert out[1].startswith("'=cmd|x,")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+cmd()", "@SUM(1)", "\tx", "\rx"])
def test_texts_that_a_spreadsheet_would_run_are_quoted(text):
    assert export_rows._cell(text) == f"'{text}"
    assert export_rows._cell([text, "b"]) == f"'{text} b"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--format", "cvs"], 2, "(did you mean `csv`?)"),
        ([], 2, "--format"),
        (["nowhere", "--format", "csv"], 2, "nowhere: not a run directory"),
    ],
)
def test_what_cannot_be_exported(toolkit, runs, words, code, text):
    found, _, err = toolkit("export", *runs, *words)
    assert (found, len(err)) == (code, 1)
    assert text in err[0]


def test_a_missing_extra_is_named(toolkit, runs, monkeypatch):
    monkeypatch.setattr(export_rows, "find_spec", lambda _: None)
    code, _, err = toolkit("export", *runs, "--format", "tensorboard")
    assert code == 2
    assert 'pip install "toolkit-jax[tensorboard]"' in err[0]
    assert not Path("tensorboard").exists()


def events(folder):
    """The (tag, step, value, time) of the scalars in a folder of event files."""
    from tensorboardX.proto import event_pb2

    (path,) = Path(folder).iterdir()
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.append((value.tag, event.step, value.simple_value, event.wall_time))
    return found


def test_tensorboard_files(toolkit, runs):
    pytest.importorskip("tensorboardX")
    code, out, _ = toolkit("export", *runs, "--format", "tensorboard", "--out", "tb")
    assert (code, out) == (0, ["tb"])
    assert sorted(entry.name for entry in Path("tb").iterdir()) == ["=cmd|x", "b"]
    found = events("tb/b")
    losses = [(step, value) for tag, step, value, _ in found if tag == "loss"]
    assert losses[0] == (2, pytest.approx(ROWS[0]["loss"], rel=1e-7))  # the format holds float32
    assert losses[1][0] == 4 and losses[1][1] != losses[1][1]  # NaN, which TensorBoard marks
    assert losses[2] == (5, -1.5)
    assert ("final/error", 5) in [(tag, step) for tag, step, *_ in found]
    assert "seconds" not in {tag for tag, *_ in found}
    assert [tag for tag, *_ in found if tag.startswith("gradients/")]
    assert found[0][3] == pytest.approx(1767323045.5)
    code, _, err = toolkit("export", *runs, "--format", "tensorboard", "--out", "tb")
    assert code == 4 and "exists" in err[0]
