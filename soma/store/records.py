"""What is known of an entry without reading its value: records, as they lie beside the values, and what callers see of them.

A record is one line of checksum and one of JSON; whatever does not read back exactly as it was written is no record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from blake3 import blake3

Tier = Literal["memory", "disk", "shared"]

_KEY = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class Made:
    """How a value came to be.

    Attributes:
        title: what it is, e.g. "app.Scale.fit@scale". Entries of one title are compared to say why there is a miss.
        parts: named digests or short texts that went into the key, e.g. {"code": …, "parameter alpha": …, "x": …, "seed": …}.
        duration_ms: what making it took.
        created: when, in seconds since 1970.
        summary: what it looks like, e.g. "float64[1797, 8]".
        run: id of the run that made it.
    """

    title: str
    parts: Mapping[str, str] = field(default_factory=dict)
    duration_ms: float = 0.0
    created: float = 0.0
    summary: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What stands under a key: the digest of the value, its size in bytes when encoded, how it came to be."""

    digest: str
    nbytes: int
    made: Made

    def to_bytes(self) -> bytes:
        return _sealed({"digest": self.digest, "nbytes": self.nbytes, "made": _plain(self.made)})

    @staticmethod
    def from_bytes(data: bytes) -> Record | None:
        """None if the bytes are not exactly those of a record."""
        found = _opened(data)
        try:
            return Record(found["digest"], found["nbytes"], Made(**found["made"])) if found else None
        except (KeyError, TypeError):  # sealed by somebody who wrote other fields
            return None


@dataclass(frozen=True, slots=True)
class Hit:
    """An entry that was found, and where."""

    key: str
    digest: str
    nbytes: int
    tier: Tier
    made: Made

    @staticmethod
    def of(key: str, record: Record, tier: Tier) -> Hit:
        return Hit(key, record.digest, record.nbytes, tier, record.made)


def made_to_bytes(made: Made) -> bytes:
    return _sealed(_plain(made))


def made_from_bytes(data: bytes) -> Made | None:
    found = _opened(data)
    try:
        return Made(**found) if found else None
    except TypeError:  # sealed by somebody who wrote other fields
        return None


def check_key(key: str) -> str:
    """Keys and digests are names of files, so nothing else may pass for one.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(key, str) or _KEY.fullmatch(key) is None:
        raise ValueError(f"{key!r} is no key: 8 to 64 of the digits 0-9 and a-f, as soma.store.combine gives them")
    return key


def _plain(made: Made) -> dict[str, object]:
    return asdict(made) | {"parts": dict(made.parts)}


def _sealed(content: dict[str, object]) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode()
    return blake3(text).hexdigest(length=16).encode() + b"\n" + text


def _opened(data: bytes) -> dict[str, Any] | None:
    seal, _, text = data.partition(b"\n")
    if blake3(text).hexdigest(length=16).encode() != seal:
        return None
    found: dict[str, Any] = json.loads(text)
    return found
