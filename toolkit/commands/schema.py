"""`toolkit schema`: the JSON schema of a config, for editors."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from toolkit.run.experiment.errors import Exit


def add(parser: ArgumentParser) -> None:
    default = "default: what all configs share"
    parser.add_argument("config", type=Path, nargs="?", metavar="CONFIG.yaml", help=default)


def run(arguments: Namespace) -> int:
    """Prints a JSON schema: of a config's experiment, or of the common fields and every kind."""
    from toolkit.run.experiment import json_schema, load

    whole = arguments.config is None
    schema = _common() if whole else json_schema.schema_of(load.model_of(arguments.config))
    print(json.dumps(schema, indent=2))
    return Exit.DONE


def _common() -> dict[str, Any]:
    from pydantic import TypeAdapter

    from toolkit.run.experiment.common import Settings
    from toolkit.vocabulary import roles

    common = Settings.model_json_schema()
    definitions: dict[str, Any] = common.setdefault("$defs", {})
    for cls in (cls for name in roles.FAMILIES for cls in roles.family(name).values()):
        described = TypeAdapter(cls).json_schema(ref_template="#/$defs/{model}")
        definitions |= described.pop("$defs", {})
        definitions[cls.__name__] = described
    return common
