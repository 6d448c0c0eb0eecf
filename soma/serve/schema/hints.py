"""From an annotation to the JSON Schema of its values, for inputs and for outputs.

Types of Cog and of pydantic are known by what they have, not by where they come from, so that neither is imported: a file is a path or an
open file, a secret has `get_secret_value`. An input has only types that JSON can become; an output may also be what JSON is made of.
"""

from __future__ import annotations

import collections.abc
import datetime
import enum
import inspect
import io
import os
import types
import typing
import uuid
from collections.abc import Mapping
from typing import Any

from soma.serve.schema.records import fields_of, is_record

Schema = dict[str, Any]

FILE: Schema = {"type": "string", "format": "uri"}
SECRET: Schema = {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True}
NULL: Schema = {"type": "null"}

SUPPORTED = ("str, int, float, bool, Path, File, Secret, Any, list, dict, Optional and other unions, Literal, Enum, TypedDict, "
             "dataclasses and models")

_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"}, int: {"type": "integer"}, float: {"type": "number"}, bool: {"type": "boolean"}, dict: {"type": "object"},
    list: {"type": "array"}, type(None): NULL, None: NULL, Any: {}, object: {}, inspect.Parameter.empty: {}, typing.BinaryIO: FILE,
}
_SPECIAL: dict[Any, Schema] = {
    datetime.datetime: {"type": "string", "format": "date-time"}, datetime.date: {"type": "string", "format": "date"},
    datetime.time: {"type": "string", "format": "time"}, uuid.UUID: {"type": "string", "format": "uuid"},
    tuple: {"type": "array"}, set: {"type": "array"}, frozenset: {"type": "array"},
}
_MANY = {list, collections.abc.Sequence, collections.abc.MutableSequence}
_GIVEN_AS_LIST = _MANY | {tuple, set, frozenset, collections.abc.Set, collections.abc.Collection, collections.abc.Iterable}
_MAPS = {dict, collections.abc.Mapping, collections.abc.MutableMapping}
_QUALIFIERS = (typing.Required, typing.NotRequired, typing.Final, typing.ClassVar)
_JSON_KINDS: dict[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


class SignatureError(TypeError):
    """A predictor that cannot be served as it is declared; names the parameter, and what would do."""


def schema_of(hint: Any, *, output: bool = False, inside: tuple[Any, ...] = ()) -> Schema:
    """The schema of an annotation. `inside` are the records it is a part of.

    Raises:
        SignatureError: there is none.
    """
    if (known := _known(hint, output)) is not None:
        return known
    origin, args = origin_of(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        if any(type(m).__name__ == "_OpaqueMarker" for m in args[1:]):
            return _opaque(schema_of(args[0], output=output, inside=inside) if _reads(args[0], output) else {"type": "object"})
        return schema_of(args[0], output=output, inside=inside)
    if origin in _QUALIFIERS:
        return schema_of(args[0], output=output, inside=inside)
    if isinstance(hint, typing.NewType):
        return schema_of(hint.__supertype__, output=output, inside=inside)
    if type(hint).__name__ == "TypeAliasType":
        return schema_of(hint.__value__, output=output, inside=inside)
    if origin is typing.Literal:
        return choices_schema(list(args), str(hint))
    if origin in (typing.Union, types.UnionType):
        return _union([schema_of(a, output=output, inside=inside) for a in args])
    if origin is tuple and output and not (len(args) == 2 and args[1] is Ellipsis):
        return {"type": "array"}
    if origin in (_GIVEN_AS_LIST if output else _MANY):
        return {"type": "array", "items": schema_of(args[0], output=output, inside=inside)} if args else {"type": "array"}
    if origin in _MAPS:
        return _mapping(hint, args, output, inside) if args else {"type": "object"}
    if inspect.isclass(hint) and is_record(hint):
        return _record(hint, output, inside)
    raise SignatureError(f"{name_of(hint)} is not supported{' for an input' if not output else ''}; supported are {SUPPORTED}")


def origin_of(hint: Any) -> Any:
    """`list` of `list[int]`; the hint itself where it is of nothing; None for what is no type at all."""
    return typing.get_origin(hint) or (hint if isinstance(hint, collections.abc.Hashable) else None)


def name_of(hint: Any) -> str:
    return hint.__qualname__ if inspect.isclass(hint) and typing.get_origin(hint) is None else str(hint)


def _reads(hint: Any, output: bool) -> bool:
    try:
        schema_of(hint, output=output)
    except SignatureError:
        return False
    return True


def _known(hint: Any, output: bool) -> Schema | None:
    try:
        found = _PLAIN.get(hint) or (_SPECIAL.get(hint) if output else None)
    except TypeError:
        return None  # a Literal or Annotated with something that has no hash
    if found is not None or hint in (Any, object, inspect.Parameter.empty):
        return dict(found or {})
    if not inspect.isclass(hint) or typing.get_origin(hint) is not None:
        return None
    if issubclass(hint, enum.Enum):
        return choices_schema([m.value for m in hint], hint.__qualname__)
    if hasattr(hint, "get_secret_value"):
        return dict(SECRET)
    if issubclass(hint, (os.PathLike, io.IOBase)):
        return dict(FILE)
    if output and (hasattr(hint, "tolist") or issubclass(hint, tuple)):
        return {} if hasattr(hint, "tolist") else {"type": "array"}
    return None


def choices_schema(values: list[Any], whose: str) -> Schema:
    """One of some values. Of one type, if they are."""
    kinds = {_JSON_KINDS.get(type(v), "null" if v is None else "") for v in values}
    if "" in kinds or not values:
        said = ", ".join(sorted({type(v).__name__ for v in values if type(v) not in _JSON_KINDS})) or "nothing"
        raise SignatureError(f"{whose} has {said} among its values; they can be str, int, float and bool")
    schema: Schema = {"enum": values}
    if len(kinds) == 1:
        schema["type"] = kinds.pop()
    return schema


def _opaque(schema: Schema) -> Schema:
    """Whatever an object has in it; lists and null stay what they are."""
    if schema.get("type") in ("array", ["array", "null"]):
        return {"type": schema["type"], "items": {"type": "object"}}
    return {"type": ["object", "null"] if is_nullable(schema) else "object"}


def is_nullable(schema: Mapping[str, Any]) -> bool:
    if "anyOf" in schema:
        return any(is_nullable(m) for m in schema["anyOf"])
    if "enum" in schema:
        return None in schema["enum"]
    return not schema or schema.get("type") == "null" or isinstance(schema.get("type"), list)


def nullable(schema: Schema) -> Schema:
    """The schema, and null besides."""
    if is_nullable(schema):
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], NULL]}
    if "enum" in schema:
        kept = {k: v for k, v in schema.items() if k not in ("type", "enum")}
        return {**kept, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def _union(members: list[Schema]) -> Schema:
    if {} in members:
        return {}
    rest = [m for m in members if m != NULL]
    distinct = [m for i, m in enumerate(rest) if m not in rest[:i]]
    if not distinct:
        return dict(NULL)
    found: Schema = distinct[0] if len(distinct) == 1 else {"anyOf": distinct}
    return nullable(found) if len(rest) < len(members) else found


def _mapping(hint: Any, args: tuple[Any, ...], output: bool, inside: tuple[Any, ...]) -> Schema:
    if schema_of(args[0], output=output) not in ({"type": "string"}, {}) and not output:
        raise SignatureError(f"{name_of(hint)} has keys that are no str, as they are in JSON")
    values = schema_of(args[1], output=output, inside=inside)
    return {"type": "object", "additionalProperties": values} if values else {"type": "object"}


def _record(hint: Any, output: bool, inside: tuple[Any, ...]) -> Schema:
    if hint in inside:
        return {"type": "object"}  # of itself: as deep as it likes
    properties, required = {}, []
    try:
        fields = fields_of(hint)
    except NameError as e:
        raise SignatureError(f"{name_of(hint)}: {e}, which its annotations speak of") from None
    for field in fields:
        try:
            schema = schema_of(field.hint, output=output, inside=(*inside, hint))
        except SignatureError as e:
            raise SignatureError(f"field {field.name!r} of {name_of(hint)}: {e}") from None
        properties[field.name] = {"title": title(field.name), **schema}
        if field.required:
            required.append(field.name)
    found: Schema = {"type": "object", "title": hint.__name__, "properties": properties}
    if required:
        found["required"] = required
    return found if output else {**found, "additionalProperties": False}


def title(name: str) -> str:
    return name.replace("_", " ").title()
