"""What `Input(…)` adds to a type: bounds of numbers, length and pattern of texts, choices. It is said of the items of a list, and of those
members of a union that it fits. Refused: what fits none, and choices or patterns that are none."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from soma.serve.schema.checks import compiled
from soma.serve.schema.faults import Fault
from soma.serve.schema.hints import Schema, SignatureError

_WORDS = (("minimum", "ge", ("integer", "number")), ("maximum", "le", ("integer", "number")),
          ("minLength", "min_length", ("string",)), ("maxLength", "max_length", ("string",)), ("pattern", "regex", ("string",)))
_SAID = {"integer": "int", "number": "float", "string": "str"}


def bounded(schema: Schema, info: Any, encoded: Callable[[Any], Any]) -> Schema:
    """The schema with what an `Input(…)` says.

    Raises:
        SignatureError: it does not fit.
    """
    for word, name, kinds in _WORDS:
        value = getattr(info, name, None)
        if value is None:
            continue
        _check(name, value)
        schema = _refined(schema, kinds, {word: value}, name)
    if info.choices is not None:
        schema = _chosen(schema, [encoded(c) for c in info.choices])
    return schema


def _check(name: str, value: Any) -> None:
    if name == "regex":
        try:
            re.compile(value)
        except (re.error, TypeError) as e:
            raise SignatureError(f"regex={value!r:.80} is no pattern: {e}") from None
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise SignatureError(f"{name}={value!r:.80} is no number")


def _leaves(schema: Mapping[str, Any], change: Callable[[Schema], Schema | None]) -> Schema | None:
    """With what `change` makes of each part that has a type of its own; None if it makes nothing of any."""
    if "anyOf" in schema:
        changed = [_leaves(m, change) for m in schema["anyOf"]]
        if not any(changed):
            return None
        return {**schema, "anyOf": [c or dict(m) for c, m in zip(changed, schema["anyOf"], strict=True)]}
    if _kind(schema) == "array" and "items" in schema:
        items = _leaves(schema["items"], change)
        return None if items is None else {**schema, "items": items}
    return change(dict(schema))


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "")
    return str(kind[0] if isinstance(kind, list) else kind)


def _refined(schema: Schema, kinds: tuple[str, ...], words: Schema, name: str) -> Schema:
    def change(leaf: Schema) -> Schema | None:
        return {**leaf, **words} if _kind(leaf) in kinds and "enum" not in leaf and "format" not in leaf else None

    found = _leaves(schema, change)
    if found is None:
        raise SignatureError(f"{name} is for {' and '.join(_SAID[k] for k in kinds)}, and this is neither such a type nor a list of one")
    return found


def _chosen(schema: Schema, choices: list[Any]) -> Schema:
    if not choices:
        raise SignatureError("choices are empty")

    def change(leaf: Schema) -> Schema | None:
        kind = _kind(leaf)
        if kind not in (*_SAID, "boolean") or "format" in leaf:
            return None
        faults: list[Fault] = []
        values = [compiled(leaf)(c, faults) for c in choices]
        if faults or None in values:
            raise SignatureError(f"choices do not fit the type: {faults[0]['msg'] if faults else 'null is among them'}")
        return {"type": kind, "enum": values} if not isinstance(leaf["type"], list) else {"enum": [*values, None]}

    found = _leaves(schema, change)
    if found is None:
        raise SignatureError("choices are for str, int and float, and lists of them")
    return found
