"""The chunks of streams that filters wait for all of: kept by run and node until they are put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soma.errors import StreamBrokenError
from soma.filters.rows import joined
from soma.filters.tasks import Task


class Pieces:
    """Of one process."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], dict[int, Any]] = {}

    def add(self, run: str, node: str, number: int, chunk: Any) -> None:
        """Keep one; the same number again takes its place."""
        self._kept.setdefault((run, node), {})[number] = chunk

    def together(self, task: Task, others: Mapping[str, Any]) -> Any:
        """All `task.chunk` chunks as one input. `task.names` are its parts, in order; without any, the chunks are the input itself.

        Raises:
            StreamBrokenError: they are not all here, because this process is not the one that collected them.
            TypeError: chunks of this kind cannot be put together; names the node.
        """
        node, names = task.node, task.names
        kept = self._kept.pop((task.run, node), {})
        missing = next((n for n in range(task.chunk) if n not in kept), None)
        if missing is not None or len(kept) != task.chunk:
            raise StreamBrokenError(missing or 0, f"node {node!r} has {len(kept)} of {task.chunk} chunks")
        pieces = [kept[n] for n in range(task.chunk)]
        try:
            whole = joined(pieces) if pieces else {}
        except TypeError as e:
            raise TypeError(f"node {node!r} takes all chunks at once: {e}") from None
        return {name: whole[name] if name in whole else others[name] for name in names} if names else whole

    def forget(self, run: str) -> None:
        for key in [k for k in self._kept if k[0] == run]:
            del self._kept[key]
