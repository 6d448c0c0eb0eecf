"""How wide a text will be, roughly, without a font; texts that fit; and texts that XML can hold."""

from __future__ import annotations

import re
from html import escape
from math import fsum
from unicodedata import combining, east_asian_width

MONO = 0.61
"""Width of a letter of the fixed font, in units of its size."""
_NARROW, _WIDE = frozenset("iljtfrI.,:;'|!()[]{}/\\ -\"`"), frozenset("mwMW@%—…")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def width(text: str, size: float, *, fixed: bool = False) -> float:
    """In pixels, generously."""
    return size * fsum(_ems(letter, fixed) for letter in text)


def _ems(letter: str, fixed: bool) -> float:
    if combining(letter):
        return 0.0
    if east_asian_width(letter) in "WF":
        return 1.05 if not fixed else 2 * MONO
    if fixed:
        return MONO
    return 0.4 if letter in _NARROW else 0.95 if letter in _WIDE else 0.72 if letter.isupper() else 0.63


def fitted(text: str, size: float, room: float, *, fixed: bool = False) -> str:
    """On one line, cut to the room there is, with … for what is missing."""
    text = " ".join(text.split())
    if width(text, size, fixed=fixed) <= room + 0.5:  # sums of floats differ a little
        return text
    left = room - width("…", size, fixed=fixed)
    for i, letter in enumerate(text):
        left -= size * _ems(letter, fixed)
        if left < 0:
            return text[:i].rstrip() + "…"
    return text


def escaped(text: str) -> str:
    """For element text and for quoted attributes; � for what XML 1.0 cannot hold."""
    return escape(_NOT_XML.sub("\ufffd", text))
