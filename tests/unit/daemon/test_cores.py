"""Cores are given to whoever reserves whole CPUs: as many, evenly, and back at the end. Which GPUs a process sees."""

from __future__ import annotations

import math
import os
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from soma.actors.admission import Pool
from soma.daemon.capabilities import Gpu
from soma.daemon.cores import Cores, usable
from soma.daemon.visible import visible_gpus


def test_as_many_as_were_reserved_the_least_used_first() -> None:
    cores = Cores({4, 5, 6, 7})
    assert cores.take("a", 1) == (4,) and cores.take("b", 2) == (5, 6) and cores.take("c", 2) == (4, 7)
    assert cores.take("a", 3) == cores.of("a") == (4,)  # it is restarted: as before
    cores.release("b")
    assert cores.take("d", 2.5) == (5, 6, 7) and cores.of("b") == ()


@pytest.mark.parametrize("cpus", [0, 0.1, 0.99])
def test_a_part_of_a_cpu_is_no_core(cpus: float) -> None:
    assert Cores({0, 1}).take("a", cpus) == ()


def test_more_than_there_are_is_all_there_are() -> None:
    assert Cores({0, 1}).take("a", 64) == (0, 1)
    assert Cores(()).take("a", 64) == ()  # a system that does not tell


def test_the_usable_ones_are_those_of_this_process() -> None:
    assert usable() == os.sched_getaffinity(0)


class Machine(RuleBasedStateMachine):
    @initialize(there=st.sets(st.integers(0, 9), min_size=1, max_size=6))
    def begin(self, there: set[int]) -> None:
        self.there, self.cores, self.held = there, Cores(there), {}

    @rule(holder=st.sampled_from("abcdefgh"), cpus=st.sampled_from([0, 0.5, 1, 1.5, 2, 3, 8]))
    def take(self, holder: str, cpus: float) -> None:
        before = Counter(dict.fromkeys(self.there, 0))
        before.update(core for cores in self.held.values() for core in cores)
        given_ = self.cores.take(holder, cpus)
        if holder in self.held:
            assert given_ == self.held[holder]
            return
        self.held[holder] = given_
        assert len(set(given_)) == len(given_) == (min(math.ceil(cpus), len(self.there)) if cpus >= 1 else 0)
        others = self.there - set(given_)
        assert all(before[core] <= before[other] for core in given_ for other in others)

    @rule(holder=st.sampled_from("abcdefgh"))
    def release(self, holder: str) -> None:
        self.cores.release(holder)
        self.held.pop(holder, None)

    @invariant()
    def all_is_as_given(self) -> None:
        for holder in "abcdefgh" if hasattr(self, "cores") else "":
            assert self.cores.of(holder) == self.held.get(holder, ())


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30)

# -- GPUs ------------------------------------------------------------------------------------------------------------------------

TWO = (Gpu(0, "H200", "GPU-aa", 2**37), Gpu(3, "H200", "GPU-bb", 2**37))


@pytest.mark.parametrize(("found", "offered", "given_", "seen"), [
    (TWO, 2, (0,), "GPU-aa"), (TWO, 2, (1,), "GPU-bb"), (TWO, 2, (0, 1), "GPU-aa,GPU-bb"),
    (TWO, 2, (), ""),  # a process that reserved none sees none
    ((), 4, (1, 3), "1,3"), (TWO[:1], 2, (0, 1), "GPU-aa,1"),  # told, not found
    ((), 0, (), None), (TWO, 0, (), None),  # none is offered: left alone
])
def test_what_a_process_sees(found: tuple[Gpu, ...], offered: float, given_: tuple[int, ...], seen: str | None) -> None:
    assert visible_gpus(found, offered, given_).get("CUDA_VISIBLE_DEVICES") == seen


@given(st.lists(st.sampled_from([0, 0.25, 0.5, 0.7, 1, 2]), max_size=8))
def test_processes_see_what_they_reserved_and_no_whole_gpu_is_seen_twice(amounts: list[float]) -> None:
    """Stand-in capabilities and the daemon's own counting, for machines without a GPU."""
    pool = Pool({"GPU": 2})
    share: Counter[str] = Counter()
    for i, amount in enumerate(amounts):
        if pool.try_acquire(str(i), {"GPU": amount}):
            seen = visible_gpus(TWO, 2, pool.gpus_of(str(i)))["CUDA_VISIBLE_DEVICES"]
            names = seen.split(",") if seen else []
            assert len(names) == math.ceil(amount)
            for name in names:
                share[name] += round(min(amount, 1) * 100)
    assert all(n <= 100 for n in share.values()) and set(share) <= {"GPU-aa", "GPU-bb"}
    assert {h: sum(s.values()) for h, s in pool.gpu_shares().items()} == {h: held["GPU"] for h, held in pool.holders().items() if held}
