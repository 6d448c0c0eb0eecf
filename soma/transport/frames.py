"""Headers on the wire: `[version, kind, *fields]` in msgpack, bounded and checked before anything in it is used.

Refuses: headers over 64 KiB (before unpacking: a small bomb unpacks to a big one), nesting deeper than 8, trailing bytes,
extension types, wrong arity, wrong field types, another protocol version. Never pickle. Each message class in `messages`
registers itself here by its number; numbers are only ever appended.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from soma.config import LIMITS, PROTOCOL_VERSION
from soma.errors import ProtocolError, VersionMismatchError

M = TypeVar("M")

_kinds: dict[int, tuple[type, tuple[tuple[str, tuple[type, ...]], ...]]] = {}
_shapes: dict[tuple[type, ...], tuple[int, ...]] = {}
"""Messages and field types that were found right before, with the places of containers: one look-up checks all types."""
_packers: dict[type, Callable[[Any], tuple[Any, ...]]] = {}
_packer = msgpack.Packer(use_bin_type=True)


def _no_extension(code: int, data: bytes) -> Any:
    raise ProtocolError(f"header holds an extension type {code}; none is allowed")


def message(kind: int) -> Callable[[type[M]], type[M]]:
    """Register a frozen dataclass as message number `kind`."""

    def register(cls: type[M]) -> type[M]:
        if kind in _kinds:
            raise ValueError(f"kind {kind} is taken by {_kinds[kind][0].__name__}")
        hints = typing.get_type_hints(cls)
        fields = tuple((f.name, _accepted(hints[f.name])) for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        _kinds[kind] = (cls, fields)
        cls.kind = kind  # type: ignore[attr-defined]
        names = [name for name, _ in fields]
        scope: dict[str, Any] = {}
        # one attribute access per field, compiled once: this runs twice per call
        exec(f"def pick(m): return ({PROTOCOL_VERSION}, {kind}, {''.join(f'm.{n}, ' for n in names)})", scope)
        _packers[cls] = scope["pick"]
        return cls

    return register


def _accepted(hint: Any) -> tuple[type, ...]:
    """The exact runtime types that a field of this annotation may have."""
    origin = typing.get_origin(hint)
    if origin is typing.Union or origin is types.UnionType:
        return tuple(t for arm in typing.get_args(hint) for t in _accepted(arm))
    if hasattr(hint, "__supertype__"):
        return _accepted(hint.__supertype__)
    if origin is not None:
        return (origin,)
    if hint is float:
        return (float, int)
    return (hint,)


def pack(m: Any) -> bytes:
    """The header frame of a message."""
    header: bytes = _packer.pack(_packers[type(m)](m))
    if len(header) > LIMITS.header_bytes:
        raise ProtocolError(f"{type(m).__name__} header of {len(header)} bytes; at most {LIMITS.header_bytes} are sent")
    return header


def unpack(frame: bytes) -> Any:
    """The message of a header frame; ProtocolError says what is wrong with it."""
    if len(frame) > LIMITS.header_bytes:
        raise ProtocolError(f"header of {len(frame)} bytes; at most {LIMITS.header_bytes} are read")
    try:
        fields = msgpack.unpackb(frame, use_list=False, ext_hook=_no_extension, strict_map_key=False)
    except ProtocolError:
        raise
    except (ValueError, msgpack.UnpackException, RecursionError) as e:
        raise ProtocolError(f"header is not msgpack: {type(e).__name__}: {e}") from None
    if type(fields) is not tuple or len(fields) < 2 or type(fields[0]) is not int or type(fields[1]) is not int:
        raise ProtocolError("header is not [version, kind, ...]")
    if fields[0] != PROTOCOL_VERSION:
        raise VersionMismatchError(f"the peer speaks protocol version {fields[0]}, this process {PROTOCOL_VERSION}; "
                                   "install the same soma on both sides")
    known = _kinds.get(fields[1])
    if known is None:
        raise ProtocolError(f"unknown message kind {fields[1]}")
    cls, expected = known
    if len(fields) - 2 != len(expected):
        raise ProtocolError(f"{cls.__name__} has {len(expected)} fields, the header {len(fields) - 2}")
    shape = (cls, *map(type, fields))
    containers = _shapes.get(shape)
    if containers is None:
        containers = _shapes[shape] = _check_types(cls, fields, expected)
    for i in containers:
        if fields[i]:
            _check_depth(fields[i], LIMITS.header_depth, f"{cls.__name__}.{expected[i - 2][0]}")
    try:
        return cls(*fields[2:])
    except (ValueError, TypeError) as e:
        raise ProtocolError(f"{cls.__name__}: {e}") from None


def _check_types(cls: type, fields: tuple[Any, ...], expected: tuple[tuple[str, tuple[type, ...]], ...]) -> tuple[int, ...]:
    for value, (name, accepted) in zip(fields[2:], expected, strict=True):
        if type(value) not in accepted:
            raise ProtocolError(f"{cls.__name__}.{name} is a {type(value).__name__}")
    return tuple(i for i, value in enumerate(fields) if type(value) is tuple or type(value) is dict)


def _check_depth(value: Any, left: int, name: str) -> None:
    if left == 0:
        raise ProtocolError(f"{name} is nested deeper than {LIMITS.header_depth}")
    for item in value.values() if type(value) is dict else value:
        if type(item) is tuple or type(item) is dict:
            _check_depth(item, left - 1, name)


def check_parts(frames: list[bytes]) -> None:
    """Refuse a message of too many or too large frames."""
    if len(frames) > LIMITS.parts:
        raise ProtocolError(f"message of {len(frames)} parts; at most {LIMITS.parts} are read")
    if sum(map(len, frames)) > LIMITS.message_bytes:
        raise ProtocolError(f"message over {LIMITS.message_bytes} bytes")


def catalogue() -> list[tuple[int, type]]:
    """Every message, by number (docs/protocol.md is written from it)."""
    return [(kind, cls) for kind, (cls, _) in sorted(_kinds.items())]
