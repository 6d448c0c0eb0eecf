"""The memory tier against a list: the least recently used goes first, and never more is kept than the limit."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from soma.errors import CacheMissError
from soma.store import blob, digest
from soma.store.memory import RECORD, Memory
from soma.store.records import Made, Record
from soma.transport import codec

LIMIT = 20_000
KEYS = [f"{n:08x}" for n in range(8)]
VALUES = [b"%d" % n * size for n, size in enumerate([10, 10, 1000, 3000, 7000, 9000, 19_500, 30_000])]


def keep(memory: Memory, key: str, value: Any, title: str = "t") -> Record:
    packed = blob.pack(value)
    record = Record(digest(value), codec.size_of(packed), Made(title, {"key": key}))
    memory.keep(key, record, packed)
    return record


class MemoryMachine(RuleBasedStateMachine):
    """The model: values in the order of their last use, each with its keys."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(LIMIT)
        self.order: list[bytes] = []
        self.keys: dict[str, bytes] = {}
        self.records: dict[str, Record] = {}

    def used(self) -> int:
        return sum(codec.size_of(blob.pack(value)) for value in self.order) + RECORD * len(self.keys)

    def drop_unnamed(self) -> None:
        self.order = [value for value in self.order if value in self.keys.values()]

    @rule(key=st.sampled_from(KEYS), value=st.sampled_from(VALUES))
    def keep(self, key: str, value: bytes) -> None:
        self.records[key] = keep(self.memory, key, value)
        self.keys.pop(key, None)
        self.drop_unnamed()
        if codec.size_of(blob.pack(value)) + RECORD > LIMIT:
            return
        self.order = [other for other in self.order if other != value] + [value]
        self.keys[key] = value
        while self.used() > LIMIT:
            gone = self.order.pop(0)
            self.keys = {k: v for k, v in self.keys.items() if v != gone}

    @rule(key=st.sampled_from(KEYS))
    def find(self, key: str) -> None:
        found = self.memory.find(key)
        if key not in self.keys:
            assert found is None
            return
        assert found == self.records[key]
        self.order.sort(key=lambda value: value == self.keys[key])

    @rule(value=st.sampled_from(VALUES))
    def load(self, value: bytes) -> None:
        if value in self.order:
            assert self.memory.load(digest(value)) == value
            self.order.sort(key=lambda other: other == value)
        else:
            with pytest.raises(CacheMissError):
                self.memory.load(digest(value))

    @rule()
    def clear(self) -> None:
        self.memory.clear()
        self.order, self.keys = [], {}

    @invariant()
    def as_much_as_the_model(self) -> None:
        assert self.memory.used == self.used() <= LIMIT
        assert len(self.memory) == len(self.keys)


TestMemory = MemoryMachine.TestCase


def test_what_is_handed_out_is_private() -> None:
    memory = Memory(10**6)
    value = {"a": np.arange(2000.0), "b": [1]}
    record = keep(memory, KEYS[0], value)
    value["a"][0] = 99  # what is kept is a snapshot
    one = memory.load(record.digest)
    one["a"][:] = 7
    one["b"].append(2)
    two = memory.load(record.digest)
    assert two["a"][0] == 0 and two["a"][1] == 1 and two["b"] == [1] and two["a"].flags.writeable


def test_the_newest_of_a_title_is_known_even_if_its_value_is_not_kept() -> None:
    memory = Memory(5000)
    keep(memory, KEYS[0], b"small", "one")
    keep(memory, KEYS[1], b"small", "other")
    keep(memory, KEYS[2], b"x" * 10_000, "one")
    last = memory.last("one")
    assert last is not None and last.parts == {"key": KEYS[2]}
    assert memory.last("none") is None


def test_threads() -> None:
    memory = Memory(LIMIT)
    failed = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for key, at in zip(rng.choice(KEYS, 300), rng.integers(0, len(VALUES), 300), strict=True):
            try:
                record = keep(memory, str(key), VALUES[at])
                if memory.load(record.digest) != VALUES[at]:
                    failed.append(at)
            except CacheMissError:
                continue  # dropped by another thread, or too large

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    memory.clear()
    assert memory.used == len(memory) == 0
