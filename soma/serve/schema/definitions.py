"""`signature_of`: a function's signature from its annotations and defaults, at run time.

A default may be a value or what Cog's `Input(…)` gives, which is known by its attributes, whether it is Cog's own or that of
`soma.serve.compat`. A default of None makes an input optional. Refused with the name of the parameter: types that JSON cannot give,
defaults that cannot be, and bounds that do not fit the type.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from soma.serve.schema.bounds import bounded
from soma.serve.schema.checks import compiled
from soma.serve.schema.faults import Fault
from soma.serve.schema.hints import SECRET, SUPPORTED, Schema, SignatureError, is_nullable, nullable, origin_of, schema_of
from soma.serve.schema.signature import Output, Parameter, Signature

MISSING = inspect.Parameter.empty
_STREAMS = {collections.abc.Iterator, collections.abc.Generator, collections.abc.AsyncIterator, collections.abc.AsyncGenerator,
            collections.abc.AsyncIterable}
_LISTS = {list, collections.abc.Sequence}
_CONCATENATED = {"ConcatenateIterator", "AsyncConcatenateIterator"}


def signature_of(function: Callable[..., Any], owner: Any = None) -> Signature:
    """The signature of a function or bound method; of a method as its class has it, if `owner` is that class.

    Raises:
        SignatureError: it cannot be served, and which parameter is to blame.
    """
    called: Any = function
    while isinstance(called, functools.partial):
        called = called.func
    if not inspect.isroutine(called):
        called = type(called).__call__
    hints = _hints(called, owner)
    parameters = list(inspect.signature(function).parameters.values())
    if inspect.isclass(owner) and inspect.isfunction(function) and parameters:
        parameters = parameters[1:]
    found = tuple(_parameter(p, hints) for p in parameters)
    return Signature(found, _output(hints.get("return", MISSING), called), int(getattr(function, "__cog_concurrent_max__", 1)))


def _hints(function: Callable[..., Any], owner: Any) -> dict[str, Any]:
    names = dict(vars(owner if inspect.isclass(owner) else type(owner))) if owner is not None else None
    try:
        return typing.get_type_hints(function, localns=names, include_extras=True)
    except NameError as e:
        raise SignatureError(f"{_called(function)}: {e}, which its annotations speak of; import it where the function is defined") from None
    except TypeError as e:
        raise SignatureError(f"{_called(function)}: {e}") from None


def _called(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def _parameter(parameter: inspect.Parameter, hints: dict[str, Any]) -> Parameter:
    name = parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise SignatureError(f"*{name} and the like cannot be served: inputs have names; write each as a parameter of its own")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise SignatureError(f"parameter {name!r} can only be given by its position; inputs have names")
    if name not in hints:
        raise SignatureError(f"parameter {name!r} has no annotation; supported are {SUPPORTED}")
    try:
        return _read(name, hints[name], parameter.default)
    except SignatureError as e:
        raise SignatureError(f"parameter {name!r}: {e}") from None


def _read(name: str, hint: Any, declared: Any) -> Parameter:
    if declared is MISSING and typing.get_origin(hint) is typing.Annotated:
        declared = next((m for m in typing.get_args(hint)[1:] if _is_info(m)), MISSING)
    info = declared if _is_info(declared) else None
    schema = schema_of(hint)
    if info is not None:
        schema = bounded(schema, info, encoded)
        declared = _default(info, schema)
    if declared is None or (declared is MISSING and is_nullable(schema) and schema):
        schema, declared = nullable(schema), None
    default = None if declared is MISSING else _checked(encoded(declared), schema)
    return Parameter(name, schema, declared is MISSING, default, getattr(info, "description", None) or "",
                     bool(getattr(info, "deprecated", None)), getattr(info, "accept", None) or "")


def _is_info(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("default", "description", "ge", "le", "choices")) and not inspect.isclass(value)


def _default(info: Any, schema: Schema) -> Any:
    """Of an `Input(…)`. Cog's own does not say whether a None was given: it is then taken as given where it could have been."""
    found = info.default
    if isinstance(found, dataclasses.Field):
        found = found.default_factory() if found.default_factory is not dataclasses.MISSING else found.default
    if found is dataclasses.MISSING or not getattr(info, "has_default", True):
        return MISSING
    if found is None and not hasattr(info, "has_default"):
        return None if is_nullable(schema) or schema == SECRET else MISSING
    return found


def encoded(value: Any) -> Any:
    """A default or a choice as JSON can hold it; SignatureError if it cannot."""
    if isinstance(value, enum.Enum):
        return encoded(value.value)
    if hasattr(value, "get_secret_value"):
        return value.get_secret_value()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return [encoded(v) for v in value]
    if isinstance(value, dict):
        return {str(k): encoded(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encoded(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise SignatureError(f"{type(value).__name__} can be no default or choice: JSON has none. Use a str, int, float, bool, list or dict; "
                         "or None, and make it in the function")


def _checked(default: Any, schema: Schema) -> Any:
    faults: list[Fault] = []
    found = compiled(schema)(default, faults)
    if faults:
        raise SignatureError(f"its default is not what it allows: {faults[0]['msg']}")
    return found


def _output(hint: Any, function: Any) -> Output:
    try:
        return _output_of(hint, function)
    except SignatureError as e:
        raise SignatureError(f"the output of {_called(function)}: {e}") from None


def _output_of(hint: Any, function: Any) -> Output:
    while typing.get_origin(hint) is typing.Annotated and not any(type(m).__name__ == "_OpaqueMarker" for m in typing.get_args(hint)[1:]):
        hint = typing.get_args(hint)[0]
    if hint is MISSING and (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        return Output("iterator", {"type": "array"})
    if hint in (None, type(None)):
        return Output("none", {"type": "null"})
    origin, args = origin_of(hint), typing.get_args(hint)
    if getattr(origin, "__name__", "") in _CONCATENATED:
        return Output("concatenate", {"type": "array", "items": schema_of(args[0] if args else str, output=True)})
    if origin in _STREAMS or (origin is collections.abc.Iterable and inspect.isgeneratorfunction(function)):
        return Output("iterator", {"type": "array", **({"items": schema_of(args[0], output=True)} if args else {})})
    return Output("list" if origin in _LISTS else "value", schema_of(hint, output=True))
