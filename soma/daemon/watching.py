"""Who hears what becomes of which actor, also of those that are dead, and of those that are not there yet."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING

from soma.actors.lifecycle import Phase
from soma.daemon.resident import Resident, told_life
from soma.ids import ActorId
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.head import Head

TOMBS = 10_000
"""Dead actors that are remembered,"""
NOTED = 1000
"""and those of them that are on record."""


class Watching:
    """A part of `Residents`."""

    def __init__(self, head: Head) -> None:
        self._d = head
        self.by_id: dict[ActorId, Resident] = {}
        self.early_watchers: dict[ActorId, set[str]] = {}
        self.tombs: dict[ActorId, Resident] = {}
        self._noted: deque[ActorId] = deque()

    def note(self, r: Resident) -> None:
        """Something of it changed."""
        if self._d.book.lasting:
            self._d.book.put("life", r.actor, told_life(r))

    def watched(self, actor: ActorId, peer: str) -> None:
        """By somebody, as an earlier head knew."""
        r = self.by_id.get(actor) or self.tombs.get(actor)
        if r is None:
            self.early_watchers.setdefault(actor, set()).add(peer)
        else:
            r.watchers.add(peer)

    def watch(self, actor: ActorId, peer: str) -> None:
        self.watched(actor, peer)
        self._d.book.put("watch", f"{actor} {peer}", True)
        r = self.by_id.get(actor) or self.tombs.get(actor)
        if r is not None and r.life.phase in (Phase.READY, Phase.DEAD):
            self._d.send(peer, self._update(r), self._update_frames(r))

    def _update(self, r: Resident) -> m.ActorUpdate:
        cause = dataclasses.astuple(r.last) if r.last and r.life.phase is not Phase.READY else ()
        short = [dataclasses.astuple(dataclasses.replace(c, stderr_tail="", detail=c.detail[:500])) for c in r.life.history]
        return m.ActorUpdate(r.actor, max(0, r.life.incarnation), r.life.phase.value, cause, tuple(short), r.address)

    def _update_frames(self, r: Resident) -> list[bytes]:
        if r.life.phase is Phase.READY:
            return []
        return [r.last_begun, *(r.init_error[1] if r.init_error else [])]

    def tell(self, r: Resident) -> None:
        update, frames = self._update(r), self._update_frames(r)
        for peer in r.watchers:
            self._d.send(peer, update, frames)

    def bury_again(self, r: Resident) -> None:
        """Dead since an earlier head's time."""
        self.tombs[r.actor] = r
        self._noted.append(r.actor)

    def entomb(self, r: Resident) -> None:
        """It is over. The next head tells the death of those who died last once more: its news may be lost with this one."""
        self.tombs[r.actor] = r
        while len(self.tombs) > TOMBS:
            self.tombs.pop(next(iter(self.tombs)))
        if not self._d.book.lasting:
            r.watchers.clear()
            return
        self.note(r)
        self._noted.append(r.actor)
        while len(self._noted) > NOTED:
            old = self._noted.popleft()
            for table in ("actor", "life"):
                self._d.book.drop(table, old)
            tomb = self.tombs.get(old)
            if tomb is not None:
                for peer in tomb.watchers:
                    self._d.book.drop("watch", f"{old} {peer}")
                tomb.watchers.clear()
