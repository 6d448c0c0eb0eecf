"""Headers on the wire: `[version, kind, *fields]` in msgpack, bounded and checked before anything in it is used.

Refuses: headers over 64 KiB (before unpacking: a small bomb unpacks to a big one), nesting deeper than 8, trailing bytes,
extension types (timestamps too), keys that are no strings or come twice, wrong arity, wrong field types, another protocol
version. Never pickle. Each message class in `messages` registers itself here by its number; numbers are only ever appended.
A field's annotation is its type all the way down: of `tuple[tuple[str, bytes], ...]` every item is checked, `Any` is plain data.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Container
from typing import Annotated, Any, TypeVar

import msgpack

from soma.config import LIMITS, PROTOCOL_VERSION
from soma.errors import ProtocolError, VersionMismatchError
from soma.transport.naming import is_name

M = TypeVar("M")

Check = Callable[[Any, int], bool]
"""Whether a value is as it should be, and nested at most so deep."""

_kinds: dict[int, tuple[type, tuple[tuple[str, tuple[type, ...], Check | None], ...]]] = {}
_shapes: dict[tuple[type, ...], tuple[tuple[int, Check], ...]] = {}
"""Messages and field types that were found right before, with what else is to be checked: one look-up checks all types."""
_packers: dict[type, Callable[[Any], tuple[Any, ...]]] = {}
_packer = msgpack.Packer(use_bin_type=True)


_ITEMS = 2048
"""Of one array. msgpack makes room for all that are claimed, at each of 1,024 levels, before it sees that they are not there."""

_names: set[str] = set()


def _is_name(value: str, left: int) -> bool:
    """Of one machine or of several (see `naming`): a socket of this name lies in the runtime directory, or where the name says."""
    if value in _names:
        return True
    if not is_name(value):
        return False
    if len(_names) < 10_000:
        _names.add(value)
    return True


Name = Annotated[str, _is_name]
"""The name of a peer or actor."""


def _is_natural(value: int, left: int) -> bool:
    return 0 <= value < 1 << 32


Natural = Annotated[int, _is_natural]


def _is_call_id(value: bytes, left: int) -> bool:
    return len(value) == 16


CallKey = Annotated[bytes, _is_call_id]
"""A `CallId` on the wire."""


def _no_extension(code: int, data: bytes) -> Any:
    raise ProtocolError(f"header holds an extension type {code}; none is allowed")


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    if any(type(key) is not str for key, _ in pairs):
        raise ProtocolError("header holds a key that is no string")
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ProtocolError("header holds a key twice")
    return made


def message(kind: int) -> Callable[[type[M]], type[M]]:
    """Register a frozen dataclass as message number `kind`."""

    def register(cls: type[M]) -> type[M]:
        if kind in _kinds:
            raise ValueError(f"kind {kind} is taken by {_kinds[kind][0].__name__}")
        hints = typing.get_type_hints(cls, include_extras=True)
        fields = tuple((f.name, _accepted(hints[f.name]), _check_of(hints[f.name]))
                       for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        _kinds[kind] = (cls, fields)
        cls.kind = kind  # type: ignore[attr-defined]
        names = [name for name, _, _ in fields]
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
    if origin is Annotated:
        return _accepted(typing.get_args(hint)[0])
    if hasattr(hint, "__supertype__"):
        return _accepted(hint.__supertype__)
    if origin is not None:
        return (origin,)
    if hint is float:
        return (float, int)
    if hint is Any:
        return (type(None), bool, int, float, str, bytes, tuple, dict)
    return (hint,)


def _check_of(hint: Any) -> Check | None:
    """What an annotation asks for beyond the type itself."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        check: Check = args[1]
        return check
    if origin is typing.Union or origin is types.UnionType:
        checks = [(_accepted(arm), _check_of(arm)) for arm in args]
        if all(c is None for _, c in checks):
            return None
        return lambda value, left: any(type(value) in t and (c is None or c(value, left)) for t, c in checks)
    if hint is Any:
        return _is_plain
    if origin is dict:
        key, item = args[0], _item(args[1])
        assert key is str
        return lambda value, left: left > 0 and all(item(v, left - 1) for v in value.values())
    if origin is tuple and args[1:] == (...,):
        item = _item(args[0])
        return lambda value, left: left > 0 and all(item(v, left - 1) for v in value)
    if origin is tuple:
        items = [_item(a) for a in args]
        return lambda value, left: left > 0 and len(value) == len(items) and all(
            c(v, left - 1) for c, v in zip(items, value, strict=True))
    return None


def _item(hint: Any) -> Check:
    accepted, check = _accepted(hint), _check_of(hint)
    return lambda value, left: type(value) in accepted and (check is None or check(value, left))


def _is_plain(value: Any, left: int) -> bool:
    kind = type(value)
    if kind is tuple or kind is dict:
        return left > 0 and all(_is_plain(v, left - 1) for v in (value.values() if kind is dict else value))
    return value is None or kind in (bool, int, float, str, bytes)


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
        fields = msgpack.unpackb(frame, use_list=False, ext_hook=_no_extension, object_pairs_hook=_mapping, max_array_len=_ITEMS)
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
    checks = _shapes.get(shape)
    if checks is None:
        checks = _shapes[shape] = _checks_for(cls, fields, expected)
    for i, check in checks:
        value = fields[i]  # mostly an empty tuple, or a name that was seen before: 0.1 µs instead of 0.6
        if (value not in _names if check is _is_name else value != ()) and not check(value, LIMITS.header_depth):
            raise ProtocolError(f"{cls.__name__}.{expected[i - 2][0]} holds what it may not")
    try:
        return cls(*fields[2:])
    except (ValueError, TypeError) as e:
        raise ProtocolError(f"{cls.__name__}: {e}") from None


def _checks_for(cls: type, fields: tuple[Any, ...], expected: tuple[tuple[str, tuple[type, ...], Check | None], ...]
                ) -> tuple[tuple[int, Check], ...]:
    checks = []
    for i, (value, (name, accepted, check)) in enumerate(zip(fields[2:], expected, strict=True), 2):
        if type(value) not in accepted:
            raise ProtocolError(f"{cls.__name__}.{name} is a {type(value).__name__}")
        if check is not None and value is not None:
            checks.append((i, check))
    return tuple(checks)


def read(frames: list[bytes], known: Container[type], whose: str) -> Any:
    """The message of [sender, header, …] that came to `whose`, which knows the classes `known`.

    Raises:
        ProtocolError: it breaks the format, or is not for this mailbox.
    """
    if len(frames) > 4:  # fewer cannot be too many, and one frame is bounded by the socket
        check_parts(frames)
    if len(frames) < 2:
        raise ProtocolError("no header")
    msg = unpack(frames[1])
    if type(msg) not in known:
        raise ProtocolError(f"{type(msg).__name__} is not for {whose}")
    return msg


def check_parts(frames: list[bytes]) -> None:
    """Refuse a message of too many or too large frames."""
    if len(frames) > LIMITS.parts:
        raise ProtocolError(f"message of {len(frames)} parts; at most {LIMITS.parts} are read")
    if sum(map(len, frames)) > LIMITS.message_bytes:
        raise ProtocolError(f"message over {LIMITS.message_bytes} bytes")


def registered() -> list[tuple[int, type]]:
    """Every message that is known in this process, by number."""
    return [(kind, cls) for kind, (cls, _) in sorted(_kinds.items())]
