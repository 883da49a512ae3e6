"""The loader: numbers of YAML 1.2, lines of every key, and a refusal for all that could surprise."""

import os
import random

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


PIECES = [
    *"ab1.e-+ #:'\"\\\n\t\r[]{},&*!|>%@`?~",
    "\x85",
    "\u2028",
    "\u2029",
    "\xa0",
    "\ufeff",
    "é",
    "日",
    "\U0001f600",
    "\x00",
]
PIECES += [
    "\x07",
    "\x1b",
    "\x7f",
    "\u200b",
    "\x0b",
    "\x0c",
    "---",
    "...",
    "<<",
    "no",
    "null",
    "1e3",
]


def test_every_text_is_read_back_as_it_was_written():
    """Line breaks that YAML 1.1 knows, control characters and signs of YAML itself, as keys and as values."""
    draw = random.Random(0)
    for _ in range(3000):
        text = "".join(draw.choices(PIECES, k=draw.randint(0, 8)))
        value = {"text": text, "list": [text, [text]], "key": {text: 1}}
        assert plain_yaml.parse(plain_yaml.dump(value), "x").value == value, repr(text)


@pytest.mark.parametrize("text", ["a: it\x85s", "a: 'x\u2028y'", "# a comment\u2029b: 1"])
def test_a_line_break_that_only_yaml_1_1_has_is_refused(text):
    with pytest.raises(RunError, match=r"x:1: a line break of YAML 1.1"):
        plain_yaml.parse(text, "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("run #3", "run #3"), ("#5", "#5"), ("5 # five", "5 # five"), ("'run #3'", "run #3"), ("5", 5), (" 1e-3 ", 1e-3),
        ("a\nb", "a\nb"), ("a\x85b", "a\x85b"), ("", None), ("x#y", "x#y"), ("{a: 'x #y'}", {"a": "x #y"}),
        ("a: 1 # c", "a: 1 # c"), ("[a, b]", ["a", "b"]), ("\ufeffx", "\ufeffx"),
    ],
)  # fmt: skip
def test_a_value_of_the_command_line_is_taken_whole(text, value):
    found = plain_yaml.parse_value(text, "x")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["'run' #3", "[1, 2] # é", '{a: "#"} #b', "caf\udce9"])
def test_a_value_of_which_something_would_be_lost_is_refused(text):
    with pytest.raises(RunError, match=r"a comment behind the value|not UTF-8"):
        plain_yaml.parse_value(text, "x")
