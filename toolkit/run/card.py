"""README.md of a run: what it was, the command, where it ran, and what came out against what was claimed."""

from __future__ import annotations

from toolkit.run.progress import duration
from toolkit.run.story import Story


def card(story: Story) -> str:
    """Markdown."""
    record, environment = story.record, story.record.get("environment", {})
    code = record.get("code", {})
    commit = (
        f"{code['commit'][:12]}{' with changes' if code['dirty'] else ''}"
        if code.get("commit")
        else "not in git"
    )
    versions = ", ".join(
        f"{name} {environment.get(name)}" for name in ("python", "jax", "numpy", "optax", "flax")
    )
    drift = (
        [f"- continued in a changed environment: {', '.join(record['drift'])}"]
        if record.get("drift")
        else []
    )
    return "\n".join(
        [
            f"# {story.config['experiment']}",
            "",
            _text(story.summary or "A run."),
            "",
            f"Status: **{story.status()[1]}**, {duration(record.get('seconds') or 0)} of running.",
            "",
            "```",
            str(record.get("command", "")).replace("```", "'''"),
            "```",
            "",
            *_results(story),
            "## Environment",
            "",
            f"- {versions}",
            f"- {environment.get('device_count')} x {environment.get('device_kind')}, {environment.get('cpus')} CPUs",
            f"- code: {commit}, experiment {str(environment.get('experiment_sha256'))[:12]}",
            *drift,
            "",
            "`config.yaml` holds every setting, `run.json` the whole record, `report.html` the figures.",
            "",
        ]
    )


def _results(story: Story) -> list[str]:
    if story.durable is None:
        return []
    claimed = {verdict.name: verdict for verdict in story.verdicts}
    lines = ["## Results", "", "| metric | value | claim | |", "| --- | ---: | --- | --- |"]
    for name, value in {**dict.fromkeys(claimed), **story.durable.metrics}.items():
        shown = "missing" if value is None else f"{value:.6g}"
        verdict = claimed.get(name)
        claim = (
            f"{verdict.bounds} | {verdict.word if verdict.holds else '**missed**'}"
            if verdict
            else " | "
        )
        lines.append(f"| {_text(name)} | {shown} | {claim} |")
    return [*lines, ""]


def _text(text: str) -> str:
    """Text that Markdown shows as it is, within a table too."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in text)
