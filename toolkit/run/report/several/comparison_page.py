"""The page of several runs: settings that differ, results over seeds, curves with bands, a table of all runs."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from toolkit.run.experiment import load
from toolkit.run.experiment.words import duration, setting
from toolkit.run.program.means import estimate, written
from toolkit.run.report.drawing.bands import DRAWN, bands, look
from toolkit.run.report.groups import (
    SEED,
    SEEDS,
    Group,
    differing,
    grouped,
    plain_names,
    values,
)
from toolkit.run.report.page import definitions, document, drawings, section, spaced
from toolkit.run.report.several.across_seeds import finals, judge
from toolkit.run.report.several.tables import Cell, cell, measured, table
from toolkit.run.report.story import Story, figures
from toolkit.run.store import directory
from toolkit.run.store.metrics import own_name

SCRIPT = Path(__file__).with_name("comparison_page.js")
PICTURED = 6  # groups of which one run's own figures are shown
# The browser runs only the script with this hash and loads nothing. So a name of a run or a metric that holds
# HTML does no harm, even if a place that should escape it is missed.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
)


def comparison(
    stories: Sequence[Story], beside: Path, command: str = "", absent: int = 0
) -> tuple[str, list[str]]:
    """The page, and warnings of figures that could not be drawn.

    Args:
        beside: the folder of the page, from which it links to the runs' own pages.
        command: what made the runs, where it is known.
        absent: runs of a sweep that are not there, because they have not been started.
    """
    keys, groups = grouped(stories)
    names = [name for story in stories for name in plain_names(story.metrics, story)]
    metrics = list(dict.fromkeys(names))
    curves, warnings = drawings("Training", bands(groups), 0)
    curves = curves.replace("</h2>", f"</h2>{_legend(groups)}", 1)
    pictures, more = _pictures(groups)
    body = [
        _header(stories, command, absent),
        section("Settings", _groups_table(keys, groups, metrics)),
        _claims(groups),
        curves,
        section("Runs", _runs_table(stories, keys, groups, metrics, beside)),
        pictures,
        _environment(stories),
        _shared(stories),
        f"<script>{_script()}</script>",
    ]
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    policy = POLICY.format(digest=digest)
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return document(_title(stories), body, head), warnings + more


def _script() -> str:
    return SCRIPT.read_text("utf-8")


def _title(stories: Sequence[Story]) -> str:
    experiments = ", ".join(dict.fromkeys(str(story.config["experiment"]) for story in stories))
    return f"{len(stories)} run{'s' * (len(stories) != 1)} of {experiments}"


def _header(stories: Sequence[Story], command: str, absent: int) -> str:
    counts: dict[tuple[str, str], int] = {}
    for story in stories:
        tone, _ = story.status()
        state = str(story.record.get("status", "unknown"))
        if not story.counted:
            tone, state = "bad", "not counted"
        elif state == "finished" and tone == "bad":
            state = "finished, missing claims"
        counts[tone, state] = counts.get((tone, state), 0) + 1
    if absent:
        counts["open", "not started"] = absent
    badges = " ".join(
        f'<span class="status {tone}">{n} {escape(state)}</span>'
        for (tone, state), n in counts.items()
    )
    summaries = list(dict.fromkeys(story.summary for story in stories if story.summary))
    lead = f'<p class="lead">{escape(summaries[0])}</p>' if len(summaries) == 1 else ""
    spent = duration(sum(float(story.record.get("seconds") or 0) for story in stories))
    code = f"<pre><code>{escape(command)}</code></pre>" if command else ""
    facts = f'<p class="facts">{spent} of running in all</p>'
    return f"<header>{badges}<h1>{escape(_title(stories))}</h1>{lead}{facts}{code}</header>"


def _groups_table(keys: Sequence[str], groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """A row a group: settings, seeds, means."""
    note = (
        "Mean over seeds ± half of its 95 % interval by Student's t; n finished seeds. "
        "Settings that no run differs in are at the end of the page."
    )
    rows = []
    for index, group in enumerate(groups):
        n, all_ = group.n, sum(len(story.counted) for story in group.stories)
        cells = [Cell(_line(index), str(index))]
        cells += [cell(group.settings[key]) for key in keys]
        cells.append(Cell(f"{n}" if n == all_ else f"{n} of {all_}", str(n), "number"))
        for name in metrics:
            found = estimate([v for s in group.finished for v in values(s.metrics, name, s)])
            short = f" (n {found.n})" if found and found.n != n else ""
            value = "" if found is None else repr(found.mean)
            cells.append(Cell(escape(written(found) + short), value, "number"))
        rows.append((f'data-group="{index}"', cells))
    return f'<p class="note">{note}</p>' + table(
        ["", *keys, "n", *_heads(metrics, [*keys, "n"])], rows, 1 + len(keys)
    )


def _legend(groups: Sequence[Group]) -> str:
    """The line and the name of each group, with a box that shows and hides the group in all figures."""
    keys = [
        f'<label class="key"><input type="checkbox" checked data-group="{index}">{_line(index)}'
        f"<span>{escape(group.label)}</span></label>"
        for index, group in enumerate(groups[:DRAWN])
    ]
    left = f" The first {DRAWN} groups are drawn." if len(groups) > DRAWN else ""
    note = (
        "Line: mean over seeds; band: lowest to highest; thin: a run that has not finished." + left
    )
    return f'<p class="note">{note}</p><div class="tools">{"".join(keys)}</div>'


def _line(index: int) -> str:
    if index >= DRAWN:
        return ""
    color, dashes = look(index).color, look(index).dashes
    return (
        '<svg width="26" height="10" role="img" aria-label="line"><line x1="0" y1="5" x2="26" y2="5" '
        f'stroke="{color}" stroke-width="2.5" stroke-dasharray="{dashes}"/></svg>'
    )


def _claims(groups: Sequence[Group]) -> str:
    """A row for each claim and group: the bounds, the mean over seeds, and the verdict."""
    rows: list[tuple[str, str, list[Cell]]] = []
    for index, group in enumerate(groups):
        for verdict in judge(group):
            tone = {"within": "good", "missed": "bad"}.get(verdict.outcome, "open")
            ends = finals(group, [verdict.name])
            numbers = [end[verdict.name] for end in ends if verdict.name in end]
            words = verdict.word if verdict.seeds > 1 else f"met by {verdict.met} of {len(ends)}"
            mean = written(estimate(numbers))
            cells = [cell(verdict.name), cell(verdict.bounds), cell(group.label), cell(mean)]
            shown = Cell(f'<span class="{tone}-text">{escape(words)}</span>')
            rows.append((verdict.name, f'data-group="{index}"', [*cells, shown]))
    if not rows:
        return ""
    lines = [(attributes, cells) for _, attributes, cells in sorted(rows, key=lambda row: row[0])]
    # 99: no column is aligned as a number.
    return section("Claims", table(["claim", "bound", "runs", "mean", "verdict"], lines, 99))


def _runs_table(
    stories: Sequence[Story], keys: Sequence[str], groups: Sequence[Group],
    metrics: Sequence[str], beside: Path,
) -> str:  # fmt: skip
    seeds = differing([{key: story.config.get(key) for key in SEEDS} for story in stories])
    keys = [*seeds, *keys]
    group_of = {s.path: index for index, group in enumerate(groups) for s in group.stories}
    rows = []
    for story, label in zip(stories, labels(stories), strict=True):
        fields = load.fields(story.config)
        tone, words = _status(story)
        settings = {key: setting(fields[key]) if key in fields else "–" for key in keys}
        cells = [Cell(_link(story, label, beside), label)]
        cells.append(Cell(f'<span class="{tone}-text">{escape(words)}</span>'))
        cells += [cell(settings[key]) for key in keys]
        cells += [measured(story.metrics.get(name)) for name in metrics]
        cells.append(measured(story.record.get("seconds")))
        searched = " ".join([label, words, *(f"{key}={value}" for key, value in settings.items())])
        attributes = f'data-text="{escape(searched, quote=True)}" data-group="{group_of.get(story.path, "")}"'
        rows.append((attributes, cells))
    tools = (
        '<div class="tools" hidden data-needs-script><input id="filter" type="search" '
        'placeholder="filter: seed=1 finished …" aria-label="filter the runs"><output id="shown"></output></div>'
    )
    ours = ["run", "status", *keys]
    heads = [*ours, *_heads(metrics, [*ours, "seconds"]), "seconds"]
    return tools + table(heads, rows, 2 + len(keys), "runs")


def _heads(metrics: Sequence[str], ours: Sequence[str]) -> list[str]:
    return [spaced(own_name(name, ours)) for name in metrics]


def _status(story: Story) -> tuple[str, str]:
    tone, words = story.status()
    if not story.left_out:
        return tone, words
    part = "not counted" if not story.counted else "partly counted"
    return "bad", f"{words}; {part}: {story.left_out}"


def labels(stories: Sequence[Story]) -> list[str]:
    """Folder names; whole paths where two runs have the same one."""
    names = [story.path.resolve().name for story in stories]
    return names if len(set(names)) == len(names) else [str(story.path) for story in stories]


def _link(story: Story, label: str, beside: Path) -> str:
    page, name = story.path / directory.REPORT, escape(label, quote=True)
    if not page.is_file():
        return f'<span class="clip" title="{name}">{name}</span>'
    return (
        f'<a class="clip" title="{name}" href="{quote(os.path.relpath(page, beside))}">{name}</a>'
    )


def _pictures(groups: Sequence[Group]) -> tuple[str, list[str]]:
    """The experiment's own figures of the first finished run of each of the first groups."""
    parts, warnings, offset = [], [], 1000  # the curves have the indices, and so the ids, below
    shown = [group for group in groups if group.finished][:PICTURED]
    for group in shown:
        story = group.finished[0]
        own, unread = figures(story)
        drawn, failed = drawings("", own, offset)
        offset += len(own)
        warnings += unread + failed
        if drawn:
            seed = f", seed {story.config.get(SEED)}"
            drawn = drawn.replace("<h2></h2>", "", 1)
            parts.append(
                f"<details><summary>{escape(group.label + seed)}</summary>{drawn}</details>"
            )
    return (section("Pictures of one run each", "".join(parts)) if parts else ""), warnings


def _environment(stories: Sequence[Story]) -> str:
    """The fields in which the environments of the runs differ; empty if they do not."""
    environments = [story.record.get("environment", {}) for story in stories]
    keys = differing(environments)
    if not keys:
        return ""
    rows = []
    for key in keys:
        values: dict[str, int] = {}
        for environment in environments:
            value = setting(environment.get(key))[:24]
            values[value] = values.get(value, 0) + 1
        told = ", ".join(f"{value} ({n})" for value, n in values.items())
        rows.append(("", [cell(key), cell(told)]))
    note = '<p class="note">Not all of these runs were made in the same environment (number of runs).</p>'
    return section("Environments differ", note + table(["what", "values"], rows, 99))


def _shared(stories: Sequence[Story]) -> str:
    configs = [load.fields(story.config) for story in stories]
    different = set(differing(configs))
    shared = {key: value for key, value in configs[0].items() if key not in different}
    count = f"{len(shared)} settings that all runs share"
    inner = f"<details><summary>{count}</summary>{definitions(shared)}</details>"
    return section("Configuration", inner)
