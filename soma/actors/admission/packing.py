"""Where the bundles of a placement group go: all of them, or none.

One search serves every strategy but STRICT_SPREAD: bundles from the largest down, each where it had better go first, and back when one
fits nowhere. Its first descent is the usual greedy answer; going back makes it exact as long as `_STEPS` suffice (they do for a few
bundles on a few different nodes), after that it gives up: the group waits and tries again when something came free. STRICT_SPREAD is a
matching, and exact. Places alike are tried once. Pure: rooms are copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from soma.actors.admission.amounts import GPU, PARTS, Parts, parts_of
from soma.actors.admission.pool import place_gpus, suffices

GroupStrategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
STRATEGIES: tuple[GroupStrategy, ...] = get_args(GroupStrategy)

MOST_BUNDLES = 500
_STEPS = 4000
"""Places looked at before a search gives up, beyond one look at every place for every bundle."""

Gpus = dict[int, int]
"""Parts by GPU."""


def checked(bundles: Sequence[Mapping[str, float]], strategy: str) -> tuple[tuple[Parts, ...], GroupStrategy]:
    """Bundles in parts.

    Raises:
        ValueError: what nothing could mean; names it.
    """
    if not 0 < len(bundles) <= MOST_BUNDLES:
        raise ValueError(f"bundles: {len(bundles)} of them; from 1 to {MOST_BUNDLES}")
    made = []
    for j, bundle in enumerate(bundles):
        if not isinstance(bundle, Mapping):
            raise ValueError(f"bundles[{j}]={bundle!r:.80}: a mapping of resources to amounts, e.g. {{'CPU': 1}}")
        try:
            made.append(parts_of(bundle))
        except ValueError as e:
            raise ValueError(f"bundles[{j}]: {e}") from None
        if not made[-1]:
            raise ValueError(f"bundles[{j}]={bundle!r:.80}: asks for nothing")
    found = next((s for s in STRATEGIES if s == strategy), None)
    if found is None:
        raise ValueError(f"strategy={strategy!r}: one of {', '.join(map(repr, STRATEGIES))}")
    return tuple(made), found


@dataclass(slots=True, eq=False)
class Room:
    """What is free at one place. The search takes from it and gives back."""

    place: int
    free: Parts
    gpus: list[int]
    use: int = 0
    """In percent; decides only what is tried first."""
    bundles: int = 0
    """Of this group, that are here."""

    def take(self, want: Parts, gpus: Gpus, sign: int = 1) -> None:
        for name, n in want.items():
            self.free[name] -= sign * n
        for i, n in gpus.items():
            self.gpus[i] -= sign * n
        self.bundles += sign

    def fits(self, want: Parts) -> bool:
        return suffices(want, self.free, self.gpus)

    def alike(self) -> tuple[object, ...]:
        return (self.bundles > 0, self.bundles, tuple(sorted(self.free.items())), tuple(sorted(self.gpus)))


Placed = tuple[int, Gpus]
"""The place of a bundle, and what it gets of which GPU there."""


def pack(bundles: Mapping[int, Parts], strategy: GroupStrategy, rooms: Sequence[Room], may: Mapping[int, int]) -> dict[int, Placed] | None:
    """A place for every bundle, or None. `may`: the places that a bundle may go to, as bits.

    `rooms` come in the order of joining; one whose `bundles` is over 0 holds others of the group, that were not lost.
    """
    if not bundles:
        return {}
    gpus = any(GPU in want for want in bundles.values())
    spared = {r.place for r in rooms if r.gpus and not gpus}  # for those who need what is there
    order = sorted(rooms, key=lambda r: (r.place in spared, r.use))
    allowed = {j: [r for r in order if may[j] >> r.place & 1 and r.fits(want)] for j, want in bundles.items()}
    if not all(allowed.values()) or not enough(bundles, rooms):
        return None
    if strategy == "STRICT_SPREAD":
        return _match(bundles, {j: [r for r in found if not r.bundles] for j, found in allowed.items()})
    useful = {r.place for found in allowed.values() for r in found}
    order = [r for r in order if r.place in useful]
    if strategy != "SPREAD":
        for room in sorted(order, key=lambda r: (-r.bundles, r.place in spared, -r.use)):
            if all(may[j] >> room.place & 1 for j in bundles) and enough(bundles, [room]):
                found = _Search(bundles, [room], may, spread=False).run()
                if found is not None:
                    return found
    return None if strategy == "STRICT_PACK" else _Search(bundles, order, may, spread=strategy == "SPREAD").run()


def enough(bundles: Mapping[int, Parts], rooms: Sequence[Room]) -> bool:
    """Whether sums do not forbid it."""
    for name in {name for want in bundles.values() for name in want}:
        if sum(want.get(name, 0) for want in bundles.values()) > sum(max(0, r.free.get(name, 0)) for r in rooms):
            return False
    return True


def _match(bundles: Mapping[int, Parts], allowed: Mapping[int, list[Room]]) -> dict[int, Placed] | None:
    """Every bundle to a place of its own: augmenting paths (Kuhn)."""
    taken: dict[int, int] = {}
    """Place → bundle."""
    room_of = {r.place: r for found in allowed.values() for r in found}

    def move_in(j: int, seen: set[int]) -> bool:
        for room in allowed[j]:
            if room.place not in seen and room.place not in taken:
                taken[room.place] = j
                return True
        for room in allowed[j]:
            if room.place not in seen:
                seen.add(room.place)
                if move_in(taken[room.place], seen):
                    taken[room.place] = j
                    return True
        return False

    if not all(move_in(j, set()) for j in sorted(bundles, key=lambda j: len(allowed[j]))):
        return None
    return {j: (place, place_gpus(bundles[j], room_of[place].gpus) or {}) for place, j in taken.items()}


class _Search:
    """Depth first, bounded. `rooms` come with the best first."""

    def __init__(self, bundles: Mapping[int, Parts], rooms: Sequence[Room], may: Mapping[int, int], *, spread: bool) -> None:
        most = {name: max(max(r.free.get(name, 0) for r in rooms), 1) for want in bundles.values() for name in want}
        self._bundles = bundles
        self._order = sorted(bundles, key=lambda j: (-max((n / most[name] for name, n in bundles[j].items()), default=0), j))
        self._rooms = rooms
        self._may, self._spread = may, spread
        self._found: dict[int, Placed] = {}
        self._steps = _STEPS + len(bundles) * len(rooms)

    def run(self) -> dict[int, Placed] | None:
        return self._found if self._place(0) else None

    def _place(self, depth: int) -> bool:
        if depth == len(self._order):
            return True
        j = self._order[depth]
        want = self._bundles[j]
        tried = set()
        for room in sorted(self._rooms, key=lambda r: r.bundles if self._spread else -r.bundles):
            self._steps -= 1
            if not self._may[j] >> room.place & 1 or not room.fits(want):
                continue
            alike = (self._later(room.place, depth), room.alike())
            if alike in tried:
                continue
            tried.add(alike)
            for gpus in _choices(want, room.gpus):
                room.take(want, gpus)
                self._found[j] = (room.place, gpus)
                if self._place(depth + 1):
                    return True
                room.take(want, gpus, -1)
                if self._steps < 0:
                    return False
        return False

    def _later(self, place: int, depth: int) -> tuple[bool, ...]:
        """Which of the bundles still to come may go there."""
        return tuple(bool(self._may[j] >> place & 1) for j in self._order[depth + 1:])


def _choices(want: Parts, free: list[int]) -> Iterator[Gpus]:
    """Every way to give its GPUs that differs, the one that `place_gpus` takes first."""
    n = want.get(GPU, 0)
    if not 0 < n < PARTS:
        yield place_gpus(want, free) or {}
        return
    fitting = sorted((left, i) for i, left in enumerate(free) if left >= n)
    yield from ({i: n} for k, (left, i) in enumerate(fitting) if k == 0 or fitting[k - 1][0] != left)
