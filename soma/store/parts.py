"""What a value is made of, as `walk` wants to know it: a tag that says what it is, and its parts, each with the step to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Unstable(Exception):
    """A value that equals nothing but itself. `walk` knows the way to it and raises IdentityError."""


@dataclass(slots=True)
class Parts:
    """A value taken apart."""

    tag: bytes
    """A token of all that the parts do not say."""
    items: list[tuple[str, Any]]
    """The parts, and how each is reached from the value: `.net`, `[0]`."""
    ordered: bool = True
    code: bool = False
    """They are parts of code: a bare `object()` among them is a marker that the code compares with."""
