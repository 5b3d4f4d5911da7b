"""`--gate NAME=VALUE`: other figures that a quantised graph must reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    G = TypeVar("G", bound=BaseModel)


def read_gate(kind: type[G], changes: Sequence[str]) -> G:
    """A gate of a kind with changes such as `cosine_mean=0.98`, named as its fields are without `min_` or `max_`.

    Raises:
        InputError: A name is unknown or a value out of range.
    """
    from pydantic import ValidationError

    from reidge.edge.settings import describe_problem

    fields = {name.partition("_")[2]: name for name in kind.model_fields}
    values: dict[str, str] = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in fields or not value:
            raise InputError(f"--gate {change} is not NAME=VALUE with one of the names {', '.join(fields)}.")
        values[fields[name]] = value
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).partition("_")[2]
        raise InputError(f"--gate {name}={first['input']}: {describe_problem(first)}.") from error
