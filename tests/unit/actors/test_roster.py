"""Who is in a group, after any sequence of hellos, goodbyes, deaths and dissolutions: everybody hears what they must, once."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from soma.actors.collective.roster import Roster, Send

SIZE = 3
steps = st.one_of(
    st.tuples(st.just("hello"), st.integers(0, 3), st.integers(0, SIZE), st.just(SIZE)),
    st.tuples(st.just("hello"), st.integers(0, 3), st.integers(0, SIZE - 1), st.sampled_from([SIZE, SIZE, SIZE, 2])),
    st.tuples(st.sampled_from(["bye", "gone"]), st.integers(0, 40)),
    st.tuples(st.just("dissolve"), st.integers(0, 4)))


class Watched:
    """A roster, and what each connection has heard."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.heard: dict[int, list[dict[str, Any]]] = {}
        self.open: dict[int, tuple[int, int]] = {}  # connection: (generation, rank), of those who were not let go
        self.ended: set[int] = set()

    def take(self, sends: list[Send]) -> None:
        for send in sends:
            connection: Any = send.to
            assert connection in self.open, "nobody hears anything after the last message"
            self.heard.setdefault(connection, []).append(dict(send.message))
            if "broken" in send.message:
                self.ended.add(self.open[connection][0])
            if send.last:
                del self.open[connection]


@given(st.lists(steps, max_size=40))
def test_everybody_hears_what_they_must(sequence: list[tuple[Any, ...]]) -> None:
    watched, newest = Watched(), -1
    for connection, step in enumerate(sequence):
        if step[0] == "hello":
            _, generation, rank, size = step
            watched.open[connection] = generation, rank
            told = {"generation": generation, "rank": rank, "size": size, "pid": connection}
            older = [c for c, (g, _) in watched.open.items() if g < generation]
            watched.take(watched.roster.hello(connection, told))
            if generation < newest or generation in watched.ended:
                assert [list(m) for m in watched.heard[connection]] == [["refused"]]
            elif generation > newest:
                newest = generation
                assert not any(c in watched.open for c in older), "a later generation ends every earlier one"
        elif step[0] == "dissolve":
            watched.take(watched.roster.dissolve(step[1], "over"))
            watched.ended |= set(range(step[1] + 1)) if step[1] >= newest else set()
            newest = max(newest, step[1])
            assert step[1] < newest or not watched.open
        elif step[1] in watched.open:
            generation, rank = watched.open.pop(step[1])
            here = [c for c, (g, _) in watched.open.items() if g == generation]
            watched.take(getattr(watched.roster, step[0])(step[1]))
            if step[0] == "gone":
                watched.ended.add(generation)
                assert not any(c in watched.open for c in here), "a death ends its generation for all"
                assert all(f"rank {rank} (process {step[1]}) is gone" in watched.heard[c][-1]["broken"] for c in here)
            else:
                assert all(c in watched.open for c in here), "an orderly goodbye breaks nothing"
        else:
            assert getattr(watched.roster, step[0])(step[1]) == [], "who was let go already changes nothing"

    for messages in watched.heard.values():
        kinds = [next(iter(m)) for m in messages]
        assert kinds in (["roster"], ["roster", "broken"], ["broken"], ["refused"])
        for message in messages:
            if "roster" in message:
                assert sorted(message["roster"]) == [str(r) for r in range(len(message["roster"]))]


def test_a_whole_group_is_told_who_is_where() -> None:
    roster = Roster()
    told = [{"generation": 0, "rank": rank, "size": 2, "path": f"p{rank}"} for rank in (1, 0)]
    assert roster.hello("a", told[0]) == []
    assert roster.hello("b", told[1]) == [Send(c, {"roster": {"0": told[1], "1": told[0]}}) for c in ("a", "b")]
    assert roster.bye("a") == roster.bye("b") == []
    assert roster.hello("c", told[0])[0].message["refused"] == "generation 0 ended: all ranks left"
