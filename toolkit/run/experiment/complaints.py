"""pydantic's errors as our messages: file and line, dotted key, what it got, what it expected, the nearest name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from toolkit.run.experiment.errors import Complaint, nearest, shown
from toolkit.run.experiment.plain_yaml import dotted

Schema = Mapping[str, Any]


class Place(NamedTuple):
    """A node of the config: its path in the data, its value, and its JSON schema."""

    path: tuple[str | int, ...]
    value: Any
    schema: Schema


def translate(
    error: ValidationError, data: Any, schema: Schema, where: Mapping[tuple, str]
) -> list[Complaint]:
    """The problems of a config, at most one for each key.

    Args:
        data: what was validated.
        schema: the JSON schema of the model, for names to suggest.
        where: by path, the place to blame (`configs/x.yaml:12`); the empty path is the file itself.
    """
    problems: dict[tuple, Complaint] = {}
    for detail in error.errors(include_url=False, include_context=True, include_input=False):
        place, problem = _problem(detail, data, schema, where)
        # For a value that fits no branch of a union, pydantic reports one error for each branch.
        if place in problems:
            known = problems[place]
            problem = known._replace(
                expected=" or ".join(dict.fromkeys([known.expected, problem.expected]))
            )
        problems[place] = problem
    return list(problems.values())


def _problem(
    detail: Mapping[str, Any], data: Any, schema: Schema, where: Mapping[tuple, str]
) -> tuple[tuple, Complaint]:
    kind, location = detail["type"], detail["loc"]
    if kind in ("missing", "extra_forbidden", "unexpected_keyword_argument"):
        parent, key = _walk(location[:-1], data, schema), location[-1]
        path = (*parent.path, key)
        return path, _key_problem(kind, parent, key, path, where)
    place = _walk(location, data, schema)
    what = dotted(place.path) or "config"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return place.path, _kind_problem(place, what, where)
    got, expected, context = shown(place.value), detail["msg"], detail.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        reason = str(context.get("error", detail["msg"])) or "refused"
        return place.path, Complaint(_blame(place.path, where), f"{what}: bad value", got, reason)
    if kind in ("model_type", "model_attributes_type", "dict_type", "dataclass_type"):
        expected = "a mapping"
    expected = expected.removeprefix("Input should be ").removeprefix("Value should be ")
    names = [str(item) for item in place.schema.get("enum", [])]
    near = nearest(place.value, names) if isinstance(place.value, str) else None
    return place.path, Complaint(
        _blame(place.path, where), f"{what}: wrong value", got, expected, near
    )


def _key_problem(
    kind: str, parent: Place, key: Any, path: tuple, where: Mapping[tuple, str]
) -> Complaint:
    fields = parent.schema.get("properties", {})
    if kind == "missing":
        field = fields.get(key, {})
        expected = field.get("description") or _type_name(field)
        return Complaint(_blame(path, where), f"{dotted(path)}: missing key", "nothing", expected)
    got = shown(parent.value.get(key)) if isinstance(parent.value, dict) else shown(parent.value)
    expected = f"one of {', '.join(fields)}" if fields else "no such key"
    return Complaint(
        _blame(path, where), f"{dotted(path)}: unknown key", got, expected, nearest(key, fields)
    )


def _kind_problem(place: Place, what: str, where: Mapping[tuple, str]) -> Complaint:
    kinds = list(_kinds(place.schema))
    expected = f"one of {', '.join(kinds)}" if kinds else "a known kind"
    if not isinstance(place.value, dict):
        return Complaint(
            _blame(place.path, where),
            f"{what}: wrong value",
            shown(place.value),
            "a mapping with a `kind`",
        )
    got = place.value.get("kind")
    path = (*place.path, "kind")
    if got is None:
        return Complaint(_blame(path, where), f"{what}.kind: missing key", "nothing", expected)
    return Complaint(
        _blame(path, where), f"{what}.kind: unknown kind", shown(got), expected, nearest(got, kinds)
    )


def _blame(path: tuple, where: Mapping[tuple, str]) -> str:
    """The line to name for `path`.

    A missing key has no line, so that of the nearest mapping around it is named.
    """
    for length in range(len(path), -1, -1):
        if path[:length] in where:
            return where[path[:length]]
    return "config"


def _walk(location: tuple, data: Any, schema: Schema) -> Place:
    """Follows the location of an error through the data.

    Inside a union, pydantic adds the name of the branch: `("adjoint", "unroll", "damping")`. A step that is
    neither a key nor a position in the data is such a name, and is skipped.
    """
    place = Place((), data, schema)
    for step in location:
        node = _resolve(place.schema, schema, place.value)
        if isinstance(place.value, dict) and (
            step in place.value or step in node.get("properties", {})
        ):
            child = node.get("properties", {}).get(step, _of_any_key(node))
            place = Place(
                (*place.path, step), place.value.get(step), child if isinstance(child, dict) else {}
            )
        elif isinstance(place.value, list) and isinstance(step, int) and step < len(place.value):
            child = (node.get("prefixItems") or [])[step : step + 1] or [node.get("items", {})]
            place = Place((*place.path, step), place.value[step], child[0])
    return place._replace(schema=_resolve(place.schema, schema, place.value))


def _of_any_key(node: Schema) -> Any:
    """The schema of the values of a mapping with free keys: any name, or names that match a pattern."""
    return node.get("additionalProperties") or next(
        iter(node.get("patternProperties", {}).values()), {}
    )


def _resolve(node: Schema, root: Schema, value: Any) -> Schema:
    """The schema itself: follows references, and chooses the branch of a union that `value` is meant for."""
    for _ in range(20):  # a limit, since references may point at each other in a circle
        if "$ref" in node:
            node = root.get("$defs", {}).get(node["$ref"].rsplit("/", 1)[-1], {})
        elif len(node.get("allOf", ())) == 1:
            node = node["allOf"][0]
        elif "anyOf" in node and "discriminator" not in node:
            # `X | None` means X here. Of several branches, a mapping is meant for the one that is a model.
            branches = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
            objects = [
                branch for branch in branches if "$ref" in branch or "discriminator" in branch
            ]
            node = (objects if isinstance(value, dict) and objects else branches or [{}])[0]
        elif (
            "discriminator" in node
            and isinstance(value, dict)
            and value.get("kind") in list(_kinds(node))  # not `in` the dict: a list has no hash
        ):
            node = {"$ref": node["discriminator"]["mapping"][value["kind"]]}
        else:
            return node
    return node


def _kinds(node: Schema) -> Mapping[str, str]:
    return node.get("discriminator", {}).get("mapping", {})


def _type_name(field: Schema) -> str:
    names = {
        "integer": "an integer",
        "number": "a number",
        "string": "a text",
        "boolean": "true or false",
    }
    return names.get(field.get("type", ""), "a value")
