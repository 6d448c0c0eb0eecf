"""What parameters are declared with: `Input(…)`, `Secret`, `Opaque`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FieldInfo:
    """What `Input(…)` says of a parameter. `has_default` tells a default of None from none at all."""

    default: Any = None
    description: str | None = None
    ge: float | None = None
    le: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    regex: str | None = None
    choices: Sequence[Any] | None = None
    deprecated: bool | None = None
    accept: str | None = None
    has_default: bool = True


def Input(default: Any = dataclasses.MISSING, *, default_factory: Callable[..., Any] | None = None, **says: Any) -> Any:
    """Declare an input: `prompt: str = Input(description="…", default="a cat")`.

    Args:
        default: taken if the client gives none; without one the input is required. None makes it optional. Each prediction has a copy.
        says: `description`; `ge`, `le`: bounds of a number; `min_length`, `max_length`, `regex`: of a text, anywhere in which the pattern
            is found; `choices`: all that is allowed; `deprecated`; `accept`: which files, as in HTML. Of a list they are said of its items.

    Raises:
        TypeError: another argument, or a `default_factory`, which nobody outside of Python could know of.
    """
    if default_factory is not None:
        raise TypeError("Input has no default_factory: a default can be shown to clients. Give default=…, or make it in the function")
    allowed = [f.name for f in dataclasses.fields(FieldInfo) if f.name not in ("default", "has_default")]
    if unknown := [name for name in says if name not in allowed]:
        raise TypeError(f"Input has no argument {', '.join(map(repr, unknown))}; it has default, {', '.join(allowed)}")
    if default is dataclasses.MISSING:
        return FieldInfo(has_default=False, **says)
    return FieldInfo(default, **says)


class Secret(str):
    """A text that does not show itself: not in `repr`, `str`, f-strings, nor `print`. `get_secret_value` gives it."""

    __slots__ = ("_is_set",)
    _is_set: bool

    def __new__(cls, secret_value: str | None = None) -> Secret:
        made = super().__new__(cls, secret_value or "")
        made._is_set = secret_value is not None
        return made

    def get_secret_value(self) -> str | None:
        """The text itself."""
        return str.__str__(self) if self._is_set else None

    def __str__(self) -> str:
        return "**********" if self._is_set else ""

    def __repr__(self) -> str:
        return f"Secret({self})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __reduce__(self) -> tuple[type[Secret], tuple[str | None]]:
        return Secret, (self.get_secret_value(),)


class _OpaqueMarker:
    """`Annotated[T, Opaque]`: an object with whatever is in it."""

    def __repr__(self) -> str:
        return "Opaque"


Opaque = _OpaqueMarker()
