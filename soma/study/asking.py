"""Trials that the caller runs: `Study.ask`."""

from __future__ import annotations

import os
from typing import Any

from soma.study.book import Book
from soma.study.trial import Trial


class _Asked:
    """The channel of a trial that its caller runs."""

    def __init__(self, book: Book, number: int) -> None:
        self._book, self._number = book, number

    def report(self, name: str, value: float, step: int) -> None:
        self._book.report(self._number, name, value, step)

    def verdict(self, reports: int) -> bool:
        return self._book.opened(self._number).pruned

    def note(self, name: str, value: Any) -> None:
        self._book.note(self._number, name, value)


def asked(book: Book) -> Trial | None:
    """The next trial; None if all that were planned have begun."""
    at = book.ask({"worker": 0, "pid": os.getpid()})
    if at is None:
        return None
    judged = book.terms.objectives[0] if book.terms.prunes else None
    return Trial(at.number, at.params, at.seed, _Asked(book, at.number), judged=judged, attempt=at.attempt)
