"""Every command on every kind of path: one line and an exit code that is not that of a bug."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.run.torture.conftest import SHORT

FILES = {
    "nothing": b"",
    "binary": bytes(range(256)) * 10,
    "utf-16": "experiment: stream\n".encode("utf-16"),
    "a\nline": b"experiment: nothing\n",
    "\U0001f600 x": b"experiment: [\n",
    "-x": b"a",
    "a\x85b": b"a: b",
    "\x1b[31m": b"\x1b[31m",
    "[b]%s{}": b"[",
}
LINKS = {
    "loop": "loop",
    "dangling": "nowhere",
    "null": "/dev/null",
    "zero": "/dev/zero",
    "memory": "/proc/self/mem",
}
PATHS = ["missing", "", ".", "..", "/", "nothing/x", "x" * 300, "/".join(["y" * 200] * 30), "\udce9", "/proc/self", "fifo", "empty", "terabyte"]  # fmt: skip


@pytest.fixture
def paths(work):
    for name, data in FILES.items():
        Path(name).write_bytes(data)
    for name, target in LINKS.items():
        Path(name).symlink_to(target)
    os.mkfifo("fifo")
    Path("empty").mkdir()
    with open("terabyte", "wb") as file:
        file.truncate(1 << 40)
    return [*PATHS, *LINKS, *("./" + name for name in FILES)]


COMMANDS = [
    ["report", "?"], ["report", "?", "?/x", "--out", "page.html"], ["export", "?", "--format", "csv"], ["resume", "?"],
    ["explain", "?"], ["schema", "?"], ["check", "?"], ["run", "?"], ["sweep", "?", "seed=0:2"], ["list", "?"],
    ["audit", "?"], ["describe", "?"], ["check", "stream.yaml", "?"],
]  # fmt: skip


def is_one_line(code, err):
    errors = [line for line in err if not line.startswith("warning: ")]
    return (
        code in (2, 3, 4, 5) and len(errors) >= 1 and all(e.startswith("error: ") for e in errors)
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_path_that_leads_nowhere_is_one_line(toolkit, paths, words):
    for path in paths:
        code, _, err = toolkit(*(word.replace("?", path) for word in words))
        assert is_one_line(code, err), (path, code, err)


def gone(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder(path):
    gone(path)
    path.mkdir()


def loop(path):
    gone(path)
    path.symlink_to(path.name)


def garbage(path):
    with contextlib.suppress(IsADirectoryError):
        path.write_bytes(b"\xff\xfe\x00")


PARTS = [
    "run.json",
    "config.yaml",
    "metrics.jsonl",
    "events.jsonl",
    "final",
    "final/metrics.json",
    "checkpoints",
]


def test_a_run_that_lacks_a_part_is_reported_or_refused(toolkit, finished):
    for part in PARTS:
        for damage in (gone, folder, loop, garbage):
            shutil.rmtree("x", ignore_errors=True)
            shutil.copytree("whole", "x")
            damage(Path("x") / part)
            for words in (
                ["report", "x", "--out", "page.html"],
                ["export", "x", "--format", "csv"],
                ["resume", "x"],
                ["explain", "x"],
            ):
                code, _, err = toolkit(*words)
                assert code == 0 or is_one_line(code, err), (part, damage, words, code, err)


def test_outputs_that_cannot_be_written_are_one_line(toolkit, finished, paths):
    for path in (
        "nothing/x",
        "x" * 300,
        "x" * 250,
        "",
        "/proc/nowhere/x",
        "empty",
        "loop/x",
        "~nobody-of-this-name",
    ):
        for words in (["report", "whole"], ["export", "whole", "--format", "csv"]):
            code, _, err = toolkit(*words, f"--out={path}")
            assert is_one_line(code, err), (path, words, code, err)


def test_a_device_is_not_replaced_by_a_page(toolkit, finished):
    """Pages are written aside and renamed, which would remove a device of the name."""
    os.mkfifo("pipe")
    for words in (["report", "whole"], ["export", "whole", "--format", "csv"]):
        code, _, err = toolkit(*words, "--out", "pipe")
        assert is_one_line(code, err) and Path("pipe").is_fifo()


def test_names_that_attack_a_page_go_through_every_command(toolkit, work):
    names = ["a\nb", "\udce9", "</script>", "$title", "run"]
    source = work / "experiments/stream.py"
    text = source.read_text().replace(
        'metrics = {"loss": loss,',
        f"names = {names!r}\n        metrics = {{**dict.fromkeys(names, loss), ",
    )
    text = text.replace(
        '{"w0": state.w[0]}', f'{{"w0": state.w[0], **dict.fromkeys({names!r}, 1.0)}}'
    )
    source.write_text(text)
    assert toolkit("run", "stream.yaml", *SHORT, "--out", "x")[0] == 0
    shutil.copytree("x", "y")
    for words in (
        ["report", "x"],
        ["report", "x", "y", "--out", "page.html"],
        ["export", "x", "--format", "csv", "--out", "x.csv"],
    ):
        assert toolkit(*words)[0] == 0
    assert set(names) <= set(json.loads(Path("x/final/metrics.json").read_text()))
