"""From checked JSON to what `predict` is called with: files are fetched, secrets wrapped, records made, by the parameters' annotations.

A path is only ever taken from the predictor's own default; from a client comes a URL.
"""

from __future__ import annotations

import enum
import inspect
import io
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from soma.serve.schema.records import fields_of, is_record
from soma.serve.slots.fetching import FileError

Fetch = Callable[[str], str]
"""From a URI to the path of a file."""
_SEVERAL = {list, tuple, set, frozenset}
_AS_IT_IS: frozenset[Any] = frozenset({str, int, float, bool, bytes, list, dict, type(None), Any, object})


class Parameters:
    """Those of one function that need more than their JSON. `convert` costs next to nothing where there are none.

    Args:
        fn: what is called.
        owner: the instance or class that it is a method of, whose names its annotations may use.
    """

    def __init__(self, fn: Callable[..., Any], owner: Any = None) -> None:
        self._special: dict[str, Any] = {}
        self._defaults: dict[str, Any] = {}
        names = dict(vars(owner if inspect.isclass(owner) else type(owner)))
        called = fn if inspect.isroutine(fn) else type(fn).__call__
        hints = typing.get_type_hints(called, localns=names, include_extras=True)
        for name, parameter in inspect.signature(fn).parameters.items():
            if parameter.default is not parameter.empty:
                self._defaults[name] = getattr(parameter.default, "default", parameter.default)
            if _is_special(hints.get(name)):
                self._special[name] = hints[name]
        self.has_files = any(_is_special(hint, only=("path", "file")) for hint in self._special.values())

    def convert(self, given: Mapping[str, Any], fetch: Fetch, opened: list[Any]) -> dict[str, Any]:
        """The arguments. What is opened for them is appended to `opened`.

        Raises:
            FileError: a file that cannot be had, with the name of the input.
        """
        found = dict(given)
        for name, hint in self._special.items():
            if found.get(name) is None:
                continue
            default = self._defaults.get(name)
            own = isinstance(default, (str, PurePath)) and found[name] == str(default)
            try:
                found[name] = _converted(hint, found[name], (lambda path: path) if own else fetch, opened)
            except FileError as e:
                raise FileError(f"input {name!r}: {e}") from None
        return found


def _kind(hint: Any) -> str | None:
    """What is more than JSON. TypedDicts are dicts, but may have files in them."""
    if not inspect.isclass(hint) or typing.get_origin(hint) is not None or hint in _AS_IT_IS:
        return "file" if hint is typing.BinaryIO else None
    if issubclass(hint, io.IOBase):
        return "file"
    if issubclass(hint, os.PathLike):
        return "path"
    if issubclass(hint, enum.Enum):
        return "enum"
    if hasattr(hint, "get_secret_value"):
        return "secret"
    return "record" if is_record(hint) else None


def _is_special(hint: Any, only: tuple[str, ...] = (), inside: tuple[Any, ...] = ()) -> bool:
    kind = _kind(hint)
    if kind is not None and (not only or kind in only):
        return True
    if kind == "record" and hint not in inside:
        return any(_is_special(f.hint, only, (*inside, hint)) for f in fields_of(hint))
    return any(_is_special(arm, only, inside) for arm in typing.get_args(hint))


def _converted(hint: Any, value: Any, fetch: Fetch, opened: list[Any]) -> Any:
    match _kind(hint):
        case "path":
            return hint(fetch(value)) if isinstance(value, str) else value
        case "file":
            return _opened(fetch(value), opened) if isinstance(value, str) else value
        case "enum" | "secret":
            return hint(value)
        case "record":
            return _record(hint, value, fetch, opened)
    origin, arms = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _converted(arms[0], value, fetch, opened)
    if origin in (typing.Union, types.UnionType):
        arm = next((a for a in arms if _is_special(a) and _may_be(a, value)), None)
        return value if arm is None else _converted(arm, value, fetch, opened)
    if origin in _SEVERAL and isinstance(value, list):
        return [_converted(arms[0], v, fetch, opened) for v in value]
    if origin is dict and isinstance(value, dict):
        return {k: _converted(arms[1], v, fetch, opened) for k, v in value.items()}
    return value


def _opened(path: str, opened: list[Any]) -> Any:
    file = open(path, "rb")
    opened.append(file)
    return file


def _record(cls: Any, value: Any, fetch: Fetch, opened: list[Any]) -> Any:
    if not isinstance(value, dict):
        return value
    fields = {f.name: f.hint for f in fields_of(cls)}
    made = {k: _converted(fields[k], v, fetch, opened) if k in fields and v is not None else v for k, v in value.items()}
    return made if typing.is_typeddict(cls) else cls(**made)


def _may_be(arm: Any, value: Any) -> bool:
    origin = typing.get_origin(arm) or arm
    if origin in _SEVERAL:
        return isinstance(value, list)
    is_object = origin is dict or _kind(arm) == "record"
    return isinstance(value, dict) if is_object else not isinstance(value, (list, dict))
