"""A user's exception between the process that raised it and those that wait for it.

`describe` turns it into a `Failure`, plain data that can be pickled; `rebuild` makes the exception anew: itself, with the
remote traceback as its `__cause__` and a note that says where. One that cannot be pickled, or cannot be unpickled, comes as an
`ActorTaskError` with its text. Neither function raises because of what the user's exception does.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from soma.errors import ActorTaskError, DecodeError, NotSerializableError, ObjectTooLargeError, RemoteTraceback
from soma.transport.codec import encode
from soma.transport.values import Parcel, open_parcel, parcel

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as data."""

    parcel: Parcel | None
    """None when it cannot be pickled: `why` says so."""
    type_name: str
    message: str
    traceback_text: str
    note: str
    """E.g. "raised in Counter.add of Counter 'c' (0a1b2c3d) on node n0, pid 77"."""
    why: str = ""

    def throw(self) -> NoReturn:
        raise rebuild(self)


def describe(error: BaseException, where: str, *, skip: int = 0) -> Failure:
    """The exception as data; its traceback leaves out the first `skip` frames, and then soma's own above the user's."""
    kind = type(error)
    type_name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    text = traceback_text(error, skip)
    try:
        packed: Parcel | None = parcel(encode(error, path=kind.__name__), None)
        why = ""
    except (NotSerializableError, ObjectTooLargeError) as e:
        packed, why = None, str(e)
    verb = "passed on by" if isinstance(error.__cause__, RemoteTraceback) else "raised in"  # it came here from another actor
    return Failure(packed, type_name, _shown(error), text, f"{verb} {where}", why)


def rebuild(failure: Failure) -> BaseException:
    """A new exception for each caller, so that none sees frames or notes of another."""
    error, why = _unpacked(failure)
    if error is None:
        error = ActorTaskError(failure.type_name, failure.message, failure.traceback_text, why)
    error.__cause__ = RemoteTraceback(failure.traceback_text)
    error.add_note(failure.note)
    return error


def _unpacked(failure: Failure) -> tuple[BaseException | None, str]:
    if failure.parcel is None:
        return None, failure.why
    try:
        error = open_parcel(failure.parcel)
    except DecodeError as e:
        return None, str(e)
    if not isinstance(error, BaseException):
        return None, f"it unpickled as {type(error).__name__}"
    return error, ""


def traceback_text(error: BaseException, skip: int = 0) -> str:
    """As Python would print it, without soma's own frames above the user's."""
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None and (skip > 0 or tb.tb_frame.f_code.co_filename.startswith(_HERE)):
        tb, skip = tb.tb_next, skip - 1
    return "".join(_formatted(lambda: traceback.format_exception(type(error), error, tb), error))


def _shown(error: BaseException) -> str:
    return "".join(_formatted(lambda: [str(error)], error))


def _formatted(show: Callable[[], list[str]], error: Any) -> list[str]:
    try:
        return show()
    except Exception as e:  # a __str__ or __repr__ of the user's that raises: its text is not worth losing the call
        return [f"<{type(error).__name__}, whose text cannot be had: {type(e).__name__}>"]
