"""Classes whose values are JSON objects: TypedDicts, dataclasses, Cog's models and pydantic's. None is imported."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Field:
    """One field of such a class; `required` if it has no default."""

    name: str
    hint: Any
    required: bool


def is_record(cls: type) -> bool:
    return (typing.is_typeddict(cls) or type(cls).__name__ == "_TypedDictMeta" or dataclasses.is_dataclass(cls) or _models(cls) is not None
            or any(c.__name__ == "BaseModel" for c in cls.__mro__))


def fields_of(cls: type) -> list[Field]:
    """In order. NameError if an annotation names what is not there."""
    hints = typing.get_type_hints(cls, include_extras=True)
    if (models := _models(cls)) is not None:
        return [Field(name, hints.get(name, Any), _is_required(info)) for name, info in models.items()]
    if dataclasses.is_dataclass(cls):
        return [Field(f.name, hints.get(f.name, f.type), f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING)
                for f in dataclasses.fields(cls) if f.init]
    return [Field(name, hint, _is_key_required(cls, name, hint)) for name, hint in hints.items()
            if typing.get_origin(hint) is not typing.ClassVar]


def _is_key_required(cls: type, name: str, hint: Any) -> bool:
    """Of a TypedDict, or of a class that is none of the others. A TypedDict does not know itself where annotations are texts."""
    origin = typing.get_origin(hint)
    if origin in (typing.Required, typing.NotRequired):
        return origin is typing.Required
    return name in getattr(cls, "__required_keys__", (() if hasattr(cls, name) else (name,)))


def _models(cls: type) -> dict[str, Any] | None:
    """pydantic's fields, of version 2 or 1."""
    if not any(c.__module__.partition(".")[0] == "pydantic" for c in cls.__mro__):
        return None
    return next((vars(cls)[name] for name in ("__pydantic_fields__", "model_fields", "__fields__") if name in vars(cls)), {})


def _is_required(info: Any) -> bool:
    required = getattr(info, "is_required", None)
    return bool(required()) if callable(required) else bool(getattr(info, "required", True))
