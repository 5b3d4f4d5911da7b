"""The JSON Schema of site files, for editors and other programs.

    reidge run --schema > site.schema.json

It is made from the settings' classes; their docstrings become descriptions. What `reidge.edge.secrets` fills in is
allowed for: `${NAME}` in the place of a number or choice, `password_file` beside `password`.
"""

from __future__ import annotations

import ast
import inspect
import json
import typing
from typing import Any

from pydantic import BaseModel

from reidge.edge.redact import is_secret_name
from reidge.edge.secrets import FILE_SUFFIX
from reidge.edge.site import Site

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLACEHOLDER = {
    "type": "string",
    "pattern": r"\$\{.+\}",
    "description": "${NAME}, ${NAME:-default} or ${file:PATH}: taken from the environment or a file.",
}
_REFERENCE = {"$ref": "#/$defs/Placeholder"}
_SCALARS = ("number", "integer", "boolean")


def site_schema() -> dict[str, Any]:
    """What may stand in a site file."""
    schema = Site.model_json_schema()
    definitions = schema.pop("$defs")
    for name, model in _models(Site).items():
        _describe(schema if model is Site else definitions[name], model)
    filled = {name: _fill(definition) for name, definition in sorted(definitions.items())}
    for detector in schema["properties"]["detector"]["discriminator"]["mapping"].values():
        chosen = filled[detector.rsplit("/", 1)[-1]]
        chosen["properties"]["kind"] = {"const": chosen["properties"]["kind"]["const"]}
        chosen["required"] = ["kind", *chosen.get("required", [])]
    head = {"$schema": DIALECT, "title": "Site file of reidge"}
    return {**head, **_fill(schema), "$defs": {**filled, "Placeholder": PLACEHOLDER}}


def schema_text() -> str:
    """The schema as it is printed."""
    return json.dumps(site_schema(), indent=2, ensure_ascii=False) + "\n"


def _models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """A model and all that its fields are made of, by name."""
    found = {model.__name__: model}
    waiting: list[Any] = [field.annotation for field in model.model_fields.values()]
    while waiting:
        kind = waiting.pop()
        waiting += typing.get_args(kind)
        if inspect.isclass(kind) and issubclass(kind, BaseModel) and kind.__name__ not in found:
            found |= _models(kind)
    return found


def _describe(node: dict[str, Any], model: type[BaseModel]) -> None:
    """Give each property the docstring below its field."""
    for owner in reversed(model.__mro__):
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            for name, text in _field_docstrings(owner).items():
                if name in node["properties"]:
                    node["properties"][name]["description"] = text


def _field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    (body,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            texts[field.target.id] = " ".join(str(after.value.value).split())
    return texts


def _fill(node: Any) -> Any:
    """Allow for what is filled in, in a part of the schema, and leave out titles, which only repeat the names."""
    if isinstance(node, list):
        return [_fill(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    if "properties" in node:
        properties = {name: _fill(inner) for name, inner in node["properties"].items()}
        for name in [name for name in properties if is_secret_name(name)]:
            described = {"type": "string", "description": f"File whose one line is the {name}."}
            properties[f"{name}{FILE_SUFFIX}"] = described
        return {**{key: value for key, value in node.items() if key != "title"}, "properties": properties}
    # Defaults of a section repeat those of its settings.
    kept = {key: value for key, value in node.items() if not (key == "default" and isinstance(value, dict))}
    filled = {key: value if key == "default" else _fill(value) for key, value in kept.items() if key != "title"}
    if _is_restricted(filled):
        about = {key: filled.pop(key) for key in ("description", "default") if key in filled}
        return {**about, "anyOf": [filled, _REFERENCE]}
    if "anyOf" in filled:  # X or null: one placeholder for all of them
        options = [option for inner in filled["anyOf"] for option in inner.get("anyOf", [inner])]
        plain = [option for option in options if option != _REFERENCE]
        filled["anyOf"] = plain + [_REFERENCE] * (len(plain) < len(options))
    return filled


def _is_restricted(node: dict[str, Any]) -> bool:
    """Whether a text with a placeholder would be no valid value."""
    return node.get("type") in _SCALARS or bool(node.keys() & {"enum", "pattern"})
