"""State that outlives a death: an actor that defines `__soma_save__` and `__soma_restore__` continues where it was.

After each call that returned (or each nth: class attribute `__soma_save_every__`), before its answer is sent, what `__soma_save__()`
gives is written to a file of the cluster's private directory, whole or not at all. The next incarnation runs the constructor and
then `__soma_restore__(state)`. The file ends with the actor. A save that fails is that call's error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from soma.transport.codec import encode
from soma.transport.values import from_bytes, open_parcel, parcel, to_bytes


def path_of(directory: Path, actor: str) -> Path:
    """Where an actor's state lies; its daemon removes it when the actor has died for good."""
    return directory / "state" / actor


class Savepoint:
    """One actor's file."""

    def __init__(self, instance: Any, path: Path) -> None:
        self._save, self._restore = getattr(instance, "__soma_save__", None), getattr(instance, "__soma_restore__", None)
        self._every = int(getattr(instance, "__soma_save_every__", 1))
        self._path = path
        self._calls = 0
        if (self._save is None) != (self._restore is None):
            raise TypeError(f"{type(instance).__name__} defines only one of __soma_save__ and __soma_restore__; both are needed")

    @property
    def wanted(self) -> bool:
        return self._save is not None

    def restore(self) -> bool:
        """Give the instance what an earlier incarnation saved; False if there is nothing."""
        if self._restore is None or not self._path.exists():
            return False
        self._restore(open_parcel(from_bytes(self._path.read_bytes())))
        return True

    def after_call(self) -> None:
        """A call returned: save, if it is time."""
        self._calls += 1
        if self._save is None or self._calls % self._every:
            return
        data = to_bytes(parcel(encode(self._save(), path="__soma_save__()"), None))
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as f:
            f.write(data)
        fresh.replace(self._path)  # no fsync: a machine that stops takes the cluster with it
