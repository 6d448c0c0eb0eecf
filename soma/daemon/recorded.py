"""What of a head's state is on record, and how it is read back: rows of plain data, by table (see `ledger`).

    epoch "" · member, over node · placed, doomed, order key    what `coordination` decided: its journal, as tables
    node name · joined name                  (its Register, whether it drains); machines that know the members' keys
    peer name · listener name · gone name    (its role); who hears events; who died lately
    actor id · life id · watch "id peer"     what never changes of an actor; what became of it; who is told
    seat holder · group id · asked request · loan id · blocked id
    session name                             (session, number): how far each sender's messages are dealt with
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from soma.daemon.coordination.journal import Doomed, Entry, HeadStarted, NodeAccepted, NodeGone, Placed, Removed
from soma.daemon.ledger import Book, Key
from soma.transport import messages as m
from soma.transport.frames import pack

Tables = Mapping[str, Mapping[Key, Any]]


def record(book: Book, entry: Entry) -> None:
    """One entry of the coordinator's journal."""
    match entry:
        case HeadStarted(epoch):
            book.put("epoch", "", epoch)
        case NodeAccepted(node, incarnation, registration):
            book.put("member", node, (incarnation, registration))
            book.drop("over", node)
        case NodeGone(node, incarnation):
            book.put("over", node, incarnation)
        case Placed(key, node, incarnation):
            book.put("placed", key, (node, incarnation))
        case Doomed(key):
            book.put("doomed", key, True)
        case Removed(key):
            for table in ("placed", "doomed", "order"):
                book.drop(table, key)


def note_node(book: Book, msg: m.Register, *, draining: bool) -> None:
    """A machine, as it told of itself; what runs there is on record elsewhere."""
    if book.lasting:
        book.put("node", msg.node_id, (pack(dataclasses.replace(msg, actors=())), draining))


def entries(tables: Tables) -> Iterator[Entry]:
    """A journal that says as much as the tables."""
    for epoch in tables.get("epoch", {}).values():
        yield HeadStarted(epoch)
    for node, (incarnation, registration) in tables.get("member", {}).items():
        yield NodeAccepted(str(node), incarnation, registration)
    for node, incarnation in tables.get("over", {}).items():
        yield NodeGone(str(node), incarnation)
    for key, (node, incarnation) in tables.get("placed", {}).items():
        yield Placed(str(key), node, incarnation)
    for key in tables.get("doomed", {}):
        yield Doomed(str(key))


def unstarted(tables: Tables) -> frozenset[str]:
    """Processes that were ordered and did not say, to this record's knowledge, that they run."""
    lives = tables.get("life", {})
    return frozenset(str(key) for key in tables.get("order", {}) if (life := lives.get(str(key).partition(".")[0])) and not life[5][4])
