"""`toolkit list`: what a config may name, read from the classes that check it."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from toolkit.run.experiment.errors import Exit, fail, nearest, shown


def add(parser: ArgumentParser) -> None:
    families = "adjoints|solvers|linear_solvers|optimizers|bilevel_methods|estimators|learning_rules|experiments"
    parser.add_argument("family", nargs="?", metavar=families)


def run(arguments: Namespace) -> int:
    """Prints the kinds of one family or of all, and the experiments under the working directory.

    Raises: RunError (exit 2) for a family that does not exist.
    """
    from toolkit.vocabulary import roles

    wanted, known = arguments.family, [*roles.FAMILIES, "experiments"]
    if wanted is not None and wanted not in known:
        got, expected = shown(wanted), f"one of {', '.join(known)}"
        near = nearest(wanted, known)
        raise fail(Exit.CONFIG, "toolkit list", "no such family", got, expected, near)
    names = known if wanted is None else [wanted]
    entries = {name: _kinds(roles.family(name)) for name in names if name != "experiments"}
    if "experiments" in names:
        entries["experiments"] = _experiments()
    print("\n\n".join("\n".join([f"{name}:", *lines]) for name, lines in entries.items()))
    return Exit.DONE


def _experiments() -> list[str]:
    from toolkit.run.experiment import experiments

    folder = Path(experiments.FOLDER)
    names = experiments.available()
    found = [_entry(name, experiments.summary(folder / f"{name}.py")) for name in names]
    return found or [f"  (none under ./{folder})"]


def _kinds(classes: dict[str, type]) -> list[str]:
    return [_kind(kind, cls) for kind, cls in classes.items()]


def _kind(kind: str, cls: Any) -> str:
    from toolkit.vocabulary import kinds

    named = [(kinds.name_in_config(cls, f.name), f) for f, _ in kinds.writable_fields(cls)]
    fields = [_field(name, field) for name, field in named if name != "kind"]
    summary = (cls.__doc__ or "").strip().partition("\n")[0]
    return f"{_entry(kind, summary)}\n      {', '.join(fields) or '(no fields)'}"


def _field(name: str, field: dataclasses.Field[Any]) -> str:
    from toolkit.run.experiment import plain_yaml

    if field.default is dataclasses.MISSING:
        return name
    # A function is written by its name.
    default = getattr(field.default, "__name__", field.default)
    return f"{name}: {plain_yaml.dump(default).splitlines()[0]}"


def _entry(name: str, summary: str) -> str:
    return f"  {name:<23}  {summary}"
