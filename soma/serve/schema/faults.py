"""What is wrong with an input, as Cog says it: `{"loc": ["body", "input", name, …], "msg", "type"}`. Brief, however long the input; and
always text that can be sent, though JSON may hold halves of surrogate pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST = 50
"""Faults after which no more is looked for."""
SHOWN = 60
"""Characters of a value in a message."""

Fault = dict[str, Any]
"""What is wrong: `loc`, `msg`, `type`; `loc` grows at its front on the way out."""


class Invalid(ValueError):
    """An input that is not what the signature says.

    Attributes:
        detail: all that is wrong with it (at most `MOST`): `{"loc": ["body", "input", name, …], "msg", "type"}` each.
    """

    def __init__(self, detail: list[Fault]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, d['loc'][2:])) or 'input'}: {d['msg']}" for d in detail))
        self.detail = detail

    def __reduce__(self) -> tuple[type[Invalid], tuple[list[Fault]]]:
        return Invalid, (self.detail,)


def fault(msg: str, type: str = "value_error", *loc: str | int) -> Fault:
    return {"loc": list(loc), "msg": msg, "type": type}


def within(faults: list[Fault], since: int, key: str | int) -> int:
    """Say of the faults since then that they are inside of `key`; how many there are now."""
    for f in faults[since:]:
        f["loc"].insert(0, brief(key) if isinstance(key, str) else key)
    return len(faults)


def brief(text: str) -> str:
    """A text from a client, as messages have it."""
    return (text if len(text) <= SHOWN else f"{text[:SHOWN]}…").encode("utf-8", "backslashreplace").decode()


def shown(value: Any) -> str:
    """A value as messages name it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{brief(value)}"'
        case list():
            return "a list"
        case Mapping():
            return "an object"
        case int() if abs(value) >= 10**SHOWN:
            return "a very large integer"
    return repr(value)


def missing(name: str) -> Fault:
    return fault("Field required", "value_error.missing", name)


def unexpected(name: str) -> Fault:
    return fault(f"Unexpected field '{brief(name)}'", "value_error.extra", brief(name))
