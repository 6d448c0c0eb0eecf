"""JSON Schema, the part of it that signatures are written in, compiled to functions that check a value and give it back as it is declared.

What is accepted is exactly what the schema accepts: 1.0 is an integer and becomes 1, 1 is a number and becomes 1.0, true is neither, and no
text is ever read as a number. Refused besides: NaN and infinity. An integer beyond all floats stays an integer where a number is wanted.
A secret is in no message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from soma.serve.schema.faults import MOST, Fault, fault, missing, shown, unexpected, within

Check = Callable[[Any, list[Fault]], Any]
"""Gives the value, or adds faults."""


def compiled(schema: Mapping[str, Any]) -> Check:
    """The check of a schema. KeyError if signatures have no such schemas."""
    if "anyOf" in schema:
        return _any_of(schema["anyOf"])
    kinds = schema.get("type", ())
    if "enum" in schema:
        return _one_of(schema["enum"])
    if not kinds:
        return lambda value, faults: value
    if isinstance(kinds, list):
        return _or_null(compiled({**schema, "type": kinds[0]}))
    return _KINDS[kinds](schema)


def _or_null(inner: Check) -> Check:
    return lambda value, faults: None if value is None else inner(value, faults)


def _wrong(value: Any, kind: str, *, secret: bool = False) -> Fault:
    return fault(f'{"the value" if secret else shown(value)} is not of type "{kind}"')


def _null(schema: Mapping[str, Any]) -> Check:
    def check(value: Any, faults: list[Fault]) -> Any:
        if value is not None:
            faults.append(_wrong(value, "null"))

    return check


def _boolean(schema: Mapping[str, Any]) -> Check:
    def check(value: Any, faults: list[Fault]) -> Any:
        if type(value) is not bool:
            faults.append(_wrong(value, "boolean"))
        return value

    return check


def _integer(schema: Mapping[str, Any]) -> Check:
    bounded = _bounds(schema)

    def check(value: Any, faults: list[Fault]) -> Any:
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            faults.append(_wrong(value, "integer"))
            return value
        return bounded(value, faults) if bounded else value

    return check


def _number(schema: Mapping[str, Any]) -> Check:
    bounded = _bounds(schema)

    def check(value: Any, faults: list[Fault]) -> Any:
        if type(value) is not int and (type(value) is not float or not math.isfinite(value)):
            faults.append(_wrong(value, "number"))
            return value
        if bounded:
            bounded(value, faults)
        return _as_float(value) if type(value) is int else value

    return check


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return value


def _bounds(schema: Mapping[str, Any]) -> Check | None:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    if low == -math.inf and high == math.inf:
        return None

    def check(value: Any, faults: list[Fault]) -> Any:
        if value < low:
            faults.append(fault(f"{shown(value)} is less than the minimum of {low}"))
        elif value > high:
            faults.append(fault(f"{shown(value)} is greater than the maximum of {high}"))
        return value

    return check


def _string(schema: Mapping[str, Any]) -> Check:
    low, high = schema.get("minLength", 0), schema.get("maxLength", math.inf)
    pattern = re.compile(schema["pattern"]) if "pattern" in schema else None
    secret = bool(schema.get("writeOnly"))

    def check(value: Any, faults: list[Fault]) -> Any:
        if type(value) is not str:
            faults.append(_wrong(value, "string", secret=secret))
            return value
        said = "the value" if secret else shown(value)
        if len(value) < low:
            faults.append(fault(f"{said} is shorter than {low} characters"))
        if len(value) > high:
            faults.append(fault(f"{said} is longer than {high} characters"))
        if pattern is not None and pattern.search(value) is None:
            faults.append(fault(f'{said} does not match "{pattern.pattern}"'))
        return value

    return check


def _array(schema: Mapping[str, Any]) -> Check:
    items = schema.get("items", {})
    inner = compiled(items)
    plain = _PLAIN.get(items["type"]) if [*items] == ["type"] and isinstance(items["type"], str) else None

    def check(value: Any, faults: list[Fault]) -> Any:
        if not isinstance(value, list):
            faults.append(_wrong(value, "array"))
            return value
        if not items:
            return value
        if plain is not None and (alike := _all(value, plain)) is not None:
            return alike
        known = len(faults)
        found: list[Any] = []
        for i, item in enumerate(value):
            found.append(inner(item, faults))
            if len(faults) > known:
                known = within(faults, known, i)
                if known >= MOST:
                    break
        return found

    return check


def _all(value: list[Any], plain: type) -> list[Any] | None:
    """A long list whose items are all of one type, without looking at each in Python; None if they may not be."""
    kinds = set(map(type, value))
    if plain is not float:
        return value if kinds <= {plain} else None
    if not kinds <= {int, float}:
        return None
    try:
        return list(map(float, value)) if all(map(math.isfinite, value)) else None
    except OverflowError:
        return None  # an integer beyond all floats


def _object(schema: Mapping[str, Any]) -> Check:
    checks = {name: compiled(inner) for name, inner in schema.get("properties", {}).items()}
    required = schema.get("required", ())
    rest = schema.get("additionalProperties", {})
    others = None if rest is False else compiled(rest)

    def check(value: Any, faults: list[Fault]) -> Any:
        if not isinstance(value, dict):
            faults.append(_wrong(value, "object"))
            return value
        found: dict[str, Any] = {}
        known = len(faults)
        for key, item in value.items():
            inner = checks.get(key, others)
            if inner is None:
                faults.append(unexpected(key))
            else:
                found[key] = inner(item, faults)
                within(faults, known, key)
            known = len(faults)
            if known >= MOST:
                return found
        faults.extend(missing(name) for name in required if name not in value)
        return found

    return check


def _one_of(choices: list[Any]) -> Check:
    known = {(type(c) is bool, c): c for c in choices}
    said = ", ".join(shown(c) for c in choices[:20]) + (", …" if len(choices) > 20 else "")

    def check(value: Any, faults: list[Fault]) -> Any:
        if isinstance(value, (list, dict)) or (type(value) is bool, value) not in known:
            faults.append(fault(f"{shown(value)} is not one of {said}"))
            return value
        return known[type(value) is bool, value]

    return check


def _any_of(members: list[Mapping[str, Any]]) -> Check:
    checks = [compiled(m) for m in members]
    said = " or ".join(_name(m) for m in members)

    def check(value: Any, faults: list[Fault]) -> Any:
        fitting: list[Any] = []
        tries: list[list[Fault]] = []
        for inner in checks:
            wrong: list[Fault] = []
            found = inner(value, wrong)
            if not wrong:
                if type(found) is type(value):
                    return found
                fitting.append(found)
            tries.append(wrong)
        if fitting:
            return fitting[0]
        deep = [t for t in tries if any(f["loc"] for f in t)]
        faults.extend(deep[0] if len(deep) == 1 else [fault(f"{shown(value)} is not {said}")])
        return value

    return check


def _name(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "one of the values allowed" if "enum" in schema else "anything")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


_PLAIN: dict[str, type] = {"boolean": bool, "integer": int, "number": float, "string": str}
_KINDS: dict[str, Callable[[Mapping[str, Any]], Check]] = {
    "null": _null, "boolean": _boolean, "integer": _integer, "number": _number, "string": _string, "array": _array, "object": _object,
}
