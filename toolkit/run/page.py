"""The HTML of a report: one self-contained page, every text of a user escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from toolkit.run import config, gradients
from toolkit.run.claims import Verdict
from toolkit.run.plots import curves, svg
from toolkit.run.program import Figure
from toolkit.run.progress import duration
from toolkit.run.story import Story

TEMPLATE = Path(__file__).with_name("page.html")


def page(story: Story, figures: Sequence[Figure]) -> tuple[str, list[str]]:
    """The page of one run, and warnings for figures that could not be drawn."""
    drawn, warnings = _figures("Figures", figures, 0)
    training = curves({"": story.rows})
    generic, more = _figures("Training", training, len(figures))
    by_leaf, yet_more = _figures(
        "Gradients", gradients.figures(story.rows), len(figures) + len(training)
    )
    body = [
        _header(story),
        _results(story),
        drawn,
        generic,
        by_leaf,
        _gradients(story),
        _section("Configuration", _definitions(config.fields(story.config))),
        _section("Environment", _environment(story)),
    ]
    return _document(str(story.config["experiment"]), body), warnings + more + yet_more


def comparison(stories: Sequence[Story]) -> str:
    """The page of several runs: how they differ, what came out, their curves laid over each other."""
    labels = _labels(stories)
    overlaid, _ = _figures(
        "Training", curves(dict(zip(labels, (s.rows for s in stories), strict=True))), 0
    )
    experiments = ", ".join(dict.fromkeys(str(story.config["experiment"]) for story in stories))
    title = f"{len(stories)} runs of {experiments}"
    header = f'<header><h1>{escape(title)}</h1><p class="lead">Side by side: what differs, and what came out.</p></header>'
    return _document(
        title, [header, _section("Runs", _comparison_table(stories, labels)), overlaid]
    )


def _document(title: str, sections: Iterable[str]) -> str:
    return Template(TEMPLATE.read_text()).substitute(
        title=escape(title), body="\n".join(filter(None, sections))
    )


def _header(story: Story) -> str:
    tone, words = story.status()
    record = story.record
    spent = duration(record.get("seconds") or (story.rows[-1]["seconds"] if story.rows else 0.0))
    facts = [
        f"{story.step} of {record.get('steps')} steps",
        f"{spent} of running",
        f"started {str(record.get('started'))[:16].replace('T', ' ')} UTC",
        f"seed {story.config.get('seed')}",
    ]
    summary = f'<p class="lead">{escape(story.summary)}</p>' if story.summary else ""
    return (
        f'<header><p class="status {tone}">{escape(words)}</p>'
        f"<h1>{escape(str(story.config['experiment']))}</h1>{summary}"
        f'<p class="facts">{" · ".join(map(escape, facts))}</p>'
        f"<pre><code>{escape(str(record.get('command', '')))}</code></pre></header>"
    )


def _results(story: Story) -> str:
    """Claimed metrics first, as tiles that say what was claimed."""
    if story.durable is None:
        return ""
    claimed = {verdict.name: verdict for verdict in story.verdicts}
    names = [*claimed, *(name for name in story.metrics if name not in claimed)]
    tiles = [_tile(name, story.durable.metrics.get(name), claimed.get(name)) for name in names]
    return _section("Results", f'<div class="tiles">{"".join(tiles)}</div>') if tiles else ""


def _tile(name: str, value: float | None, verdict: Verdict | None) -> str:
    tone = {"within": "good", "missed": "bad"}.get(verdict.outcome, "") if verdict else ""
    claim = (
        f'<p class="claim"><b>{verdict.word}</b> {escape(verdict.bounds)}</p>' if verdict else ""
    )
    return f'<div class="tile {tone}"><p class="name">{escape(_spaced(name))}</p><p class="value">{_number(value)}</p>{claim}</div>'


def _figures(title: str, figures: Sequence[Figure], offset: int) -> tuple[str, list[str]]:
    parts: list[str] = []
    warnings: list[str] = []
    for index, figure in enumerate(figures, offset):
        try:
            drawing = f'<div class="canvas">{svg(figure, index)}</div>'
        except (
            Exception
        ) as error:  # a picture that fails is a gap in the page, not the end of a run
            reason = f"{type(error).__name__}: {error}"[:300]
            warnings.append(f"figure {figure.title!r}: {reason}")
            drawing = f'<p class="gap">not drawn: {escape(reason)}</p>'
        caption = f"<p>{escape(figure.caption)}</p>" if figure.caption else ""
        label = f"<figcaption><h3>{escape(_spaced(figure.title))}</h3>{caption}</figcaption>"
        parts.append(
            f'<figure class="{"wide" if figure.wide else "narrow"}">{label}{drawing}</figure>'
        )
    return (
        _section(title, f'<div class="figures">{"".join(parts)}</div>') if parts else ""
    ), warnings


def _gradients(story: Story) -> str:
    """The last report, leaf by leaf."""
    rows = gradients.reported(story.rows)
    if not rows:
        return ""
    last = rows[-1]["gradients"]
    head = "".join(f"<th>{escape(title)}</th>" for title in ("leaf", *gradients.COLUMNS.values()))
    lines = []
    for name, values in last.items():
        dead = values["zero_fraction"] == 1
        tone = ' class="bad-text"' if values["nonfinite"] or dead else ""
        cells = "".join(f"<td>{_number(values[key])}</td>" for key in gradients.COLUMNS)
        lines.append(f'<tr{tone}><th scope="row">{escape(name)}</th>{cells}</tr>')
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return _section(f"Gradients at step {rows[-1]['step']}", f'<div class="scroll">{table}</div>')


def _environment(story: Story) -> str:
    record = story.record
    code = {f"git {name}": value for name, value in record.get("code", {}).items()}
    drift = {"drift": ", ".join(record["drift"])} if record.get("drift") else {}
    times = {name: record.get(name) for name in ("started", "ended")}
    values = {**times, **drift, **record.get("environment", {}), **code}
    return (
        f"<details><summary>{len(values)} recorded values</summary>{_definitions(values)}</details>"
    )


def _definitions(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd></div>"
        for name, value in values.items()
    )
    return f"<dl>{rows}</dl>"


def _comparison_table(stories: Sequence[Story], labels: Sequence[str]) -> str:
    configs = [config.fields(story.config) for story in stories]
    keys = [
        key
        for key in dict.fromkeys(k for c in configs for k in c)
        if len({_plain(c.get(key)) for c in configs}) > 1
    ]
    metrics = list(dict.fromkeys(name for story in stories for name in story.metrics))
    head = "".join(
        f"<th>{escape(_spaced(name))}</th>"
        for name in ["run", "status", *keys, *metrics, "seconds"]
    )
    lines = []
    for story, label, settings in zip(stories, labels, configs, strict=True):
        tone, words = story.status()
        cells = [f'<td class="{tone}-text">{escape(words)}</td>']
        cells += [f"<td>{escape(_plain(settings.get(key, '')))}</td>" for key in keys]
        cells += [f'<td class="number">{_number(story.metrics.get(name))}</td>' for name in metrics]
        cells.append(f'<td class="number">{_number(story.record.get("seconds"))}</td>')
        lines.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>')
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _labels(stories: Sequence[Story]) -> list[str]:
    """Folder names; whole paths where two runs have the same one."""
    names = [story.path.resolve().name for story in stories]
    return names if len(set(names)) == len(names) else [str(story.path) for story in stories]


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _plain(value: Any) -> str:
    return (
        "null" if value is None else (str(value).lower() if isinstance(value, bool) else str(value))
    )
