"""Settings that people write, in a YAML file or on the command line, checked with one clear line."""

from __future__ import annotations

import difflib
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from reidge.edge.errors import InputError
from reidge.edge.redact import is_secret_name, redact_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Config = TypeVar("Config", bound=BaseModel)

NAME_PATTERN = r"^\w[\w.-]*$"
LEVEL_PATTERN = r"^[^/#+\x00]+$"
"""One level of a topic of MQTT."""
TOPIC_PATTERN = r"^[^/#+\x00$][^/#+\x00]*(/[^/#+\x00]+)*$"
_OF_PATTERN = {
    NAME_PATTERN: "must be letters, digits and any of _ . - after the first",
    LEVEL_PATTERN: "must be text without / # and +",
    TOPIC_PATTERN: "must be text between single slashes, without # and +, and must not begin with $",
}
_OF_TYPE = {
    "model_type": "must be a mapping of settings",
    "dict_type": "must be a mapping of settings",
    "model_attributes_type": "must be a mapping of settings",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "string_type": "must be text",
    "path_type": "must be a path",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
}
TIMES = (-2_208_988_800.0, 32_503_680_000.0)
"""Seconds since the epoch of the years 1900 and 3000; what `datetime` cannot hold could not be told in any event."""


def parse_time(text: str | float, *, what: str) -> float:
    """Read ISO 8601 (without a zone: UTC) or seconds since the epoch.

    Raises:
        InputError: It is neither, or outside of `TIMES`; `what` names the setting.
    """
    try:
        seconds = _seconds(text)
    except ValueError as error:
        raise InputError(f"{what}: {text!r} is not a time. Write it like 2025-06-01T08:00:00Z.") from error
    if not TIMES[0] <= seconds <= TIMES[1]:  # nor is NaN between them
        raise InputError(f"{what}: {text!r} is not between the years 1900 and 3000. Write 2025-06-01T08:00:00Z.")
    return seconds


def _seconds(text: str | float) -> float:
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `outer.inner=value` pairs, values read as YAML, in a copy of nested settings; lists by number.

    Raises:
        InputError: A pair has no `=`, or its path leads into a value that has no keys.
    """
    changed: dict[str, Any] = _copied(dict(values))
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise InputError(f"--set {redact_text(override)} has no value. Write it like this: --set key=value")
        *outer, last = path.split(".")
        place: Any = changed
        try:
            for key in outer:
                place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
            place[int(last) if isinstance(place, list) else last] = _read_value(text)
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"--set {path}: there is no setting of this name.") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise InputError(f"--set {path}: the value cannot be read as YAML.") from error
    return changed


def _read_value(text: str) -> Any:
    """Read a value as YAML; `-` and `:memory:`, which YAML takes for an empty list and an empty mapping, stay text."""
    value = yaml.safe_load(text)
    inner = list(value.values()) if isinstance(value, dict) else value
    return text if inner == [None] and not text.lstrip().startswith(("[", "{")) else value


def validate(model: type[Config], values: Mapping[str, Any], *, where: str) -> Config:
    """Check settings against their model.

    Raises:
        InputError: One line about the first problem: the key, `where` it stands, and the nearest valid key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # An unknown key first: where a name is misspelt, another one is missing too.
        problem = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
        place = [str(part) for part in problem["loc"]]
        key = ".".join(place)
        where = f"{where}: camera {name}" if (name := _camera_of(values, place)) else where
        if problem["type"] == "extra_forbidden":
            known = _keys_beside(model, place[:-1])
            near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(sorted(known))}."
            raise InputError(f"{where}: unknown key {key!r}. {hint}") from error
        if problem["type"] == "union_tag_not_found":
            raise InputError(f"{where}: the key '{key}.{_words(problem, 'discriminator')[0]}' is missing.") from error
        if problem["type"] == "missing" and not place[-1].isdecimal():
            raise InputError(f"{where}: the key {key!r} is missing.") from error
        got = redact_text(problem["input"]) if isinstance(problem["input"], str) else problem["input"]
        secret = any(map(is_secret_name, place))
        shown = "" if secret or isinstance(got, dict | list) else f" (got {got!r})"
        told = redact_text(describe_problem(problem)) + shown
        raise InputError(f"{where}: {key or 'the whole'}: {told}{'' if told.endswith('?') else '.'}") from error


def describe_problem(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value, in words of settings rather than of the library that checks them.

    Args:
        problem: One of `ValidationError.errors()`.
    """
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _OF_TYPE:
        return _OF_TYPE[kind]
    if kind == "string_pattern_mismatch" and context["pattern"] in _OF_PATTERN:
        return _OF_PATTERN[context["pattern"]]
    if kind == "union_tag_invalid":
        known = _words(problem, "expected_tags")
        near = difflib.get_close_matches(context["tag"], known, n=1, cutoff=0.5)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        return f"{_words(problem, 'discriminator')[0]} must be one of {', '.join(known)}, not {context['tag']!r}{hint}"
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        least = kind.endswith("short")
        length = context["min_length" if least else "max_length"]
        one, more = ("entry", "entries") if isinstance(problem["input"], list | tuple) else ("character", "characters")
        return f"must have at {'least' if least else 'most'} {length} {one if length == 1 else more}"
    if kind == "missing":
        return "is missing"
    text = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text.replace("Input should be", "must be", 1)


def _words(problem: Mapping[str, Any], name: str) -> list[str]:
    """What pydantic lists in quotes about a problem."""
    return [word.strip().strip("'") for word in str(problem["ctx"][name]).split(",")]


def _camera_of(values: Mapping[str, Any], place: Sequence[str]) -> str | None:
    """The name of the camera that a place is about: people count them from the top, we from 0."""
    if len(place) < 2 or place[0] != "cameras" or not place[1].isdecimal():
        return None
    camera = values["cameras"][int(place[1])]
    name = camera.get("name") if isinstance(camera, dict) else None
    return redact_text(name) if isinstance(name, str) and place[-1] != "name" else None


def describe_yaml_error(error: Exception) -> str:
    """What is wrong with a YAML text and where, without the lines themselves: one of them may hold a password."""
    mark = getattr(error, "problem_mark", None)
    place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
    return f"{getattr(error, 'problem', None) or type(error).__name__}{place}"


def _copied(value: Any) -> Any:
    """Copy nested dicts and lists; models become dicts."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _keys_beside(model: type[BaseModel], place: list[str]) -> list[str]:
    """Names of the settings that may stand at `place`, found by walking the model's JSON Schema."""
    schema = model.model_json_schema()
    node: Any = schema
    for part in place:
        node = _resolved(schema, node)
        if part in node.get("properties", {}):
            node = node["properties"][part]
        elif "items" in node:
            node = node["items"]
        elif part in node.get("discriminator", {}).get("mapping", {}):
            node = {"$ref": node["discriminator"]["mapping"][part]}
    return list(_resolved(schema, node).get("properties", {}))


def _resolved(schema: Any, node: Any) -> Any:
    """Follow references and take the settings out of `X or null`."""
    while "$ref" in node or "anyOf" in node or "allOf" in node:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        else:
            node = next(option for option in node.get("anyOf", node.get("allOf")) if option.get("type") != "null")
    return node
