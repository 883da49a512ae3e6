"""Runs put into groups that differ only in their seed, and the values of a metric in each group.

A seed counts once in a group, however many copies, links, repetitions or sweeps bring it: a mean over one
seed that is counted three times would look three times as sure as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from toolkit.run.experiment import load
from toolkit.run.experiment.words import setting
from toolkit.run.report.story import Story
from toolkit.run.store import environment

SEED = "seed"
CODE = "code of the run"  # no field of a config has spaces in its name
SEEDS = ("seed", "seeds")  # what runs of one group may differ in
_OF_SEED = re.compile(r"(.+)\[(\d+)\]", re.DOTALL)


class Group(NamedTuple):
    """Runs of one config and code with different seeds, in the order given."""

    settings: dict[str, str]  # those that differ between groups, as text
    stories: list[Story]

    @property
    def finished(self) -> list[Story]:
        return [story for story in self.stories if story.record.get("status") == "finished"]

    @property
    def n(self) -> int:
        """Finished seeds; a run may be of several."""
        return sum(len(story.counted) for story in self.finished)

    @property
    def label(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items()) or "all runs"


def plain_names(names: Iterable[str], story: Story) -> list[str]:
    """Names of metrics, without the seed that a run of several seeds adds: `loss` for `loss[3]`."""
    if len(story.seeds) == 1:
        return list(names)
    matches = [(name, _OF_SEED.fullmatch(name)) for name in names]
    return list(dict.fromkeys(match[1] if match else name for name, match in matches))


def values(metrics: Mapping[str, Any], name: str, story: Story) -> list[Any]:
    """A metric of a row, or of the end, for each seed of the run that counts; those that it has."""
    several = len(story.seeds) > 1
    keys = [f"{name}[{seed}]" if several else name for seed in story.counted]
    return [metrics[key] for key in keys if metrics.get(key) is not None]


def each_seed_once(stories: Sequence[Story]) -> list[Story]:
    """The stories, each with the seeds of it that count, and the reason why others do not.

    Of several runs with the same config, code and seed, the first finished one counts, or else the first. A
    run whose files were changed does not count: nobody knows what it was a run of.
    """
    by_id: dict[int, Story] = {}
    taken: dict[tuple[Any, ...], Story] = {}
    keys = dict(zip(map(id, stories), _identities(stories), strict=True))
    for story in sorted(stories, key=lambda story: not _finished(story)):
        if story.changed:
            reason = f"changed since the run: {', '.join(story.changed)}"
            by_id[id(story)] = story._replace(counted=(), left_out=reason)
            continue
        others = {seed: taken.get((keys[id(story)], seed)) for seed in story.seeds}
        counted = tuple(seed for seed, other in others.items() if other is None)
        taken |= {(keys[id(story)], seed): story for seed in counted}
        repeated = {seed: other for seed, other in others.items() if other is not None}
        by_id[id(story)] = story._replace(counted=counted, left_out=_told(story, repeated))
    return [by_id[id(story)] for story in stories]


def not_counted(story: Story) -> list[str]:
    """A warning for a run that repeats others, or else nothing."""
    if not story.left_out or story.changed:
        return []  # of changed files there is a warning of its own
    which = "a part of its seeds is" if story.counted else "is"
    return [f"{story.path}: {which} not counted, {story.left_out}"]


def grouped(stories: Sequence[Story]) -> tuple[list[str], list[Group]]:
    """The settings besides the seed that differ, and the groups, in the order of their first runs.

    A run of which no seed counts is in no group.
    """
    stories = [story for story in stories if story.counted]
    configs = [load.fields(story.config) for story in stories]
    codes = _codes(stories)
    if len(set(codes)) > 1:
        configs = [{**config, CODE: code} for config, code in zip(configs, codes, strict=True)]
    keys = [key for key in differing(configs) if key not in SEEDS]
    told = [key for key in keys if not _implied(key, configs, keys)]
    groups: dict[tuple[str, ...], Group] = {}
    for story, settings in zip(stories, configs, strict=True):
        values = {key: written(settings[key]) if key in settings else "–" for key in keys}
        shown = {key: setting(settings[key]) if key in settings else "–" for key in told}
        groups.setdefault(tuple(values.values()), Group(shown, [])).stories.append(story)
    return told, list(groups.values())


def _finished(story: Story) -> bool:
    return story.record.get("status") == "finished"


def _identities(stories: Sequence[Story]) -> list[str]:
    """What two runs have in common that differ in their seed alone: the config without it, and the code."""
    return [
        written(
            {key: value for key, value in story.config.items() if key not in SEEDS} | {CODE: code}
        )
        for story, code in zip(stories, _codes(stories), strict=True)
    ]


def _codes(stories: Sequence[Story]) -> list[str]:
    """A short name of the code of each run, by which runs of an edited experiment can be told apart."""
    recorded = [environment.code_in(story.record.get("environment", {})) for story in stories]
    # A module that a run loads only at its end is unknown to a run that has not got there. So runs are told
    # apart only by files of which there are two versions.
    keys = [k for k in dict.fromkeys(k for r in recorded for k in r) if _versions(k, recorded) > 1]
    codes = [written([one.get(key) for key in keys]) for one in recorded]
    return [hashlib.sha256(code.encode()).hexdigest()[:8] for code in codes]


def _versions(key: str, recorded: Sequence[Mapping[str, Any]]) -> int:
    return len({one[key] for one in recorded if key in one})


def _told(story: Story, repeated: Mapping[int, Story]) -> str:
    """`seed 1 is in runs/s1`, for each run that has seeds of this one."""
    parts = []
    for path in dict.fromkeys(other.path for other in repeated.values()):
        seeds = [seed for seed, other in repeated.items() if other.path == path]
        other = repeated[seeds[0]]
        if story.path.resolve() == other.path.resolve():
            return f"the same directory as {other.path}"
        word = "seed" if len(seeds) == 1 else "seeds"
        numbers = ", ".join(map(str, seeds[:8])) + ("…" if len(seeds) > 8 else "")
        parts.append(f"{word} {numbers} in {other.path}{_unlike(story, other, seeds)}")
    return f"repeats {', '.join(parts)}" if parts else ""


def _unlike(story: Story, other: Story, seeds: Sequence[int]) -> str:
    """Whether two runs of the same seed ended with different numbers, which a run should never do."""
    if not story.metrics or not other.metrics:
        return ""

    for seed in seeds:
        one, two = story._replace(counted=(seed,)), other._replace(counted=(seed,))
        for name in plain_names(one.metrics, one):
            ends = values(one.metrics, name, one), values(two.metrics, name, two)
            if all(ends) and ends[0] != ends[1]:
                return " with other numbers"
    return ""


def _implied(key: str, configs: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> bool:
    """Whether a key tells groups apart only because a `kind` above it does.

    With `adjoint.kind` unroll and implicit, `adjoint.damping` is in some configs and not in others. If it has
    one value wherever it is, a column of it would say no more than the column of the kind.
    """
    parts = key.split(".")
    kinds = {".".join([*parts[:depth], "kind"]) for depth in range(1, len(parts))}
    values = {written(settings[key]) for settings in configs if key in settings}
    return len(values) == 1 and any(kind in keys and kind != key for kind in kinds)


def differing(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values differ between mappings. A missing key counts as a value of its own."""
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    return [key for key in keys if len({written(m[key]) if key in m else "" for m in mappings}) > 1]


def written(value: Any) -> str:
    """A value as text that no other value has: the text `1` and the number 1 differ."""
    return json.dumps(value, sort_keys=True)
