"""Configs mutated at random: each is valid still, or refused in words that name what was done to it."""

from __future__ import annotations

import functools
import os
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.run.conftest import ROOT
from tests.run.torture import kit
from toolkit.run.experiment import load, plain_yaml
from toolkit.run.experiment.errors import RunError

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LETTERS = "abcdefghijklmnopqrstuvwxyz_"
SECONDS = 1.0  # of this process's own CPU time for the slowest refusal; other work on the machine does not count


class Mutant(NamedTuple):
    """A text, what its refusal has to name, and whether it should suggest the name that it was."""

    text: str
    named: str | None = None  # the key, as it stands in the text
    placed: bool = False  # whether it has a line
    near: str | None = None


def places(value, path=()):
    """The path of every key of a mapping."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from places(item, (*path, key))


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def misspelled(name, draw):
    i = draw.randrange(len(name))
    other = draw.choice(LETTERS)
    kinds = [
        name[:i] + other + name[i:],
        name[:i] + name[i + 1 :],
        name[:i] + other + name[i + 1 :],
    ]
    return next((kind for kind in draw.sample(kinds, 3) if kind not in ("", name)), name + "x")


def renamed(tree, path, new):
    parent = at(tree, path[:-1])
    items = [(new if key == path[-1] else key, value) for key, value in parent.items()]
    parent.clear()
    parent.update(items)


def typo_in_a_key(tree, path, draw):
    new = misspelled(path[-1], draw)
    if new in at(tree, path[:-1]):
        return None
    renamed(tree, path, new)
    suggested = None if path[-1] == "kind" else path[-1]
    return Mutant(
        plain_yaml.dump(tree),
        path[-1] if path[-1] in ("kind", "experiment") else new,
        False,
        suggested,
    )


def typo_in_a_kind(tree, path, draw):
    if path[-1] not in ("kind", "experiment"):
        return None
    old = at(tree, path)
    at(tree, path[:-1])[path[-1]] = misspelled(old, draw)
    return Mutant(plain_yaml.dump(tree), path[-1], True, old)


WRONG = [
    "text", "", "\x1b[2J", "line\nerror: forged", "é" * 300, [], [[1]], {"a": 1}, {"kind": "none"}, {}, -1, -1.5,
    10**30, 1e308, float("nan"), float("inf"), True, None, "1e-3", "no", [{"x": {"y": []}}], "../../etc/passwd", "\x00",
]  # fmt: skip


def another_value(tree, path, draw):
    at(tree, path[:-1])[path[-1]] = draw.choice(WRONG)
    return Mutant(plain_yaml.dump(tree), path[-1], True)


def a_missing_key(tree, path, draw):
    del at(tree, path[:-1])[path[-1]]
    return Mutant(plain_yaml.dump(tree), path[-1])


def one_more_key(tree, path, draw):
    name = draw.choice(
        ["zzz", "stepz", "a b", "\x1b[31m", "__class__", "x" * 500, "1", "null", "é", "="]
    )
    at(tree, path[:-1])[name] = draw.choice(WRONG)
    return Mutant(
        plain_yaml.dump(tree), name if name.isprintable() and len(name) < 50 else None, True
    )


def a_key_twice(tree, path, draw):
    if len(path) > 1:
        return None
    line = plain_yaml.dump({path[0]: tree[path[0]]})
    return Mutant(plain_yaml.dump(tree) + line, path[0], True)


SURPRISES = [
    "&a 1",
    "*a",
    "!!python/object/apply:os.system [id]",
    "!!int 3",
    "{<<: {a: 1}}",
    "010",
    "[" * 60,
    "1" * 5000,
]


def a_surprise(tree, path, draw):
    at(tree, path[:-1])[path[-1]] = "SURPRISE"
    return Mutant(plain_yaml.dump(tree).replace("SURPRISE", draw.choice(SURPRISES)))


def noise(tree, path, draw):
    text = plain_yaml.dump(tree)
    for _ in range(draw.randint(1, 4)):
        i = draw.randrange(len(text))
        insert = draw.choice(
            [
                "\x00",
                "\t",
                ":",
                "- ",
                "{",
                "]",
                '"',
                "'",
                "#",
                "&",
                "*",
                "!",
                "%",
                "\ud7ff",
                "\n",
                " ",
            ]
        )
        text = text[:i] + insert + text[i + draw.randint(0, 3) :]
    return Mutant(text)


KINDS = (
    typo_in_a_key,
    typo_in_a_kind,
    another_value,
    a_missing_key,
    one_more_key,
    a_key_twice,
    a_surprise,
    noise,
)


def mutant(draw):
    """(the mutation's name, a mutant of a config that ships)."""
    while True:
        tree = plain_yaml.parse(TEXTS[draw.randrange(len(TEXTS))], "x").value
        kind, path = draw.choice(KINDS), draw.choice(list(places(tree)))
        found = kind(tree, path, draw)
        if found is not None:
            return kind.__name__, found


TEXTS = [path.read_text() for path in CONFIGS]


@pytest.fixture
def at_home(monkeypatch):
    """In the project's root, where the experiments of the configs are."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(load, "_schema", functools.cache(load._schema))


def refusal(path) -> list[str] | None:
    """The lines that refuse a config, or None where it is valid."""
    try:
        loaded = load.load(path)
    except RunError as error:
        assert error.code == 2, error
        return error.lines()
    again = path.with_name("again.yaml")
    again.write_text(plain_yaml.dump(loaded.resolved))
    assert load.load(again).resolved == loaded.resolved
    return None


@pytest.mark.parametrize("count", [400, kit.full(10_000)])
def test_mutated_configs_are_refused_by_name(tmp_path, at_home, count):
    draw, path, slowest = random.Random(11), tmp_path / "mutant.yaml", 0.0
    tally: dict[str, list[Any]] = {"refused": [], "named": [], "placed": [], "near": []}
    for _ in range(count):
        kind, made = mutant(draw)
        path.write_bytes(made.text.encode())
        began = time.process_time()
        lines = refusal(path)
        slowest = max(slowest, time.process_time() - began)
        tally["refused"].append(lines is not None)
        if lines is None:
            continue
        text = "\n".join(lines)
        assert all(line.startswith("error: ") and line.isprintable() for line in lines), lines
        assert len(text.encode()) <= 2000
        assert str(path) in text
        if made.named is not None:
            tally["named"].append((made.named in text, kind, made.named, text))
        if made.placed:
            tally["placed"].append((f"{path}:" in text, kind, made.named, text))
        if made.near is not None:
            tally["near"].append((f"did you mean `{made.near}`" in text, kind, made.near, text))
    for what in ("named", "placed", "near"):
        met = [entry[0] for entry in tally[what]]
        print(f"{what}: {sum(met)} of {len(met)}")
        failed = [entry[1:] for entry in tally[what] if not entry[0]]
        assert sum(met) >= 0.95 * len(met), "\n".join(map(str, failed[:10]))
    print(f"refused {sum(tally['refused'])} of {count}, the slowest in {slowest * 1000:.0f} ms")
    assert sum(tally["refused"]) > count / 2
    assert slowest < SECONDS


@pytest.mark.parametrize("count", [2, kit.full(100)])
def test_the_command_refuses_and_leaves_nothing(work, count):
    draw = random.Random(12)
    (work / "experiments/stream.py").unlink()
    (work / "experiments").rmdir()
    (work / "experiments").symlink_to(ROOT / "experiments")
    refused, slowest = 0, 0.0
    while refused < count:
        made = mutant(draw)[1]
        Path("mutant.yaml").write_bytes(made.text.encode())
        try:
            load.load(Path("mutant.yaml"))
            continue
        except RunError:
            refused += 1
        before = sorted(work.rglob("*"))
        began = time.monotonic()
        code, out, err = kit.finish("run", "mutant.yaml", "--out", "deep/x")
        slowest = max(slowest, time.monotonic() - began)
        assert (code, out) == (2, "")
        assert err.startswith("error: ") and len(err.encode()) <= 2001
        assert all(line.isprintable() for line in err.splitlines())
        assert sorted(work.rglob("*")) == before
    print(
        f"slowest refusal, with the start of Python, {slowest:.2f} s, load {os.getloadavg()[0]:.0f}"
    )


def deep(path):
    path.write_text("a: " * 40 + "1" + "\nb: " + "[" * 40 + "]" * 40)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "regular file"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        (lambda path: path.mkdir(), "cannot read"),
        (lambda path: path.write_bytes(b"a: 1\n" * 300_000), "too large"),
        (lambda path: path.write_text("a:\n" + "".join(" " * (i + 1) + "b:\n" for i in range(40))), "nested too deeply"),
        (lambda path: path.write_bytes(b"steps: \xff\xfe"), "not UTF-8"),
        (lambda path: path.write_text("steps: 1", "utf-16"), "not UTF-8"),
        (lambda path: os.truncate(path.open("wb").name, 1 << 40), "too large"),
    ],
)  # fmt: skip
def test_files_that_are_no_config_are_refused_at_once(toolkit, make, words):
    path = Path("other.yaml")
    make(path)
    began = time.process_time()
    code, _, err = toolkit("run", path, "--out", "x")
    assert time.process_time() - began < SECONDS
    assert (code, len(err)) == (2, 1)
    assert words in err[0]
    assert not Path("x").exists()
