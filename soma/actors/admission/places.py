"""Many pools in the order they came: which of them may take something, and which of those had better.

Sets of places are bits of whole numbers: a thousand places are one number, and asking which are permitted, roomy, not closed and least
used is a few `&`. What was found not to fit is not asked again before it has more room: so finding a place costs about the same however
many there are, and a thousand full ones cost nothing.

A place that is gone leaves its bit unused: numbers are never given again. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from soma.actors.admission.amounts import CPU, GPU, Parts
from soma.actors.admission.pool import Pool, suffices
from soma.actors.admission.tally import Tally
from soma.actors.admission.where import InGroup, NodeAffinity, NodeLabels, Where

_USES = 102
"""How full a pool is: 0 to 100 percent, and more than that."""
_HALF = 50
_SHAPES, _LOG = 512, 4096


class Shape:
    """What is known of the places for one request: masks, brought up to date when they are asked for."""

    __slots__ = ("want", "where", "permitted", "preferred", "fits", "could", "version", "room_seen", "lasting_seen")

    def __init__(self, want: Parts, where: Where) -> None:
        self.want, self.where = want, where
        self.permitted = 0
        """What `where` allows."""
        self.preferred = 0
        """Those of them that it prefers (soft labels)."""
        self.fits = 0
        """Where it may fit: every other place was found too small, and has had no more room since."""
        self.could: int | None = None
        """Where it could fit once all that is not lasting has ended; None before somebody asked."""
        self.version = self.room_seen = self.lasting_seen = -1


class Places:
    """Numbered pools, each with a name. Names are nodes, or bundles of one placement group."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.number: dict[str, int] = {}
        self._pools: list[Pool] = []
        self.tags: list[frozenset[str]] = []
        self.labels: list[Mapping[str, str]] = []
        self.open = 0
        """Those that take something new, now or later."""
        self.distrusted = 0
        """Those that get nothing for now, for their node is not heard: what waits for them goes on waiting."""
        self.crowded = 0
        """Those whose node runs as many processes with CPUs as it may."""
        self.stuck = 0
        """Those whose node does so with actors alone, so that nobody should wait for their ends."""
        self._gpus = 0
        self._use: list[int] = []
        self._by_use = [0] * _USES
        self._tallies: dict[str, Tally] = {}
        self.version = 0
        """Of which places there are, and which are open."""
        self.roomier = 0
        """Counts what made room."""
        self._roomier: list[int] = []
        self.lasting = 0
        """Counts what changed what lasting holders have."""
        self._lasting: list[int] = []
        self._shapes: OrderedDict[tuple[frozenset[tuple[str, int]], Where], Shape] = OrderedDict()

    def add(self, name: str, pool: Pool, tags: frozenset[str], labels: Mapping[str, str]) -> int:
        i = len(self.names)
        self.names.append(name)
        self.number[name] = i
        self._pools.append(pool)
        self.tags.append(tags)
        self.labels.append(labels)
        self._use.append(0)
        self._by_use[0] |= 1 << i
        self.open |= 1 << i
        if pool._total.get(GPU):
            self._gpus |= 1 << i
        self.version += 1
        return i

    def remove(self, name: str) -> None:
        i = self.number.pop(name)
        self.close(i)
        self._by_use[self._use[i]] &= ~(1 << i)
        self._pools[i] = Pool({})

    def close(self, i: int) -> None:
        """Nothing new comes here."""
        self.open &= ~(1 << i)
        self.version += 1

    def mark_like(self, i: int, nodes: Places, j: int) -> None:
        """A bundle that is new, on node `j`."""
        self.distrusted |= (nodes.distrusted >> j & 1) << i
        self.crowded |= (nodes.crowded >> j & 1) << i
        self.stuck |= (nodes.stuck >> j & 1) << i

    def pool(self, name: str) -> Pool:
        return self._pools[self.number[name]]

    def pools(self) -> Iterator[tuple[int, Pool]]:
        """All that are there, also those that are closed."""
        return ((i, self._pools[i]) for i in self.number.values())

    def use(self, i: int) -> int:
        return self._use[i]

    def tally(self, kind: str, name: str, change: int) -> None:
        """One more, or one fewer, of this kind is there."""
        tally = self._tallies.setdefault(kind, Tally())
        tally.add(self.number[name], change)
        if not tally:
            del self._tallies[kind]

    def touch(self, i: int, *, roomier: bool, lasting: bool) -> None:
        """A pool changed: it may have more room than before, or lasting holders have more or less of it."""
        use = min(self._pools[i].use(), _USES - 1)
        before = self._use[i]
        if use != before:
            self._by_use[before] &= ~(1 << i)
            self._by_use[use] |= 1 << i
            self._use[i] = use
        if roomier:
            self.roomier += 1
            self._roomier.append(i)
            if len(self._roomier) > 2 * _LOG:
                del self._roomier[:_LOG]
        if lasting:
            self.lasting += 1
            self._lasting.append(i)
            if len(self._lasting) > 2 * _LOG:
                del self._lasting[:_LOG]

    # -- shapes --------------------------------------------------------------------------------------------------------------

    def shape(self, key: frozenset[tuple[str, int]], where: Where) -> Shape:
        """What is known of the places for this request, up to date but for `could`."""
        shape = self._shapes.get((key, where))
        if shape is None:
            shape = self._shapes[key, where] = Shape(dict(key), where)
            if len(self._shapes) > _SHAPES:
                self._shapes.popitem(last=False)
        self.refresh(shape)
        return shape

    def refresh(self, shape: Shape) -> None:
        if shape.version != self.version:
            self._permit(shape)
            shape.version, shape.fits, shape.could = self.version, -1, None
        elif shape.room_seen != self.roomier:
            missed = self.roomier - shape.room_seen
            if missed > len(self._roomier):
                shape.fits = -1
            else:
                for i in self._roomier[-missed:]:
                    shape.fits |= 1 << i
        shape.room_seen = self.roomier

    def _permit(self, shape: Shape) -> None:
        where = shape.where
        found = self.open
        match where.strategy:
            case InGroup(bundle=bundle) if bundle >= 0:
                found &= self._bit(str(bundle))
            case NodeAffinity(node=node, soft=soft):
                one = self._bit(node) & self.open
                if not soft or (one and self._pools[self.number[node]]._feasible(shape.want) and self.permits(where, self.number[node])):
                    found = one
        shape.permitted = shape.preferred = mask_of(i for i in bits(found) if self.permits(where, i))
        if isinstance(where.strategy, NodeLabels) and where.strategy.soft:
            wishes = where.strategy.soft
            shape.preferred = mask_of(i for i in bits(shape.permitted) if all(c.holds(self.labels[i]) for c in wishes))

    def _bit(self, name: str) -> int:
        i = self.number.get(name)
        return 0 if i is None else 1 << i

    def permits(self, where: Where, i: int) -> bool:
        return (not where.tags and not where.hard) or where.permits(self.tags[i], self.labels[i])

    def could(self, shape: Shape) -> int:
        """Where it would fit if all that is not lasting ended."""
        pools, want = self._pools, shape.want
        if shape.could is None or self.lasting - shape.lasting_seen > len(self._lasting):
            shape.could = mask_of(i for i in bits(shape.permitted) if pools[i]._could_come_free(want))
        elif shape.lasting_seen != self.lasting:
            for i in set(self._lasting[shape.lasting_seen - self.lasting:]):
                if shape.permitted >> i & 1:
                    shape.could = shape.could | 1 << i if pools[i]._could_come_free(want) else shape.could & ~(1 << i)
        shape.lasting_seen = self.lasting
        return shape.could

    def could_run(self, shape: Shape) -> int:
        """Where it could run if all that is not lasting ended."""
        return self.could(shape) & ~self.stuck if CPU in shape.want else self.could(shape)

    # -- the choice ----------------------------------------------------------------------------------------------------------

    def find(self, shape: Shape, closed: int, near: str | None) -> int | None:
        """The best place that has room for a process and is not closed."""
        left = shape.permitted & shape.fits & ~closed & ~self.distrusted
        if CPU in shape.want:
            left &= ~self.crowded
        if not left:
            return None
        want = shape.want
        beloved = self._bit(near) if near is not None and shape.where.strategy == "DEFAULT" else 0
        for tier in self._tiers(shape, left):
            while tier:
                bit = self._best(shape, tier, beloved)
                i = bit.bit_length() - 1
                pool = self._pools[i]
                if suffices(want, pool._free, pool._gpus):
                    return i
                tier &= ~bit
                shape.fits &= ~bit
        return None

    def fitting(self, shape: Shape, closed: int) -> int:
        """All places that have room for a bundle and are not closed."""
        want, left = shape.want, shape.permitted & shape.fits & ~closed & ~self.distrusted
        for i in bits(left):
            pool = self._pools[i]
            if not suffices(want, pool._free, pool._gpus):
                shape.fits &= ~(1 << i)
        return left & shape.fits

    def _tiers(self, shape: Shape, left: int) -> Iterator[int]:
        """Soft labels first; what needs no GPU goes where none is, as long as there is room."""
        for some in (left & shape.preferred, left & ~shape.preferred):
            if some and self._gpus and GPU not in shape.want:
                yield some & ~self._gpus
                yield some & self._gpus
            else:
                yield some

    def _best(self, shape: Shape, mask: int, beloved: int) -> int:
        """One bit of `mask`."""
        if not mask & (mask - 1):
            return mask
        strategy, kind = shape.where.strategy, kind_of(shape.want, shape.where)
        if mask & beloved and shape.want and self._use[beloved.bit_length() - 1] < _HALF:
            return beloved
        if kind is not None:
            tally = self._tallies.get(kind)
            found = mask if tally is None else tally.fewest(mask)
            return found & -found
        for alike in reversed(self._by_use) if strategy == "PACK" else self._by_use:
            if alike and (found := alike & mask):
                return found & -found
        raise AssertionError("every place is somewhere between empty and full")


def kind_of(want: Parts, where: Where) -> str | None:
    """Among whom it is spread: those of its kind, or all who ask for nothing; None for who takes what is least used."""
    if where.strategy == "SPREAD":
        return "+" + where.kind
    return "" if not want and where.strategy != "PACK" else None


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, in order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def mask_of(numbers: Iterator[int]) -> int:
    mask = 0
    for i in numbers:
        mask |= 1 << i
    return mask
