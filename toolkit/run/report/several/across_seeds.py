"""Claims over several seeds, judged on the runs that differ in nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toolkit.run.experiment.errors import Complaint, Exit, RunError, printable
from toolkit.run.experiment.output import say
from toolkit.run.report import claims
from toolkit.run.report.claims import Verdict
from toolkit.run.report.groups import Group, grouped
from toolkit.run.report.story import Story
from toolkit.run.store import directory


def finals(group: Group, names: Iterable[str]) -> list[Mapping[str, Any]]:
    """The named final metrics of each finished seed of a group."""
    names = list(names)
    return [
        run
        for story in group.finished
        if story.durable is not None
        for run in claims.by_seed(names, story.durable.metrics, story.counted, len(story.seeds) > 1)
    ]


def judge(group: Group) -> list[Verdict]:
    """The verdicts on the claims of a group, for its finished runs."""
    first = group.stories[0]
    claimed = claims.from_record(first.config.get("claims", {}), first.path / directory.CONFIG)
    runs = finals(group, claimed)
    return claims.judge_runs(claimed, runs) if runs else []


def tell(stories: Sequence[Story]) -> None:
    """Prints the verdict on each claim over several seeds. Raises: RunError (exit 8) if one is missed."""
    problems: list[Complaint] = []
    for group in grouped(stories)[1]:
        verdicts = [verdict for verdict in judge(group) if verdict.seeds > 1]
        for verdict in verdicts:
            say(printable(f"claim {verdict.line()}"))
        problems += claims.missed(
            verdicts, {}, ", ".join(str(story.path) for story in group.stories)
        )
    if problems:
        raise RunError(Exit.CLAIM, *problems)
