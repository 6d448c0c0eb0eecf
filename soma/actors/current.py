"""Which engine runs in this process. `cluster` sets it in a driver, the actor process sets it for itself.

The one global of soma. A child that the user's code forks keeps the variable but not the right to use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from soma.errors import ForkedClientError, NotInitializedError

if TYPE_CHECKING:
    from soma.actors.engine import Engine

_engine: Engine | None = None
_pid = 0
_start_default: Callable[[], None] | None = None


def set_engine(engine: Engine | None) -> None:
    global _engine, _pid
    _engine, _pid = engine, os.getpid()


def set_default(start: Callable[[], None]) -> None:
    """What a verb does when no cluster runs: `cluster` gives `soma.init` here."""
    global _start_default
    _start_default = start


def peek() -> Engine | None:
    """The engine, or None; never starts one."""
    return _engine if _pid == os.getpid() else None


def forked() -> bool:
    """Whether this process is a fork of one that runs a cluster."""
    return _engine is not None and _pid != os.getpid()


def engine() -> Engine:
    """The running engine; starts the default local cluster if there is none."""
    if _engine is None:
        if _start_default is None:
            raise NotInitializedError("no cluster is running in this process: call soma.init()")
        _start_default()
        return engine()
    if _pid != os.getpid():
        raise ForkedClientError(
            f"process {os.getpid()} was forked from {_pid}, which owns the cluster; "
            "use actors instead of fork, or start the child by spawn and call soma.init() in it")
    return _engine
