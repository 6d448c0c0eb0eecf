"""Annotations of outputs that are texts given piece by piece, to be read as one text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class ConcatenateIterator(Iterator[Item]):
    """`def predict(self, …) -> ConcatenateIterator[str]`, a generator."""


class AsyncConcatenateIterator(AsyncIterator[Item]):
    """The same for `async def`."""
