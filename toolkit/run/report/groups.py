"""Runs put into groups that differ only in their seed, and the values of a metric in each group."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from toolkit.run.experiment import load
from toolkit.run.experiment.words import setting
from toolkit.run.report.story import Story

SEED = "seed"
SEEDS = ("seed", "seeds")  # what runs of one group may differ in
_OF_SEED = re.compile(r"(.+)\[(\d+)\]", re.DOTALL)


class Group(NamedTuple):
    """Runs of one config with different seeds, in the order given."""

    settings: dict[str, str]  # those that differ between groups, as text
    stories: list[Story]

    @property
    def finished(self) -> list[Story]:
        return [story for story in self.stories if story.record.get("status") == "finished"]

    @property
    def n(self) -> int:
        """Finished seeds; a run may be of several."""
        return sum(map(seeds_of, self.finished))

    @property
    def label(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items()) or "all runs"


def seeds_of(story: Story) -> int:
    return int(story.config.get("seeds", 1))


def plain_names(names: Iterable[str], story: Story) -> list[str]:
    """Names of metrics, without the seed that a run of several seeds adds: `loss` for `loss[3]`."""
    if seeds_of(story) == 1:
        return list(names)
    matches = [(name, _OF_SEED.fullmatch(name)) for name in names]
    return list(dict.fromkeys(match[1] if match else name for name, match in matches))


def values(metrics: Mapping[str, Any], name: str, story: Story) -> list[Any]:
    """A metric of a row, or of the end, for each seed of the run; those that it has."""
    if seeds_of(story) == 1:
        return [metrics[name]] if metrics.get(name) is not None else []
    first = int(story.config.get(SEED, 0))
    keys = [f"{name}[{seed}]" for seed in range(first, first + seeds_of(story))]
    return [metrics[key] for key in keys if metrics.get(key) is not None]


def grouped(stories: Sequence[Story]) -> tuple[list[str], list[Group]]:
    """The settings besides the seed that differ, and the groups, in the order of their first runs."""
    configs = [load.fields(story.config) for story in stories]
    keys = [key for key in differing(configs) if key not in SEEDS]
    told = [key for key in keys if not _implied(key, configs, keys)]
    groups: dict[tuple[str, ...], Group] = {}
    for story, settings in zip(stories, configs, strict=True):
        values = {key: setting(settings[key]) if key in settings else "–" for key in keys}
        shown = {key: values[key] for key in told}
        groups.setdefault(tuple(values.values()), Group(shown, [])).stories.append(story)
    return told, list(groups.values())


def _implied(key: str, configs: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> bool:
    """Whether a key tells groups apart only because a `kind` above it does.

    With `adjoint.kind` unroll and implicit, `adjoint.damping` is in some configs and not in others. If it has
    one value wherever it is, a column of it would say no more than the column of the kind.
    """
    parts = key.split(".")
    kinds = {".".join([*parts[:depth], "kind"]) for depth in range(1, len(parts))}
    values = {setting(settings[key]) for settings in configs if key in settings}
    return len(values) == 1 and any(kind in keys and kind != key for kind in kinds)


def differing(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values differ between mappings. A missing key counts as a value of its own."""
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    absent = object()
    return [key for key in keys if len({setting(m.get(key, absent)) for m in mappings}) > 1]
