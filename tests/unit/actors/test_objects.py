"""`ObjectTable` against plain counting: kept while somebody needs it, freed when nobody does, whatever the order of news."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from soma.actors.objects import Entry, ObjectTable, Status
from soma.ids import ObjectId
from soma.transport.values import Parcel

PEERS = ["p0", "p1", "p2"]


class Known:
    """What ought to be true of one value."""

    def __init__(self, entry: Entry, mine: bool) -> None:
        self.entry, self.mine = entry, mine
        self.refs = 0
        self.holders: dict[str, int] = {}
        self.settled = False
        self.contains: list[Known] = []
        self.gone = False

    @property
    def needed(self) -> bool:
        return self.refs > 0 or any(self.holders.values())


class TableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.released: list[ObjectId] = []
        self.table = ObjectTable("me", self.on_released)
        self.all: list[Known] = []
        self.called: list[int] = []

    def on_released(self, entry: Entry) -> bool:
        self.released.append(entry.id)
        return True

    def some(self, data: st.DataObject) -> Known:
        return data.draw(st.sampled_from([k for k in self.all if not k.gone]))

    def sweep(self) -> None:
        """What the model says is gone now; a value that goes lets go of what is in it."""
        changed = True
        while changed:
            changed = False
            for known in self.all:
                if not known.gone and not known.needed and (known.settled or not known.mine):
                    known.gone = changed = True
                    for inner in known.contains:
                        inner.refs -= 1

    @rule(mine=st.booleans())
    def new(self, mine: bool) -> None:
        if len(self.all) < 30:
            known = Known(self.table.add(ObjectId(b"%d" % len(self.all)), "me" if mine else "other", ""), mine)
            known.entry.local += 1
            known.refs = 1
            self.all.append(known)

    @precondition(lambda self: any(not k.gone for k in self.all))
    @rule(data=st.data())
    def another_ref(self, data: st.DataObject) -> None:
        known = self.some(data)
        if known.refs:
            known.entry.local += 1
            known.refs += 1

    @precondition(lambda self: any(not k.gone and k.refs for k in self.all))
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        inside = [inner for k in self.all if not k.gone for inner in k.contains]
        droppable = [k for k in self.all if not k.gone and k.refs > inside.count(k)]
        if droppable:
            known = data.draw(st.sampled_from(droppable))
            known.refs -= 1
            self.sweep()
            self.table.drop_local(known.entry.id)

    @precondition(lambda self: any(not k.gone and k.mine for k in self.all))
    @rule(data=st.data(), peer=st.sampled_from(PEERS), delta=st.integers(-2, 2).filter(bool))
    def hold(self, data: st.DataObject, peer: str, delta: int) -> None:
        """A count may go below zero for a moment: a drop overtook the add of another process."""
        known = data.draw(st.sampled_from([k for k in self.all if not k.gone and k.mine]))
        known.holders[peer] = known.holders.get(peer, 0) + delta
        self.sweep()
        self.table.hold(known.entry, peer, delta)

    @rule(peer=st.sampled_from(PEERS))
    def peer_dies(self, peer: str) -> None:
        touched = [k for k in self.all if not k.gone and k.holders.get(peer)]
        for known in touched:
            known.holders[peer] = 0
        self.sweep()
        self.table.forget_holder(peer)

    @precondition(lambda self: any(not k.gone and not k.settled for k in self.all))
    @rule(data=st.data(), watched=st.booleans())
    def settle(self, data: st.DataObject, watched: bool) -> None:
        known = data.draw(st.sampled_from([k for k in self.all if not k.gone and not k.settled]))
        inside = [k for k in self.all if not k.gone and k is not known and k.refs and all(k is not i.entry for i in k.contains)]
        inner = data.draw(st.lists(st.sampled_from(inside), max_size=2)) if inside else []
        inner = [i for i in inner if not reaches(i, known)]
        for i in inner:
            i.entry.local += 1
            i.refs += 1
        n = len(self.called)
        if watched:
            assert self.table.watch(known.entry, lambda: self.called.append(n))
        callbacks = self.table.settle(known.entry, Status.VALUE, Parcel(b""), contained=tuple(i.entry.id for i in inner))
        assert self.table.settle(known.entry, Status.ERROR) == [], "the first outcome stands"
        assert not self.table.watch(known.entry, lambda: None)
        for fn in callbacks:
            fn()
        assert self.called[n:] == ([n] if watched else [])
        known.settled, known.contains = True, inner
        self.sweep()
        self.table.settled_unused(known.entry)
        self.table.settled_unused(known.entry)

    @invariant()
    def kept_exactly_while_needed(self) -> None:
        for known in self.all:
            assert (self.table.get(known.entry.id) is known.entry) is not known.gone
        assert len(self.table) == sum(not k.gone for k in self.all)
        assert self.table.watched == 0

    @invariant()
    def owners_are_told_once(self) -> None:
        assert sorted(self.released) == sorted(k.entry.id for k in self.all if k.gone and not k.mine)

    def teardown(self) -> None:
        for peer in PEERS:
            self.peer_dies(peer)
        for known in self.all:
            if not known.settled and not known.gone:
                self.table.settle(known.entry, Status.FAILED, error=ValueError())
                known.settled = True
                self.sweep()
                self.table.settled_unused(known.entry)
        inside = [inner for k in self.all if not k.gone for inner in k.contains]
        for known in self.all:
            for _ in range(known.refs - inside.count(known)):
                known.refs -= 1
                self.table.drop_local(known.entry.id)
        assert len(self.table) == 0


def reaches(start: Known, end: Known) -> bool:
    return start is end or any(reaches(inner, end) for inner in start.contains)


TestTable = TableMachine.TestCase
