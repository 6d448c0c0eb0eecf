"""Placement groups at the head: who made them, their names, and what becomes of those inside. What is reserved, `admission` decides."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soma.actors.admission import InGroup
from soma.actors.admission.infeasible import why_group_never
from soma.actors.admission.restoring import reserve_again, told_group
from soma.actors.placement_groups import row
from soma.actors.placing import where_of
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.head import Head


@dataclass(frozen=True, slots=True)
class Made:
    """A placement group's record."""

    creator: str
    name: str
    namespace: str
    detached: bool


class Groups:
    """All of them, by id."""

    def __init__(self, head: Head) -> None:
        self._d = head
        self._made: dict[str, Made] = {}

    def on_create(self, msg: m.CreateGroup, frames: list[bytes]) -> None:
        d = self._d
        known = self._made.get(msg.group)
        if known is not None and known.creator == msg.creator:
            d.answer(msg.creator, msg.request)  # it asks again, for the head that was asked first died
            return
        if msg.name and any((made.name, made.namespace) == (msg.name, msg.namespace) for made in self._made.values()):
            d.answer(msg.creator, msg.request, error="ValueError",
                     text=f"a placement group named {msg.name!r} exists in namespace {msg.namespace!r}; soma.get_placement_group finds it")
            return
        try:
            group = d.pools.create_group(msg.group, msg.bundles, msg.strategy)
        except ValueError as e:
            d.answer(msg.creator, msg.request, error="ValueError", text=str(e))
            return
        never = why_group_never(d.pools, group)
        if never:
            d.pools.remove_group(msg.group)
            d.answer(msg.creator, msg.request, error="PlacementError", text=f"placement group: {never}")
            return
        self._made[msg.group] = Made(msg.creator, msg.name, msg.namespace, msg.detached)
        self.note(msg.group)
        d.answer(msg.creator, msg.request)
        d.queue.add_group(msg.group)
        d.admit()

    def note(self, group: str) -> None:
        """Where its bundles are has changed."""
        made = self._made.get(group)
        if made is not None and self._d.book.lasting:
            self._d.book.put("group", group, (dataclasses.astuple(made), told_group(self._d.pools, group)))

    def adopt(self, group: str, told: tuple[Any, ...]) -> None:
        """One of an earlier head's."""
        self._made[group] = Made(*told[0])
        if reserve_again(self._d.pools, group, told[1]):
            self._d.queue.add_group(group)

    def on_remove(self, msg: m.RemoveGroup, frames: list[bytes]) -> None:
        self._remove(msg.group)
        self._d.answer(msg.peer, msg.request)

    def _remove(self, group: str) -> None:
        """Give it back, and end who is inside or waits to be."""
        d = self._d
        if self._made.pop(group, None) is None:
            return
        d.queue.remove(group)
        d.book.drop("group", group)
        for holder in d.pools.remove_group(group).holders:
            d.book.drop("seat", holder)
        for r in list(d.residents.by_id.values()):
            strategy = where_of(r.options).strategy
            if isinstance(strategy, InGroup) and strategy.group == group:
                d.stop(r, "group", graceful=False)
        d.loans.group_removed(group)
        d.admit()

    def peer_died(self, peer: str) -> None:
        """What it made goes with it."""
        for group in [id for id, made in self._made.items() if made.creator == peer and not made.detached]:
            self._remove(group)

    def rows(self) -> list[dict[str, Any]]:
        """For `Ask("groups")`."""
        return [row(group, self._made[id].name) for id, group in self._d.pools.bundles.groups.items() if id in self._made]
