"""The chunks of streams that filters wait for all of: kept by run and node until they are put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soma.filters.rows import joined


class Pieces:
    """Of one process."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], list[Any]] = {}

    def add(self, run: str, node: str, chunk: Any) -> None:
        self._kept.setdefault((run, node), []).append(chunk)

    def together(self, run: str, node: str, names: tuple[str, ...], others: Mapping[str, Any]) -> Any:
        """All chunks as one input. `names` are those of its parts, in order; without any, the chunks are the input itself.

        Raises:
            TypeError: chunks of this kind cannot be put together; names the node.
        """
        pieces = self._kept.pop((run, node), [])
        try:
            whole = joined(pieces) if pieces else {}
        except TypeError as e:
            raise TypeError(f"node {node!r} takes all chunks at once: {e}") from None
        return {name: whole[name] if name in whole else others[name] for name in names} if names else whole

    def forget(self, run: str) -> None:
        for key in [k for k in self._kept if k[0] == run]:
            del self._kept[key]
