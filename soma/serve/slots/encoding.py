"""An output of the user's as JSON can hold it. Files among it are sent where they belong. Refused: what JSON does not know, and NaN."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import uuid
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from soma.serve.slots.sending import Sender, read_of

PLAIN = (str, bool, int, type(None))
DEEPEST = 100


class OutputError(ValueError):
    """An output that cannot be given, and where in it."""


def encoded(value: Any, sender: Sender, where: str = "output", depth: int = 0) -> Any:
    """As JSON can hold it.

    Raises:
        OutputError: what, and where.
        FileError: a file that cannot be read or sent.
    """
    if type(value) in PLAIN:
        return value
    if depth > DEEPEST:
        raise OutputError(f"{where[:100]}… is nested more than {DEEPEST} levels deep, or contains itself")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OutputError(f"{where} is {value}, which JSON cannot hold")
        return float(value)
    if isinstance(value, enum.Enum):
        return encoded(value.value, sender, where, depth + 1)
    if isinstance(value, Mapping):
        return {_key(k, where): encoded(v, sender, f"{where}[{k!r}]", depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [encoded(v, sender, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    return _special(value, sender, where, depth)


def _special(value: Any, sender: Sender, where: str, depth: int) -> Any:
    if isinstance(value, PurePath):
        fetch = getattr(value, "convert", None)  # Cog's paths of what is still behind a URL
        return sender.sent(str(fetch() if callable(fetch) else value))
    if isinstance(value, (str, int)):
        return (str if isinstance(value, str) else int)(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if hasattr(value, "get_secret_value"):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return encoded(fields, sender, where, depth)
    for name in ("model_dump", "dict", "_asdict", "tolist"):  # pydantic 2 and 1, named tuples, arrays and tensors
        if not isinstance(value, type) and callable(method := getattr(value, name, None)):
            return encoded(method(), sender, where, depth + 1)
    if hasattr(value, "read"):
        name = getattr(value, "name", "")
        return sender.sent_bytes(read_of(value), name.rpartition("/")[2] if isinstance(name, str) and name else "file")
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [encoded(v, sender, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    raise OutputError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def _key(key: Any, where: str) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str):
        return str(key)
    if isinstance(key, (int, float)) and not isinstance(key, bool):
        return str(key)
    raise OutputError(f"{where} has a key {key!r:.60}; keys are texts")
