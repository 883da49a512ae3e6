"""Files of a finished run that were edited are marked wherever they are shown, and never counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from toolkit.run.report import story


def rows(path):
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), "loss": 1e-9}), *rest, ""]))


def one_row_less(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def one_row_more(path):
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[-1])


def other_rate(path):
    path.write_text(path.read_text().replace("rate: 0.05", "rate: 0.5"))


def other_seed(path):
    path.write_text(path.read_text().replace("seed: 0", "seed: 7"))


def other_number(path):
    path.write_text(path.read_text().replace('"w0": ', '"w0": 1'))


def other_bytes(path):
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def other_seconds(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 12345.0}))


def no_warnings(path):
    path.write_text("")


EDITS = [
    ("metrics.jsonl", rows), ("metrics.jsonl", one_row_less), ("metrics.jsonl", one_row_more),
    ("config.yaml", other_rate), ("config.yaml", other_seed), ("final/metrics.json", other_number),
    ("final/params.safetensors", other_bytes), ("run.json", other_seconds), ("events.jsonl", no_warnings),
]  # fmt: skip


def test_what_was_edited_is_marked(toolkit, finished):
    assert story.read(Path("whole")).changed == ()
    for name, edit in EDITS:
        shutil.rmtree("x", ignore_errors=True)
        shutil.copytree("whole", "x")
        edit(Path("x") / name)
        assert story.read(Path("x")).changed == (name,), (name, edit)
        told = f"warning: x/{name}: changed since the run"
        code, _, err = toolkit("report", "x", "--out", "page.html")
        assert (code, err) == (0, [told]) and f"changed since: {name}" in Path(
            "page.html"
        ).read_text()
        assert toolkit("export", "x", "--format", "csv")[2] == [told]
        code, _, err = toolkit("report", "whole", "x", "--out", "page.html")
        assert (code, err) == (0, [told]) and "not counted: changed since" in Path(
            "page.html"
        ).read_text()


@pytest.mark.parametrize("edit", [rows, one_row_less])
def test_edited_rows_of_an_unfinished_run_are_marked(toolkit, stopped, edit):
    folder = stopped("x")
    kept = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:15]
    (folder / "metrics.jsonl").write_text(
        "".join(kept)
    )  # of 17: rows behind the last checkpoint may go
    assert story.read(folder).changed == ()
    edit(folder / "metrics.jsonl")
    assert story.read(folder).changed == ("metrics.jsonl",)


GARBAGE = {
    "config.yaml": ["seed: x", "claims: 3", "claims: {w0: {at_mist: 1}}", "seeds: 99999999999", "steps: [", ""],
    "run.json": ['{"seconds": "x"}', '{"seconds": 1e999}', '{"final": 3}', '{"command": []}', "[]", '{"steps": "x"}'],
    "metrics.jsonl": ["[1]\n", '{"step": "x"}\n', '{"step": 1, "seconds": "x"}\n', '{"step": 1, "seconds": 1e999}\n'],
    "final/metrics.json": ['{"w0": "x"}', '{"w0": NaN}', '{"w0": null}', "[]", '{"w0": 1' + "0" * 400 + "}"],
}  # fmt: skip


def test_what_makes_no_sense_is_refused_in_one_line(toolkit, finished):
    """A config's last key counts only once, so a garbled one stands in place of ours."""
    for name, texts in GARBAGE.items():
        for text in texts:
            shutil.rmtree("x", ignore_errors=True)
            shutil.copytree("whole", "x")
            path = Path("x") / name
            if name == "config.yaml" and ":" in text:
                key = text.partition(":")[0]
                kept = [
                    line for line in path.read_text().splitlines() if not line.startswith(f"{key}:")
                ]
                text = "\n".join([*kept, text])
            path.write_text(text)
            for words in (
                ("report", "x"),
                ("export", "x", "--format", "csv"),
                ("report", "x", "x/"),
            ):
                code, _, err = toolkit(
                    *words, *(["--out", "page.html"] if words[0] == "report" else [])
                )
                assert code in (0, 2, 3) and "internal" not in "".join(err), (
                    name,
                    text,
                    words,
                    err,
                )
                assert err, (name, text, words)
