"""The HTML of a report: one self-contained page, every text of a user escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from toolkit.run.experiment import load
from toolkit.run.experiment.interface import Figure
from toolkit.run.experiment.words import duration, setting
from toolkit.run.report.claims import Verdict
from toolkit.run.report.drawing import gradient_figures
from toolkit.run.report.drawing.bands import bands
from toolkit.run.report.drawing.plots import curves, svg
from toolkit.run.report.groups import Group, plain_names
from toolkit.run.report.story import Story

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN = 24  # results, and figures of a section; an experiment may log hundreds, which would bury the rest of the page


def page(story: Story, figures: Sequence[Figure]) -> tuple[str, list[str]]:
    """The page of one run, and warnings for figures that could not be drawn."""
    drawn, warnings = drawings("Figures", figures, 0)
    # A run of several seeds is drawn as a mean with a band, a run of one seed as a curve.
    training = bands([Group({}, [story])]) if len(story.seeds) > 1 else curves({"": story.rows})
    generic, more = drawings("Training", training, len(figures))
    by_leaf, yet_more = drawings(
        "Gradients", gradient_figures.figures(story.rows), len(figures) + len(training)
    )
    body = [
        _header(story),
        _why_it_stopped(story),
        _results(story),
        drawn,
        generic,
        by_leaf,
        _gradients(story),
        section("Configuration", definitions(load.fields(story.config))),
        section("Environment", _environment(story)),
    ]
    return document(str(story.config["experiment"]), body), warnings + more + yet_more


def document(title: str, sections: Iterable[str], head: str = "") -> str:
    """The whole page: the template with a title (text), more of its head (HTML) and its sections (HTML)."""
    return Template(TEMPLATE.read_text("utf-8")).substitute(
        title=escape(title), head=head, body="\n".join(filter(None, sections))
    )


def _header(story: Story) -> str:
    tone, words = story.status()
    record = story.record
    facts = [
        f"{story.step} of {record.get('steps')} steps",
        f"{duration(story.seconds)} of running",
        f"started {str(record.get('started'))[:16].replace('T', ' ')} UTC",
        _seeds(story),
    ]
    summary = f'<p class="lead">{escape(story.summary)}</p>' if story.summary else ""
    return (
        f'<header><p class="status {tone}">{escape(words)}</p>'
        f"<h1>{escape(str(story.config['experiment']))}</h1>{summary}"
        f'<p class="facts">{" · ".join(map(escape, facts))}</p>'
        f"<pre><code>{escape(str(record.get('command', '')))}</code></pre></header>"
    )


def _seeds(story: Story) -> str:
    first, last = story.seeds[0], story.seeds[-1]
    return f"seed {first}" if first == last else f"seeds {first} to {last}"


def _why_it_stopped(story: Story) -> str:
    """What first was not finite, where that ended the run."""
    text = (story.record.get("nonfinite") or {}).get("explanation")
    if not text or story.record.get("status") == "finished":
        return ""
    return section("Why it stopped", f"<pre><code>{escape(str(text))}</code></pre>")


def _results(story: Story) -> str:
    """Claimed metrics first, as tiles that say what was claimed."""
    if story.durable is None:
        return ""
    claimed = {verdict.name: verdict for verdict in story.verdicts}
    names = list(dict.fromkeys([*claimed, *plain_names(story.metrics, story)]))
    tiles = [_tile(name, story.durable.metrics.get(name), claimed.get(name)) for name in names]
    return _section_of("Results", "tiles", tiles, max(SHOWN, len(claimed))) if tiles else ""


def _section_of(title: str, kind: str, parts: Sequence[str], shown: int = SHOWN) -> str:
    """A section of the first `shown` parts; the others are folded away behind their number."""
    grid = lambda some: f'<div class="{kind}">{"".join(some)}</div>'
    rest = parts[shown:]
    more = f"<details><summary>{len(rest)} more</summary>{grid(rest)}</details>" if rest else ""
    return section(title, grid(parts[:shown]) + more)


def _tile(name: str, value: float | None, verdict: Verdict | None) -> str:
    tone = {"within": "good", "missed": "bad"}.get(verdict.outcome, "") if verdict else ""
    claim = (
        f'<p class="claim"><b>{verdict.word}</b> {escape(verdict.bounds)}</p>' if verdict else ""
    )
    # A long name is broken behind its slash rather than in the middle of a number.
    label = escape(spaced(name)).replace("/", "/<wbr>")
    return f'<div class="tile {tone}"><p class="name">{label}</p><p class="value">{tabular(value)}</p>{claim}</div>'


def drawings(title: str, figures: Sequence[Figure], offset: int) -> tuple[str, list[str]]:
    """A section of figures, and warnings for those that could not be drawn; empty without figures.

    Args:
        offset: index of the first figure, so that no two figures of a page have the same ids.
    """
    parts: list[str] = []
    warnings: list[str] = []
    for index, figure in enumerate(figures, offset):
        try:
            drawing = f'<div class="canvas">{svg(figure, index)}</div>'
        except Exception as error:
            # A figure that fails, in whatever way, leaves a gap in the page. It does not end the run.
            reason = f"{type(error).__name__}: {error}"[:300]
            warnings.append(f"figure {figure.title!r}: {reason}")
            drawing = f'<p class="gap">not drawn: {escape(reason)}</p>'
        caption = f"<p>{escape(figure.caption)}</p>" if figure.caption else ""
        label = f"<figcaption><h3>{escape(spaced(figure.title))}</h3>{caption}</figcaption>"
        parts.append(
            f'<figure class="{"wide" if figure.wide else "narrow"}">{label}{drawing}</figure>'
        )
    return (_section_of(title, "figures", parts) if parts else ""), warnings


def _gradients(story: Story) -> str:
    """The last report, leaf by leaf."""
    rows = gradient_figures.reported(story.rows)
    if not rows:
        return ""
    last = rows[-1]["gradients"]
    head = "".join(
        f"<th>{escape(title)}</th>" for title in ("leaf", *gradient_figures.COLUMNS.values())
    )
    lines = []
    for name, values in last.items():
        dead = values["zero_fraction"] == 1
        tone = ' class="bad-text"' if values["nonfinite"] or dead else ""
        cells = "".join(f"<td>{tabular(values[key])}</td>" for key in gradient_figures.COLUMNS)
        lines.append(f'<tr{tone}><th scope="row">{escape(name)}</th>{cells}</tr>')
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return section(f"Gradients at step {rows[-1]['step']}", f'<div class="scroll">{table}</div>')


def _environment(story: Story) -> str:
    record = story.record
    code = {f"git {name}": value for name, value in record.get("code", {}).items()}
    drift = {"drift": ", ".join(record["drift"])} if record.get("drift") else {}
    times = {name: record.get(name) for name in ("started", "ended")}
    bits = {name: record[name] for name in ("bits",) if name in record}
    values = {**times, **bits, **drift, **record.get("environment", {}), **code}
    return (
        f"<details><summary>{len(values)} recorded values</summary>{definitions(values)}</details>"
    )


def definitions(values: Mapping[str, Any]) -> str:
    """Names and values as an HTML list, escaped."""
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(setting(value))}</dd></div>"
        for name, value in values.items()
    )
    return f"<dl>{rows}</dl>"


def section(title: str, content: str) -> str:
    """A section with a heading. `title` is text, `content` is HTML."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def spaced(name: str) -> str:
    """A name with spaces for its underscores, so that the browser can break it."""
    return name.replace("_", " ")


def tabular(value: Any) -> str:
    """A number for a table: whole ones with commas, others with four significant digits, a dash for None."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
