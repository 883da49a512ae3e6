"""The loader: numbers of YAML 1.2, lines of every key, and a refusal for all that could surprise."""

import os

import pytest

from toolkit.run.experiment import plain_yaml
from toolkit.run.experiment.errors import RunError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E3", 1e3), (".5", 0.5), ("-3", -3), ("1.", 1.0), ("0x1f", 31), ("0", 0),
        ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("1_000", "1_000"), ("2026-01-01", "2026-01-01"),
        ("true", True), ("null", None), ("~", None), ("", None), ('"1"', "1"), ("'010'", "010"),
        ("[1, {a: b}]", [1, {"a": "b"}]), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_scalars_mean_what_yaml_1_2_says(text, value):
    found = plain_yaml.parse(text, "x").value
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "x:2: a: duplicate key"),
        ("a: &b 1", "anchors"),
        ("a: *b", "anchors"),
        ("a: !!python/object:os.system x", "tags"),
        ("a: {<<: {b: 1}}", "merge"),
        ("a: 010", "ambiguous number"),
        ("a: 1\n---\nb: 2", "second document"),
        ("a: [1", "not YAML"),
        ("? [a]\n: 1", "bad key"),
        ("[" * 40, "nested too deeply"),
        ("a: " + "1" * 5000, "at most"),
        ("a: \x00", "not YAML"),
    ],
)
def test_refusals_are_one_short_line(text, words):
    with pytest.raises(RunError) as caught:
        plain_yaml.parse(text, "x")
    (line,) = caught.value.lines()
    assert words in line
    assert len(line.encode()) <= 2000
    assert caught.value.code == 2


def test_files_must_be_regular_small_and_utf8(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"a" * (plain_yaml.MAX_BYTES + 1))
    (tmp_path / "latin").write_bytes(b"a: 1\nb: \xe9")
    for name, words in [
        ("pipe", "regular"),
        ("large", "too large"),
        ("latin", "latin:2"),
        ("none", "cannot read"),
    ]:
        with pytest.raises(RunError, match=words):
            plain_yaml.read(tmp_path / name)
    with pytest.raises(RunError, match="regular"):
        plain_yaml.read("/dev/zero")


def test_dump_is_read_back_as_the_same_value():
    value = {
        "text": ["no", "1e-4", "010", "", "null", "a: b", "# c", "two\nlines", "é", "<<", " x "],
        "numbers": [1e-5, 1.0, 1e300, 0.1, -0.0, 3, float("inf")],
        "nested": {
            "empty": {},
            "list": [],
            "flags": [True, False, None],
            "deep": [{"a": [1, [2]]}],
        },
    }
    assert plain_yaml.parse(plain_yaml.dump(value), "x").value == value


def test_lines_are_those_of_the_keys():
    document = plain_yaml.parse("a: 1\nb:\n  c:\n    - 2\n    - d: 3\n", "x")
    assert document.lines[("b", "c")] == 3
    assert document.lines[("b", "c", 1, "d")] == 5
