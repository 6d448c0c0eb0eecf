"""Plain values as bytes that say exactly what they are: the leaves of a digest.

A token begins with a tag that names the type, and its own length can be read off it, so tokens can be put one after the other and
no two different values share one. Floats count by their bits. Handles exactly the types it lists; a subclass is somebody else's.
Lists, tuples, sets and dicts of atoms are tokens too, and long ones of one kind go through `array` and `join`: a million floats,
ints or short strings take well under a tenth of a second. Tokens over `SHORT` bytes are replaced by their hash.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from types import EllipsisType, NotImplementedType
from typing import Any

from blake3 import blake3

SHORT = 256
"""Bytes of the longest token that stands for itself."""

_DOUBLE, _DOUBLES, _SIZE, _WIDTH = struct.Struct("<d"), struct.Struct("<dd"), struct.Struct("<Q"), struct.Struct("<I")


def framed(tag: bytes, *parts: bytes) -> bytes:
    """A token of several byte strings, each with its length."""
    return tag + b"".join(_SIZE.pack(len(part)) + part for part in parts)


def number(n: int) -> bytes:
    """A count or a size, in eight bytes."""
    return _SIZE.pack(n)


def squeezed(token: bytes) -> bytes:
    """The token itself if it is short, else its hash."""
    return token if len(token) <= SHORT else b"#" + blake3(token).digest()


def text(value: str) -> bytes:
    """A string's token; lone surrogates count as what they are."""
    return squeezed(framed(b"s", value.encode("utf-8", "surrogatepass")))


def _integer(value: int) -> bytes:
    width = value.bit_length() // 8 + 1
    return squeezed(b"i" + _WIDTH.pack(width) + value.to_bytes(width, "little", signed=True))


def _range(value: range) -> bytes:
    return b"r" + _integer(value.start) + _integer(value.stop) + _integer(value.step)


ATOMS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: _integer,
    float: lambda value: b"f" + _DOUBLE.pack(value),
    complex: lambda value: b"c" + _DOUBLES.pack(value.real, value.imag),
    str: text,
    bytes: lambda value: squeezed(framed(b"b", value)),
    bytearray: lambda value: squeezed(framed(b"B", bytes(value))),
    range: _range,
    EllipsisType: lambda value: b"E",
    NotImplementedType: lambda value: b"Y",
}
_ATOMIC = frozenset(ATOMS)


def atom(value: Any) -> bytes:
    """The token of a value of one of the types in `ATOMS`."""
    return ATOMS[type(value)](value)


def tuple_of(*tokens: bytes) -> bytes:
    """A token of tokens."""
    return squeezed(framed(b"t", *tokens))


def flat(value: Any) -> bytes | None:
    """The token of a list, tuple, set, frozenset or dict that holds atoms only; None if it holds anything else."""
    kind = type(value)
    if kind is list or kind is tuple:
        inside = _sequence(value)
        return None if inside is None else squeezed((b"[" if kind is list else b"(") + inside)
    if kind is dict:
        inside = _sequence(list(value.values()))
        keys = None if inside is None else _sequence(list(value))
        return None if inside is None or keys is None else squeezed(b":" + framed(b"", keys, inside))
    return squeezed((b"{" if kind is set else b"<") + unordered(map(atom, value))) if _plain(value) else None


FLAT = frozenset({list, tuple, dict, set, frozenset})
"""Types that `flat` takes."""


def unordered(tokens: Iterable[bytes]) -> bytes:
    """Tokens whose order does not matter."""
    return framed(b"u", *sorted(tokens))


def _plain(values: Collection[Any]) -> bool:
    return _ATOMIC.issuperset(map(type, values))


def _sequence(values: Sequence[Any]) -> bytes | None:
    """What is in a list, whatever kind of list it is. The form depends on the values alone."""
    kinds = set(map(type, values))
    if not _ATOMIC.issuperset(kinds):
        return None
    count = number(len(values))
    if kinds == {float}:
        return b"F" + count + _little(array("d", values))
    if kinds == {int}:
        try:
            return b"I" + count + _little(array("q", values))
        except OverflowError:  # one that needs more than 64 bits: in the general form
            return b"M" + count + b"".join(map(_integer, values))
    if kinds == {str}:
        joined = "".join(values).encode("utf-8", "surrogatepass")
        return b"S" + count + _little(array("Q", map(len, values))) + joined
    return b"M" + count + b"".join(map(atom, values))


def _little(numbers: array[Any]) -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
