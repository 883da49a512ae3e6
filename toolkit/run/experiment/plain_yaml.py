"""YAML for configs: the 1.2 core numbers, no tags, no aliases, no surprises, and the line of every key.

PyYAML alone reads `1e-4` as text, `no` as False, `010` as 8 and keeps the last of two equal keys. Only its
parser and its emitter are used here; what a scalar means is decided by `scalar`, for reading and for writing
alike.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from toolkit.run.experiment.errors import Exit, RunError, fail, shown

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
# Python refuses to convert an integer of thousands of digits, with another message. No setting needs them.
MAX_DIGITS = 400

# libyaml's parser where PyYAML was built with it, because it is many times faster.
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NOT_YAML = re.compile("[\x85\u2028\u2029]")
_COMMENT = re.compile(r"(?:^|\s)#")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

Path_ = tuple[str | int, ...]  # where a node sits: keys of mappings and positions in lists


class Document(NamedTuple):
    """A parsed text: its value, and the line (from 1) at which each node starts."""

    value: Any
    lines: dict[Path_, int]


def read(path: Path) -> Document:
    """The document in a regular UTF-8 file of at most 1 MiB.

    Raises: RunError (exit 2) that names the file and, where there is one, the line.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise fail(Exit.CONFIG, path, "cannot read", reason, "a YAML file") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        got = (
            "a directory"
            if stat.S_ISDIR(status.st_mode)
            else "something that is not a regular file"
        )
        raise fail(Exit.CONFIG, path, "cannot read", got, "a YAML file")
    with open(descriptor, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise fail(
            Exit.CONFIG, path, "too large", f"{status.st_size} bytes", f"at most {MAX_BYTES}"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise fail(
            Exit.CONFIG, f"{path}:{line}", "not UTF-8", f"byte 0x{data[error.start]:02x}", "UTF-8"
        ) from None
    return parse(text, str(path))


def parse(text: str, where: str) -> Document:
    """The single document in `text`. `where` (a file name, or `command line`) opens every error message."""
    lines: dict[Path_, int] = {}
    try:
        text.encode()
    except (
        UnicodeEncodeError
    ) as error:  # bytes of the command line that are not UTF-8 arrive as surrogates
        got = ascii(text[error.start])
        raise fail(Exit.CONFIG, where, "not UTF-8", got, "text in UTF-8") from None
    if found := _NOT_YAML.search(text):
        # PyYAML takes these for line breaks, as YAML 1.1 does, and would fold them into spaces.
        place = f"{where}:{text.count(chr(10), 0, found.start()) + 1}"
        expected = 'an escape within double quotes: "\\N", "\\L" or "\\P"'
        raise fail(Exit.CONFIG, place, "a line break of YAML 1.1", shown(found[0]), expected)
    events = yaml.parse(text, Loader=_PARSER)
    try:
        first = _skip_to_content(events)
        value = None if first is None else _node(first, events, (), lines, where)
        _refuse_second_document(events, where)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        reason = (
            getattr(error, "problem", None) or getattr(error, "reason", None) or "malformed text"
        )
        raise fail(Exit.CONFIG, place, "not YAML", str(reason), "a YAML document") from None
    return Document(value, lines)


def parse_value(text: str, where: str) -> Any:
    """A value as the command line gives it: read like a config, but nothing of a text is lost.

    A config may have comments and fold lines. Here `run #3` is a text, and a line break is a part of it.

    Raises: RunError (exit 2), also for a comment behind a value in quotes or brackets.
    """
    whole = text.strip(" \t")
    quoted = whole.startswith(("'", '"', "[", "{", "|", ">"))
    if not quoted and (_COMMENT.search(whole) or _NOT_YAML.search(whole)):
        return whole
    value = parse(text, where).value
    if isinstance(value, str) and not quoted:
        return whole
    if _COMMENT.search(whole) and _has_comment(whole):
        expected = "a value alone, or quotes around all of it"
        raise fail(Exit.CONFIG, where, "a comment behind the value", shown(text), expected)
    return value


def _has_comment(text: str) -> bool:
    """Whether a valid text has a comment: a `#` between two of its tokens."""
    end = 0
    for token in yaml.scan(text, Loader=_PARSER):
        if "#" in text[end : token.start_mark.index]:
            return True
        end = token.end_mark.index
    return False


def scalar(text: str) -> Any:
    """What an unquoted scalar means in the YAML 1.2 core schema.

    Raises: ValueError for a number with leading zeros, which YAML 1.1 reads as octal and YAML 1.2 as decimal,
        and for a number of hundreds of digits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _LEADING_ZERO.fullmatch(text):
        raise ValueError("a number without leading zeros, or quotes around a text")
    if _BASED.fullmatch(text) or _FLOAT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number of at most {MAX_DIGITS} characters")
        if _BASED.fullmatch(text):
            return int(text, 0)
        return int(text) if _INT.fullmatch(text) else float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    if text in (".nan", ".NaN", ".NAN"):
        return float("nan")
    return text


def dump(value: Any) -> str:
    """YAML text that `parse` reads back as the same value, keys in the order given."""
    opening = [yaml.StreamStartEvent(), yaml.DocumentStartEvent(explicit=False)]
    closing = [yaml.DocumentEndEvent(explicit=False), yaml.StreamEndEvent()]
    return yaml.emit([*opening, *_events(value), *closing], allow_unicode=True, width=100)


def inline(value: Any) -> str:
    """A value on one line, as an override writes it."""
    simple = not isinstance(value, dict | list)
    return dump(value).partition("\n")[0] if simple else json.dumps(value)


def _skip_to_content(events: Iterator[Any]) -> Any:
    for event in events:
        if not isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
            return None if isinstance(event, yaml.StreamEndEvent) else event
    return None


def _refuse_second_document(events: Iterator[Any], where: str) -> None:
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            raise _refusal(where, event, "a second document", "---", "one document a file")


def _node(
    event: Any, events: Iterator[Any], path: Path_, lines: dict[Path_, int], where: str
) -> Any:
    lines[path] = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _refusal(
            where,
            event,
            "anchors and aliases are refused",
            str(event.anchor),
            "the value written out",
        )
    if event.tag is not None:
        raise _refusal(where, event, "tags are refused", event.tag, "a value without a tag")
    if len(path) > MAX_DEPTH:
        raise _refusal(
            where,
            event,
            "nested too deeply",
            f"more than {MAX_DEPTH} levels",
            f"at most {MAX_DEPTH}",
        )
    if isinstance(event, yaml.ScalarEvent):
        return _scalar_at(event, path, where)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_node(item, events, (*path, len(items)), lines, where))
        return items
    mapping: dict[str, Any] = {}
    while not isinstance(key := next(events), yaml.MappingEndEvent):
        name = _key(key, mapping, path, where)
        value = next(events)
        mapping[name] = _node(value, events, (*path, name), lines, where)
        # An error should name the line of the key, also where the value begins further down.
        lines[(*path, name)] = key.start_mark.line + 1
    return mapping


def _scalar_at(event: Any, path: Path_, where: str) -> Any:
    if not event.implicit[0]:  # quoted
        return event.value
    try:
        return scalar(event.value)
    except ValueError as error:
        place = dotted(path) or "value"
        raise _refusal(
            where, event, f"{place}: ambiguous number", event.value[:80], str(error)
        ) from None


def _key(event: Any, mapping: dict[str, Any], path: Path_, where: str) -> str:
    if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
        raise _refusal(
            where, event, "bad key", "an alias, tag, anchor or collection", "a plain name"
        )
    if event.value == "<<" and event.implicit[0]:
        raise _refusal(where, event, "merge keys are refused", "<<", "the keys written out")
    if event.value in mapping:
        raise _refusal(
            where,
            event,
            f"{dotted((*path, event.value))}: duplicate key",
            shown(event.value),
            "it once",
        )
    return event.value


def _refusal(where: str, event: Any, what: str, got: str, expected: str) -> RunError:
    return fail(Exit.CONFIG, f"{where}:{event.start_mark.line + 1}", what, got, expected)


def dotted(path: Path_) -> str:
    """`("adjoint", "layers", 0)` as `adjoint.layers.0`, as an override on the command line would write it."""
    return ".".join(map(str, path))


def _events(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield yaml.MappingStartEvent(None, None, implicit=True, flow_style=not value)
        for key, item in value.items():
            yield from _events(str(key))
            yield from _events(item)
        yield yaml.MappingEndEvent()
    elif isinstance(value, list | tuple):
        short = not any(isinstance(item, dict | list | tuple) for item in value)
        yield yaml.SequenceStartEvent(None, None, implicit=True, flow_style=short)
        for item in value:
            yield from _events(item)
        yield yaml.SequenceEndEvent()
    elif isinstance(value, str):
        plain = _reads_as_text(value)
        # Within double quotes the emitter writes `\\N` for U+0085 and `\\n` for a line break. Elsewhere a
        # reader would fold them into spaces.
        style = '"' if not value.isprintable() else None if plain else "'"
        yield yaml.ScalarEvent(
            None, None, implicit=(plain and style is None, True), value=value, style=style
        )
    else:
        yield yaml.ScalarEvent(None, None, implicit=(True, False), value=_number(value))


def _reads_as_text(value: str) -> bool:
    try:
        return isinstance(scalar(value), str) and value != "<<"
    except ValueError:
        return False


def _number(value: bool | int | float | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)  # for a float, the shortest digits that read back as the same float
    return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(text, text)
