"""The JSON schema of a config."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from toolkit.vocabulary import kinds


class _WithKinds(GenerateJsonSchema):
    """pydantic's generator, which cannot write a default that holds a function, such as the energy of a rule."""

    def encode_default(self, dft: Any) -> Any:
        return super().encode_default(kinds.dump(dft) if kinds.is_kind(type(dft)) else dft)


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of an experiment's config, its defaults as a config writes them."""
    return model.model_json_schema(schema_generator=_WithKinds)
