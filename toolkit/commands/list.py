"""`toolkit list`: what a config may name, read from the same models that check it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.run.experiment.errors import Exit, fail, nearest, shown

if TYPE_CHECKING:
    from pydantic import BaseModel


def add(parser: ArgumentParser) -> None:
    families = "adjoints|solvers|linear_solvers|optimizers|experiments"
    parser.add_argument("family", nargs="?", metavar=families)


def run(arguments: Namespace) -> int:
    """Prints the kinds of one family or of all, and the experiments under the working directory.

    Raises: RunError (exit 2) for a family that does not exist.
    """
    from toolkit.catalogue import FAMILIES

    wanted, known = arguments.family, [*FAMILIES, "experiments"]
    if wanted is not None and wanted not in known:
        got, expected = shown(wanted), f"one of {', '.join(known)}"
        near = nearest(wanted, known)
        raise fail(Exit.CONFIG, "toolkit list", "no such family", got, expected, near)
    names = known if wanted is None else [wanted]
    entries = {name: _kinds(FAMILIES[name]) for name in names if name != "experiments"}
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


def _kinds(models: dict[str, type[BaseModel]]) -> list[str]:
    return [_kind(kind, model) for kind, model in models.items()]


def _kind(kind: str, model: type[BaseModel]) -> str:
    fields = [_field(name, field) for name, field in model.model_fields.items() if name != "kind"]
    summary = (model.__doc__ or "").strip().partition("\n")[0]
    return f"{_entry(kind, summary)}\n      {', '.join(fields) or '(no fields)'}"


def _field(name: str, field: Any) -> str:
    from toolkit.run.experiment import plain_yaml

    if field.is_required():
        return name
    return f"{name}: {plain_yaml.dump(field.default).splitlines()[0]}"


def _entry(name: str, summary: str) -> str:
    return f"  {name:<23}  {summary}"
