"""Claims over several seeds, judged on the runs that differ in nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toolkit.run.experiment.errors import Complaint, Exit, RunError, printable
from toolkit.run.experiment.output import say
from toolkit.run.report import claims
from toolkit.run.report.claims import Verdict
from toolkit.run.report.story import Story


def finals(story: Story, names: Iterable[str]) -> list[Mapping[str, Any]]:
    """The named final metrics of each seed of a finished run; none before its end."""
    if story.durable is None:
        return []
    first, count = story.config.get("seed", 0), story.config.get("seeds", 1)
    return claims.by_seed(names, story.durable.metrics, first, count)


def groups(stories: Sequence[Story]) -> list[list[Story]]:
    """The stories in groups that differ in their seed alone.

    A seed counts once in a statistic: of several runs with the same seed, the first that is named is used.
    """
    found: dict[str, dict[int, Story]] = {}
    for story in stories:
        others = {key: value for key, value in story.config.items() if key != "seed"}
        runs = found.setdefault(json.dumps(others, sort_keys=True), {})
        runs.setdefault(story.config["seed"], story)
    return [list(runs.values()) for runs in found.values()]


def judge(stories: Sequence[Story]) -> list[Verdict]:
    """The verdicts on the claims over several seeds, for the finished runs of one group."""
    claimed = claims.from_record(stories[0].config.get("claims", {}))
    several = {name: claim for name, claim in claimed.items() if claim.seeds > 1}
    runs = [run for story in stories for run in finals(story, several)]
    return claims.judge_runs(several, runs) if runs else []


def tell(stories: Sequence[Story]) -> None:
    """Prints the verdict on each claim over several seeds. Raises: RunError (exit 8) if one is missed."""
    problems: list[Complaint] = []
    for group in groups(stories):
        verdicts = judge(group)
        for verdict in verdicts:
            say(printable(f"claim {verdict.line()}"))
        problems += claims.missed(verdicts, {}, ", ".join(str(story.path) for story in group))
    if problems:
        raise RunError(Exit.CLAIM, *problems)
