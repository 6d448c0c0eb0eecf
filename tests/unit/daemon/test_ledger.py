"""A head's record against plain dictionaries: what was flushed is there, and of a torn end nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.daemon import estate, ledger
from soma.daemon.ledger import Ledger
from soma.errors import ClusterError
from soma.transport.keys import KeyPair

KEYS = st.sampled_from(["a", "b", b"a", ""])
VALUES = st.one_of(st.none(), st.integers(-5, 5), st.binary(max_size=300), st.tuples(st.text(max_size=3), st.tuples(st.booleans())))
CHANGES = st.lists(st.tuples(st.sampled_from(["one", "two"]), KEYS, VALUES, st.booleans()), max_size=8)


def play(book: Ledger, changes: list[tuple[str, Any, Any, bool]], oracle: dict[str, dict[Any, Any]]) -> None:
    for table, key, value, stays in changes:
        if stays:
            book.put(table, key, value)
            oracle.setdefault(table, {})[key] = value
        else:
            book.drop(table, key)
            oracle.get(table, {}).pop(key, None)


def full(tables: dict[str, dict[Any, Any]]) -> dict[str, list[tuple[Any, Any]]]:
    return {name: list(table.items()) for name, table in tables.items() if table}


@given(st.lists(CHANGES, max_size=5), st.data())
def test_cut_anywhere_it_is_as_it_was_at_some_turn(turns: list[list[Any]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "ledger"
        book, oracle = Ledger(path), dict[str, dict[Any, Any]]()
        ends, states = [path.stat().st_size], [full(oracle)]
        for changes in turns:
            play(book, changes, oracle)
            book.flush()
            ends.append(path.stat().st_size)
            states.append(full({n: dict(t) for n, t in oracle.items()}))
        play(book, [("one", "a", "never flushed", True)], oracle)
        book.close()
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut] + data.draw(st.binary(max_size=20)))
        reached = max(i for i, end in enumerate(ends) if end <= cut)
        for _ in range(2):  # the second time it is what the first one wrote
            again = Ledger(path)
            assert full(again.tables) == states[reached]
            again.close()


def test_a_file_that_grew_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "GROWN", 10_000)
    book = Ledger(tmp_path / "ledger")
    for n in range(2000):
        book.put("one", "key", n)
        book.flush()
        assert (tmp_path / "ledger").stat().st_size < 11_000
    book.close()
    again = Ledger(tmp_path / "ledger")
    assert full(again.tables) == {"one": [("key", 1999)]}
    assert [p.name for p in tmp_path.iterdir()] == ["ledger"] and (tmp_path / "ledger").stat().st_mode & 0o777 == 0o600
    again.close()


@pytest.fixture
def left(tmp_path: Path) -> Iterator[estate.Estate]:
    """What a head left that was told to take any port and got 4321; it still runs."""
    found = estate.begin(tmp_path / "state", "c1")
    found.write(estate.identity_of("c1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:4321", "daemon@0123abcd,127.0.0.1,1,2", KeyPair.new()))
    found.open()
    yield found


def test_a_head_that_runs_keeps_its_own(left: estate.Estate, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with pytest.raises(ClusterError, match="listens at"):
        estate.take_over(state, "tcp://127.0.0.1:4321")
    assert estate.take_over(state, "tcp://127.0.0.1:0") is None, "another port is free"
    assert estate.forget(state) == 0
    left.remove()
    assert estate.take_over(state, "tcp://127.0.0.1:4321") is None


@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:4321", "tcp://127.0.0.1:0"])
def test_what_a_dead_head_left_is_found(left: estate.Estate, tmp_path: Path, bind: str) -> None:
    assert left.ledger is not None
    left.ledger.put("one", "a", 1)
    left.ledger.flush()
    left.close()
    state = tmp_path / "state"
    assert estate.take_over(state, "tcp://127.0.0.1:4322") is None
    found = estate.take_over(state, bind)
    assert found is not None and found.identity == left.identity
    assert full(found.open().tables) == {"one": [("a", 1)]}
    modes = [(p.is_dir(), p.stat().st_mode & 0o777) for p in [state, *state.rglob("*")]]
    assert all(mode == (0o700 if is_dir else 0o600) for is_dir, mode in modes)
    found.close()
    assert estate.forget(state, "tcp://127.0.0.1:4322") == 0
    assert estate.forget(state, bind) == 1
    assert not list((state / "clusters").iterdir())


def test_what_another_version_left_is_not_guessed_at(left: estate.Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left.close()
    monkeypatch.setattr(estate, "FORMAT", "2")
    with pytest.raises(ClusterError, match="another version"):
        estate.take_over(tmp_path / "state", "tcp://127.0.0.1:4321")
    assert estate.forget(tmp_path / "state") == 1


def test_a_state_directory_of_several_machines(left: estate.Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks may not reach from one to another."""
    left.close()
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert estate.take_over(tmp_path / "state", "tcp://127.0.0.1:4321") is None
    assert estate.forget(tmp_path / "state") == 0
