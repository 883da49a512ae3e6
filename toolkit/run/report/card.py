"""README.md of a run, a model card: command, results beside claims, what went wrong, settings, environment."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.run.experiment import load
from toolkit.run.experiment.errors import shown
from toolkit.run.experiment.words import duration
from toolkit.run.report.story import Story

_SIGNS = "\\`*_[]<>|#"


def card(story: Story) -> str:
    """Markdown."""
    return "\n".join(
        [
            *_head(story),
            *_results(story),
            *_pitfalls(story),
            *_hyperparameters(story),
            *_data(story),
            *_environment(story),
            "`config.yaml` holds every setting, `run.json` the whole record, `report.html` the figures.",
            "",
        ]
    )


def _head(story: Story) -> list[str]:
    return [
        f"# {story.config['experiment']}",
        "",
        _text(story.summary or "A run."),
        "",
        f"Status: **{story.status()[1]}**, {duration(story.seconds)} of running.",
        "",
        *_verbatim(str(story.record.get("command", ""))),
    ]


def _results(story: Story) -> list[str]:
    if story.durable is None:
        return []
    claimed = {verdict.name: verdict for verdict in story.verdicts}
    lines = ["## Results", "", "| metric | value | claim | |", "| --- | ---: | --- | --- |"]
    for name, value in {**dict.fromkeys(claimed), **story.durable.metrics}.items():
        number = "missing" if value is None else f"{value:.6g}"
        verdict = claimed.get(name)
        claim = (
            f"{verdict.bounds} | {verdict.word if verdict.holds else '**missed**'}"
            if verdict
            else " | "
        )
        lines.append(f"| {_text(name)} | {number} | {claim} |")
    return [*lines, ""]


def _pitfalls(story: Story) -> list[str]:
    """What did not go as it should have."""
    found = list(dict.fromkeys(_text(text) for text in _met(story)))
    explanation = (story.record.get("nonfinite") or {}).get("explanation")
    if not found and not explanation:
        return []
    return [
        "## Pitfalls met",
        "",
        *(f"- {text}" for text in found),
        *([""] if found else []),
        *(_verbatim(str(explanation)) if explanation else []),
    ]


def _met(story: Story) -> Iterator[str]:
    for event in story.events:
        kind = event.get("event")
        if kind == "warning":
            yield str(event.get("text"))
        elif kind == "stop":
            yield f"stopped: {event.get('reason')}, and continued"
        elif kind == "failed":
            yield str(event.get("reason"))
    if story.record.get("drift"):
        yield f"continued in a changed environment: {', '.join(story.record['drift'])}"


def _hyperparameters(story: Story) -> list[str]:
    fields = load.fields({k: v for k, v in story.config.items() if k != "claims"})
    rows = [f"| {_text(name)} | {_text(shown(value))} |" for name, value in fields.items()]
    return ["## Hyperparameters", "", "| setting | value |", "| --- | --- |", *rows, ""]


def _data(story: Story) -> list[str]:
    recorded = story.record.get("environment", {})
    names = [name for name in recorded if name.startswith("data/")]
    rows = [f"- {_text(name.removeprefix('data/'))}: {_text(recorded[name])}" for name in names]
    return ["## Data", "", *rows, ""] if rows else []


def _environment(story: Story) -> list[str]:
    recorded, code = story.record.get("environment", {}), story.record.get("code", {})
    changes = " with changes" if code.get("dirty") else ""
    commit = f"{code['commit'][:12]}{changes}" if code.get("commit") else "not in git"
    packages = ("python", "jax", "numpy", "optax", "flax")
    return [
        "## Environment",
        "",
        f"- {', '.join(f'{name} {recorded.get(name)}' for name in packages)}",
        f"- {recorded.get('device_count')} x {recorded.get('device_kind')}, {recorded.get('cpus')} CPUs",
        f"- code: {commit}, experiment {str(recorded.get('experiment_sha256'))[:12]}",
        *([f"- {_text(story.record['bits'])}"] if "bits" in story.record else []),
        "",
    ]


def _verbatim(text: str) -> list[str]:
    return ["```", text.replace("```", "'''"), "```", ""]


def _text(text: str) -> str:
    """Text that Markdown shows as it is, within a table too."""
    return "".join(f"\\{c}" if c in _SIGNS else c for c in " ".join(text.split()))
