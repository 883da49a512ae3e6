"""The words of a sweep: `key=a,b,c` and `seed=0:5` to the overrides and the name of every run."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from toolkit.run.experiment import plain_yaml
from toolkit.run.experiment.errors import Exit, RunError, fail, printable, shown

MAX_RUNS = 10_000
NAME_LIMIT = 96  # characters; file systems stop at 255, and a run writes `.NAME.tmp-*` beside it
WHERE = "command line"
_RANGE = re.compile(r"(-?\d+):(-?\d+)(?::(-?\d+))?", re.ASCII)
_UNSAFE = re.compile(r"[^A-Za-z0-9._=-]+")
_OPENING, _CLOSING = "[{(", "]})"


class Axis(NamedTuple):
    """One word: a key and the values it takes, as they would be typed for `toolkit run`."""

    key: str
    values: tuple[str, ...]
    swept: bool  # written as a list or a range, also of one value

    def words(self) -> list[str]:
        return [f"{self.key}={value}" for value in self.values]


class Point(NamedTuple):
    """One combination of values: a run of the sweep."""

    name: str
    words: tuple[str, ...]  # its overrides, in the order typed


def parse(words: Iterable[str]) -> tuple[Axis, ...]:
    """The axes of the words. Raises: RunError (exit 2) for a word that is none, or a key given twice."""
    axes: list[Axis] = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            expected = "key=value, key=a,b,c or key=0:5"
            raise fail(Exit.CONFIG, WHERE, "not a setting to sweep", shown(word), expected)
        axis = _axis(key.strip(), text)
        if axis.key in {known.key for known in axes}:
            what = f"{printable(axis.key)[:80]}: given twice"
            expected = f"one word with all its values, {printable(axis.key)[:80]}=a,b,c"
            raise fail(Exit.CONFIG, WHERE, what, shown(word), expected)
        axes.append(axis)
    return tuple(axes)


def seeds_together(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """`seed=0:5` as `seed=0 seeds=5`: one run of all seeds. Raises: RunError (exit 2) for other lists of seeds."""
    found = next((axis for axis in axes if axis.key == "seed"), None)
    values = found.values if found else ()
    whole = all(re.fullmatch(r"\d{1,10}", value) for value in values)
    numbers = [int(value) for value in values] if whole else []
    if len(numbers) < 2 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        got = shown(", ".join(values)) if values else "no list of seeds"
        expected = "consecutive seeds, seed=0:5"
        raise fail(Exit.CONFIG, "--seeds-together", "wrong seeds", got, expected)
    # The number of seeds counts as swept, so that it stands in the name of the run.
    one = (Axis("seed", (values[0],), False), Axis("seeds", (str(len(values)),), True))
    return tuple(new for axis in axes for new in (one if axis.key == "seed" else (axis,)))


def product(axes: Sequence[Axis]) -> list[Point]:
    """Every combination, the last axis fastest, each with a name that its own words determine.

    Where nothing is swept, that is a single run, named by all that is set.

    Raises: RunError (exit 2) where more than `MAX_RUNS` runs are asked for.
    """
    count = math.prod(len(axis.values) for axis in axes)
    if count > MAX_RUNS:
        raise fail(
            Exit.CONFIG, "toolkit sweep", "too many runs", f"{count:,}", f"at most {MAX_RUNS:,}"
        )
    # A name holds the settings that are swept; those that hold for all runs tell no two of them apart.
    named = [axis.swept or not any(a.swept for a in axes) for axis in axes]
    points = []
    for words in itertools.product(*(axis.words() for axis in axes)):
        points.append(Point(name_of(itertools.compress(words, named)), words))
    return points


def name_of(words: Iterable[str]) -> str:
    """`seed=0,adjoint.kind=unroll`: one safe path component, made from the settings alone.

    Characters other than letters, digits and `._=-` are replaced, and long names are cut. Such a name ends in
    a hash of the settings, so that different settings have different names and the same settings always have
    the same name.
    """
    settings = [_canonical(word) for word in words]
    if not settings:
        return "run"
    plain = ",".join(
        _UNSAFE.sub("-", s).strip("-").replace("=-", "=") if _UNSAFE.search(s) else s
        for s in settings
    )
    if plain == ",".join(settings) and len(plain) <= NAME_LIMIT and plain[0].isalnum():
        return plain
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    return f"{plain[: NAME_LIMIT - 9].lstrip('._=-,') or 'run'}-{digest}"


def _canonical(word: str) -> str:
    """The setting with its value as YAML writes it: `0.001` for `1e-3`, quotes around the text `'1'`."""
    key, _, text = word.partition("=")
    value = plain_yaml.parse_value(text, f"{WHERE}: {printable(key)[:80]}")
    return f"{key}={plain_yaml.inline(value)}"


def _axis(key: str, text: str) -> Axis:
    pieces = [piece.strip() for piece in _split(text)]
    if len(pieces) > 1 and "" in pieces:
        what = f"{printable(key)[:80]}: empty value in the list"
        raise fail(Exit.CONFIG, WHERE, what, shown(text), "a value between commas, or null")
    values = [value for piece in pieces for value in _expanded(key, piece)]
    meant = [_canonical(f"{key}={value}") for value in values]
    twice = next(
        (value for value, m in zip(values, meant, strict=True) if meant.count(m) > 1), None
    )
    if twice is not None:
        what = f"{printable(key)[:80]}: the same value twice"
        raise fail(Exit.CONFIG, WHERE, what, shown(twice), "each value once")
    return Axis(key, tuple(values), swept=len(values) > 1 or bool(_RANGE.fullmatch(text.strip())))


def _expanded(key: str, piece: str) -> Iterable[str]:
    """The values of one piece between commas: itself, or those of a half-open range."""
    match = _RANGE.fullmatch(piece)
    if match is None:
        return [piece]
    if any(re.fullmatch(r"-?0\d+", part) for part in match.groups() if part):
        raise _bad_range(key, piece, "numbers without leading zeros, or quotes around a text")
    if max(len(part or "") for part in match.groups()) > 18:
        raise _bad_range(key, piece, "numbers of at most 18 digits")
    start, stop, step = int(match[1]), int(match[2]), int(match[3] or 1)
    if step == 0:
        raise _bad_range(key, piece, "a step other than 0")
    values = range(start, stop, step)
    if not values:
        raise _bad_range(key, piece, "start:stop or start:stop:step that holds a number")
    if len(values) > MAX_RUNS:
        raise _bad_range(key, piece, f"at most {MAX_RUNS:,} values")
    return map(str, values)


def _bad_range(key: str, piece: str, expected: str) -> RunError:
    return fail(Exit.CONFIG, WHERE, f"{printable(key)[:80]}: bad range", shown(piece), expected)


def _split(text: str) -> Iterator[str]:
    """The text cut at its commas, except those within brackets or quotes.

    A bracket or a quote that is never closed is left for the YAML parser to refuse.
    """
    depth, quote, start, previous = 0, "", 0, ","
    for i, character in enumerate(text):
        if quote:
            if character == quote and not (quote == '"' and previous == "\\"):
                quote = ""
        elif character in "'\"" and previous in ",[{(:":  # where a value begins; not in `don't`
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth <= 0:
            yield text[start:i]
            start = i + 1
        if not character.isspace():
            previous = character
    yield text[start:]
