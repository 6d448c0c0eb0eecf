"""What a stream keeps and where it begins again, decided purely; checkpoints as files; and going on with one in another graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("safetensors")

import soma
from soma.errors import GraphError, NotSerializableError, StreamBrokenError
from soma.filters import Position, Task, trail_after
from soma.filters.hosted import Hosted
from soma.filters.pieces import Pieces
from soma.graph.chunks import Source
from soma.graph.lasting import Lasting, StreamCheckpoint
from soma.graph.retention import Retention


@soma.filter(stream="evolving")
class Sums:
    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        return {"sum": state.get("sum", 0) + x.sum()}

    def forward(self, x: Any, state: Any) -> Any:
        return x + state.get("sum", 0)


X = np.arange(20)
SUMS = [x + X[:i * 2].sum() for i, x in enumerate(X.reshape(10, 2))]


class TestRetention:
    @given(st.data())
    def test_a_model_of_it(self, data: st.DataObject) -> None:
        """Whatever dies when: every result is given once, in order; what is needed again is there, or said not to be; memory is bounded."""
        n, credit, bound = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
        every = data.draw(st.integers(1, bound))
        evolves, collects = data.draw(st.booleans()), data.draw(st.booleans())
        kept: Retention[int] = Retention(bound=bound, evolves=evolves, collects=collects)
        source, given, state = iter(range(n)), [], 0
        """`state` is how many chunks the evolving node took."""
        for _ in range(data.draw(st.integers(0, 4)) + 1):
            lost = collects and data.draw(st.booleans())
            start = kept.start(from_origin=lost) if kept.read else 0
            if start is None:
                assert lost and kept.next > bound, "only what a barrier collected needs so much"
                return
            if start == 0:
                kept.taken_at(0)
            if evolves:
                assert start in (0, kept.base)
                state = start
            dies_after = data.draw(st.integers(0, 50))
            todo = list(kept.again(start))
            assert [number for number, _ in todo] == list(range(start, kept.read))
            under_way: list[tuple[int, int]] = []
            while dies_after:
                dies_after -= 1
                while len(under_way) < credit:
                    if todo:
                        under_way.append(todo.pop(0))
                    elif (chunk := next(source, None)) is not None:
                        under_way.append((kept.take(chunk), chunk))
                    else:
                        break
                if not under_way:
                    break
                number, chunk = under_way.pop(0)
                assert number == chunk
                if evolves:
                    assert number == state
                    state += 1
                if kept.give(number):
                    given.append(chunk)
                if evolves and (number + 1) % every == 0:
                    kept.taken_at(number + 1)
                assert len(kept) <= bound + credit
                if not collects:
                    assert len(kept) <= (every if evolves else 0) + credit
            assert given == list(range(kept.next))

    def test_one_that_keeps_nothing(self) -> None:
        kept: Retention[int] = Retention(bound=None, evolves=True, collects=True)
        assert [kept.take(c) for c in range(3)] == [0, 1, 2] and not len(kept)
        assert kept.give(0) and not kept.give(0) and not kept.give(2)
        assert kept.start(from_origin=False) is None


class TestFilters:
    def test_an_evolving_filter_takes_chunks_in_turn(self) -> None:
        hosted = Hosted("sums", Sums())
        assert hosted.evolve("r", 0, X[:2])[0].tolist() == [0, 1]
        for wrong in (0, 2):
            with pytest.raises(StreamBrokenError, match=f"node 'sums' has taken 1 chunks, and got number {wrong}"):
                hosted.evolve("r", wrong, X[:2])
        with pytest.raises(StreamBrokenError, match="has taken 0 chunks, and got number 1"):
            hosted.evolve("another", 1, X[:2])
        at = hosted.position("r")
        assert at == Position({"sum": 1}, 1, trail_after(b"", 0, "int64[2]"))
        first = hosted.evolve("r", 1, X[2:4])
        hosted.rewind("r", at)
        np.testing.assert_array_equal(hosted.evolve("r", 1, X[2:4])[0], first[0])
        hosted.rewind("r", None)
        assert hosted.evolve("r", 0, X[:2])[0].tolist() == [0, 1]
        end = hosted.forget("r")
        assert end is not None and (end.chunks, hosted.forget("r")) == (1, None)

    def test_trails_differ_by_order_number_and_kind(self) -> None:
        made = {trail_after(b"", 0, "a"), trail_after(b"", 1, "a"), trail_after(b"", 0, "b"), trail_after(trail_after(b"", 0, "a"), 0, "a")}
        assert len(made) == 4

    def test_pieces_that_come_twice_are_one_and_missing_ones_are_missed(self) -> None:
        pieces, task = Pieces(), Task("all", run="r", chunk=3)
        for number in (0, 2, 1, 1, 0):
            pieces.add("r", "all", number, [number])
        assert pieces.together(task, {}) == [0, 1, 2]
        pieces.add("r", "all", 1, [1])
        with pytest.raises(StreamBrokenError, match="node 'all' has 1 of 3 chunks"):
            pieces.together(task, {})


class TestSources:
    @pytest.mark.parametrize("source", [list(range(7)), range(7), lambda: iter(range(7)), iter(range(7))])
    def test_what_lies_before_is_left_out(self, source: Any) -> None:
        assert [chunk for chunk, _ in Source(source).begin_at(3)] == [3, 4, 5, 6]

    def test_rows(self) -> None:
        rows = Source(X, chunk_size=3)
        assert [len(chunk) for chunk, _ in rows.begin_at(5)] == [3, 2] and list(rows.begin_at(7)) == [] and len(list(rows)) == 7


class TestCheckpoints:
    def test_a_file_of_one(self, tmp_path: Path) -> None:
        made = StreamCheckpoint(12, 8, "a >> b", {"b": Position({"w": np.arange(3.0), "n": 2}, 8, b"\x00trail")})
        found = StreamCheckpoint.load(made.save(tmp_path / "c"))
        assert (found.index, found.base, found.graph) == (12, 8, "a >> b")
        assert found.positions["b"].state["w"].tolist() == [0, 1, 2] and found.positions["b"][1:] == (8, b"\x00trail")
        assert [p.name for p in tmp_path.iterdir()] == ["c"]

    def test_refusals(self, tmp_path: Path) -> None:
        with pytest.raises(NotSerializableError, match="positions"):
            StreamCheckpoint(1, 1, "a", {"a": Position({"o": object()}, 1)}).save(tmp_path / "c")
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "d").write_bytes(b"nothing of the kind")
        with pytest.raises(GraphError, match="no file of states"):
            StreamCheckpoint.load(tmp_path / "d")
        from soma.store.checkpoint import write_states

        write_states({"scale": {"mean": 1.0}}, tmp_path / "e")
        with pytest.raises(GraphError, match="no checkpoint of a stream: KeyError"):
            StreamCheckpoint.load(tmp_path / "e")

    @pytest.mark.parametrize(("options", "match"), [
        ({"max_restarts": -1}, "max_restarts=-1: a whole number from 0"), ({"max_restarts": True}, "max_restarts=True"),
        ({"retain": 0}, "retain=0: a whole number from 1"), ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"checkpoint_every": 65, "max_restarts": 1}, "checkpoint_every=65 with retain=64"),
    ])
    def test_options_that_cannot_be(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            Lasting(**options)

    def test_when_states_are_taken(self) -> None:
        assert not any(map(Lasting().is_due, range(100)))
        assert list(filter(Lasting(max_restarts=1).is_due, range(40))) == [15, 31]
        assert list(filter(Lasting(checkpoint_every=3).is_due, range(9))) == [2, 5, 8]
        assert Lasting(max_restarts=1, retain=5).every == 5




@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    with soma.init(local=True):
        yield


@pytest.mark.usefixtures("local")
class TestGoingOn:
    """In the driver's own process, where nothing dies."""

    @pytest.mark.parametrize("index", [0, 1, 4, 7, 10])
    @pytest.mark.parametrize("every", [None, 1, 3])
    def test_anywhere_in_another_graph(self, index: int, every: int | None, tmp_path: Path) -> None:
        with soma.Graph(Sums()) as g:
            stream = g.stream(X, chunk_size=2, checkpoint_every=every)
            found = [next(stream) for _ in range(index)]
            saved = stream.checkpoint().save(tmp_path / "c")
            stream.close()
        at = StreamCheckpoint.load(saved)
        assert at.index == index and at.base == (0 if every is None else index // every * every)
        with soma.Graph(Sums()) as other:
            stream = other.stream(iter(X.reshape(10, 2)), resume=at)
            found += list(stream)
            assert stream.states == {"sums": {"sum": X.sum()}}
            np.testing.assert_array_equal(found, SUMS)
            assert stream.checkpoint().index == 10

    def test_files_are_written_when_the_next_is_asked_for(self, tmp_path: Path) -> None:
        where = tmp_path / "c"
        with soma.Graph(Sums()) as g:
            stream = g.stream(X, chunk_size=2, checkpoint_every=4, checkpoint_path=where)
            for _ in range(4):
                next(stream)
            assert not where.exists()
            next(stream)
            assert (StreamCheckpoint.load(where).index, StreamCheckpoint.load(where).base) == (4, 4)
            rest = list(g.stream(X, chunk_size=2, resume=StreamCheckpoint.load(where)))
            np.testing.assert_array_equal(rest, SUMS[4:])
            list(stream)
            end = StreamCheckpoint.load(where)
            assert end.index == 10 and list(g.stream(X, chunk_size=2, resume=end)) == []

    def test_a_barrier_collects_all_again(self) -> None:
        whole = soma.filter(lambda x: x.sum(), stream="barrier")
        with soma.Graph(Sums() >> [soma.filter(lambda x: x), whole]) as g:
            wanted = list(g.stream(X, chunk_size=2))
            stream = g.stream(X, chunk_size=2, checkpoint_every=2)
            found = [next(stream) for _ in range(5)]
            at = stream.checkpoint()
            assert (at.index, at.base) == (5, 0)
            assert str(found + list(g.stream(X, chunk_size=2, resume=at))) == str(wanted)

    def test_nodes_that_do_not_evolve_need_nothing(self) -> None:
        read = []

        def source() -> Iterator[int]:
            for i in range(10):
                read.append(i)
                yield i

        with soma.Graph(soma.filter(lambda x: -x)) as g:
            assert list(g.stream(source, resume=StreamCheckpoint(7, 7, "function"))) == [-7, -8, -9]

    @pytest.mark.parametrize(("at", "match"), [
        (StreamCheckpoint(1, 1, "other"), "the checkpoint is of the graph other, and this is sums"),
        (StreamCheckpoint(30, 0, "sums"), "30 results were given already, and the source has only 10 chunks"),
    ])
    def test_what_does_not_belong_together(self, at: StreamCheckpoint, match: str) -> None:
        with soma.Graph(Sums()) as g, pytest.raises(GraphError, match=match):
            list(g.stream(X, chunk_size=2, resume=at))
