"""Damage to any file of a run: the same bits from an older checkpoint, or a refusal; nothing silently different."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from tests.run.torture import kit

FILES = ("state.safetensors", "manifest.json")


def flip(path, draw):
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(path, draw):
    os.truncate(path, draw.randrange(path.stat().st_size))


def zero(path, draw):
    data = bytearray(path.read_bytes())
    at = draw.randrange(len(data))
    data[at : at + 64] = bytes(len(data[at : at + 64]))
    path.write_bytes(data)


def extend(path, draw):
    with open(path, "ab") as file:
        file.write(draw.randbytes(draw.choice([1, 64, 5000])))


def swap(path, draw):
    """With its namesake of another step."""
    steps = [entry for entry in path.parent.parent.iterdir() if entry != path.parent]
    others = [entry / path.name for entry in sorted(steps) if (entry / path.name).is_file()]
    if not others:
        return delete(path, draw)
    other = draw.choice(others)
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def delete(path, draw):
    path.unlink() if draw.random() < 0.5 else shutil.rmtree(path.parent)


MUTATIONS = (flip, flip, truncate, zero, extend, swap, delete)


def contents(folder):
    """Every file below a folder, to see whether any changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def stored_sums(folder):
    """What can be resumed from, by step; a swap of equal files is no damage."""
    return {
        entry.name: hashlib.sha256(b"".join((entry / name).read_bytes() for name in FILES)).digest()
        for entry in (folder / "checkpoints").iterdir()
        if all((entry / name).is_file() for name in FILES)
    }


@pytest.mark.parametrize("count", [12, kit.full(500)])
def test_mutated_checkpoints_are_never_silently_different(toolkit, finished, stopped, count):
    draw, outcomes = random.Random(7), {0: 0, 3: 0}
    for number in range(count):
        folder = stopped("x")
        before = stored_sums(folder)
        hit = draw.sample(["10", "20", "30"], draw.choice([1, 1, 1, 2, 3]))
        if number % 3 == 0 and "30" not in hit:
            hit.append("30")
        for step in hit:
            path = folder / "checkpoints" / step / draw.choice(FILES)
            if path.exists():
                draw.choice(MUTATIONS)(path, draw)
        after = stored_sums(folder)
        intact = [step for step, found in after.items() if before[step] == found]
        present = sorted(entry.name for entry in (folder / "checkpoints").iterdir())
        held = contents(folder / "checkpoints")
        code, out, err = toolkit("resume", "x")
        assert code == (0 if intact or not present else 3), (number, err)
        outcomes[code] += 1
        if code == 3:
            assert len(err) == 1 and err[0].startswith("error: x/checkpoints/"), err
            assert contents(folder / "checkpoints") == held
            continue
        assert kit.result(folder)[:3] == finished[:3], number
        newest = max(map(int, intact), default=0)
        assert not newest or f"continuing from step {newest}" in out, (number, out)
        damaged = [step for step in present if int(step) > newest]
        for step in damaged:
            assert any(e.startswith(f"warning: x/checkpoints/{step}: damaged") for e in err), err
            assert (folder / f"checkpoints/{step}.damaged-1").exists()
    print(outcomes)


def other_rows(path, draw):
    lines = path.read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace('"loss": ', '"loss": 1')
    path.write_text("".join(lines))


def other_rate(path, draw):
    path.write_text(path.read_text().replace("rate: 0.05", "rate: 0.06"))


def half_a_row(path, draw):
    path.write_bytes(path.read_bytes()[:-7])


def a_later_row(path, draw):
    """Of a step that is repeated."""
    data = path.read_bytes()
    path.write_bytes(data[:-20] + b"x" + data[-19:])


def not_an_object(path, draw):
    path.write_text("[1]")


def other_types(path, draw):
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "environment": [], "drift": {}}))


@pytest.mark.parametrize(
    ("name", "mutation", "code", "words"),
    [
        ("metrics.jsonl", other_rows, 3, "x/checkpoints/30: no usable checkpoint, got metrics.jsonl: wrong checksum"),
        ("metrics.jsonl", lambda path, _: path.unlink(), 3, "no usable checkpoint"),
        ("metrics.jsonl", half_a_row, 0, ""),
        ("metrics.jsonl", a_later_row, 0, ""),
        ("metrics.jsonl", lambda path, _: os.truncate(path, 900), 0, "x/checkpoints/30: damaged (metrics.jsonl: 900 bytes"),
        ("config.yaml", other_rate, 3, "x/config.yaml: changed since the start, got sha256"),
        ("config.yaml", flip, 3, "x/config.yaml: changed since the start, got sha256"),
        ("run.json", not_an_object, 3, "x/run.json: damaged, got another type"),
        ("run.json", other_types, 3, "x/run.json: damaged, got another type of environment"),
        ("run.json", truncate, 3, "x/run.json: damaged"),
        ("run.json", lambda path, _: path.write_text("[" * 100_000), 3, "x/run.json: damaged"),
        ("run.json", lambda path, _: path.unlink(), 2, "x: not a run directory"),
        ("events.jsonl", truncate, 0, ""),
        ("events.jsonl", lambda path, _: path.unlink(), 0, ""),
        ("events.jsonl", lambda path, _: path.write_bytes(b"\x00\xff"), 0, ""),
    ],
)  # fmt: skip
def test_other_damaged_files_are_named_or_do_not_matter(
    toolkit, finished, stopped, name, mutation, code, words
):
    folder = stopped("x")
    mutation(folder / name, random.Random(3))
    found, _, err = toolkit("resume", "x")
    assert found == code, err
    assert any(words in line for line in err) or not words, err
    if code == 0:
        assert kit.result(folder)[:3] == finished[:3]
    else:
        assert len(err) == 1


@pytest.mark.parametrize("name", ["params.safetensors", "metrics.json"])
@pytest.mark.parametrize("mutation", [flip, truncate, lambda path, _: path.unlink()])
def test_a_damaged_result_of_an_unfinished_run_is_made_again(toolkit, finished, name, mutation):
    shutil.copytree("whole", "x")
    record = json.loads(Path("x/run.json").read_text())
    Path("x/run.json").write_text(json.dumps({**record, "status": "running"}))
    mutation(Path("x/final") / name, random.Random(3))
    code, _, err = toolkit("resume", "x")
    assert code == 0
    assert err == [f"warning: x/final: damaged ({name}), set aside as final.damaged-1"]
    assert kit.result("x") == finished


def test_a_result_changed_after_the_end_is_reported(toolkit, finished):
    path = Path("whole/final/metrics.json")
    path.write_text(path.read_text().replace('"w0": ', '"w0": 1'))
    code, _, err = toolkit("report", "whole", "--out", "page.html")
    assert code == 0
    assert err == ["warning: whole/final/metrics.json: changed since the run"]
