"""`toolkit list` and `toolkit schema`: what a config may say, read from the same models that check it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from toolkit.run.experiment import experiments, load, plain_yaml
from toolkit.run.experiment.common import Settings
from toolkit.run.experiment.errors import Exit, fail, nearest, shown

Families = Mapping[str, Mapping[str, type[BaseModel]]]


def list_names(families: Families, wanted: str | None) -> int:
    """Prints the kinds of one family or of all, and the experiments under the working directory."""
    known = [*families, "experiments"]
    if wanted is not None and wanted not in known:
        near = nearest(wanted, known)
        raise fail(
            Exit.CONFIG,
            "toolkit list",
            "no such family",
            shown(wanted),
            f"one of {', '.join(known)}",
            near,
        )
    sections = [_section(name, families) for name in known if wanted in (None, name)]
    print("\n\n".join(sections))
    return Exit.DONE


def schema(families: Families, path: Path | None) -> int:
    """Prints a JSON schema: of a config's experiment, or of the common fields and every kind."""
    if path is not None:
        model = load.model_of(path)
        print(json.dumps(model.model_json_schema(), indent=2))
        return Exit.DONE
    common = Settings.model_json_schema()
    kinds = [model for family in families.values() for model in family.values()]
    definitions: dict[str, Any] = common.setdefault("$defs", {})
    for kind in kinds:
        described = kind.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= described.pop("$defs", {})
        definitions[kind.__name__] = described
    print(json.dumps(common, indent=2))
    return Exit.DONE


def _section(name: str, families: Families) -> str:
    if name == "experiments":
        lines = [
            _entry(n, experiments.summary(Path(experiments.FOLDER) / f"{n}.py"))
            for n in experiments.available()
        ]
        lines = lines or [f"  (none under ./{experiments.FOLDER})"]
    else:
        lines = [_kind(kind, model) for kind, model in families[name].items()]
    return "\n".join([f"{name}:", *lines])


def _kind(kind: str, model: type[BaseModel]) -> str:
    fields = [_field(name, field) for name, field in model.model_fields.items() if name != "kind"]
    summary = (model.__doc__ or "").strip().partition("\n")[0]
    return f"{_entry(kind, summary)}\n      {', '.join(fields) or '(no fields)'}"


def _field(name: str, field: Any) -> str:
    return (
        name if field.is_required() else f"{name}: {plain_yaml.dump(field.default).splitlines()[0]}"
    )


def _entry(name: str, summary: str) -> str:
    return f"  {name:<23}  {summary}"
