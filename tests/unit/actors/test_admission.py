"""Nothing is given twice, nothing is lost, and nobody waits for ever for what could be had."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from soma.actors.admission import Pool, Queue, explain_infeasible, parts_of

TOTAL = {"CPU": 4, "GPU": 2, "memory": 2**30, "license": 1.5}
requests = st.fixed_dictionaries({}, optional={
    "CPU": st.sampled_from([0, 0.1, 0.25, 1, 2, 4]),
    "GPU": st.sampled_from([0, 0.25, 0.5, 0.7, 1, 2]),
    "memory": st.integers(0, 2**30),
    "license": st.sampled_from([0.1, 0.5, 1.5]),
})


def test_ten_tenths_are_one():
    pool = Pool({"CPU": 1})
    assert [pool.try_acquire(str(i), {"CPU": 0.1}) for i in range(11)] == [True] * 10 + [False]
    assert pool.available() == {"CPU": 0}
    for i in range(10):
        assert pool.release(str(i))
    assert pool.available() == {"CPU": 1}
    assert parts_of({"x": 1e-9, "y": 0, "z": 2**60}) == {"x": 1, "z": 2**60 * 10_000}


@pytest.mark.parametrize("amount", [-1, -0.1, math.nan, math.inf, "1", None, True])
def test_amounts_that_mean_nothing_are_named(amount):
    with pytest.raises(ValueError, match="CPU="):
        Pool({"CPU": 4}).try_acquire("a", {"CPU": amount})


def test_a_gpu_and_a_half_does_not_exist():
    with pytest.raises(ValueError, match=r"GPU=1\.5: a share below 1, or whole GPUs"):
        Pool({"GPU": 2}).feasible({"GPU": 1.5})


def test_feasible_is_about_the_whole_machine():
    pool = Pool({"CPU": 2, "GPU": 1})
    assert pool.try_acquire("a", {"CPU": 2, "GPU": 1})
    assert pool.feasible({"CPU": 2, "GPU": 0.5}) and pool.feasible({})
    assert not pool.feasible({"CPU": 2.0001}) and not pool.feasible({"GPU": 2}) and not pool.feasible({"tape": 1})


def test_shares_of_gpus_lie_on_one_and_fill_it_first():
    pool = Pool({"GPU": 3})
    for name, request in {"a": 0.5, "b": 0.7, "c": 0.3, "d": 0.5, "e": 1}.items():
        assert pool.try_acquire(name, {"GPU": request})
    assert {name: pool.gpus_of(name) for name in "abcde"} == {"a": (0,), "b": (1,), "c": (1,), "d": (0,), "e": (2,)}
    assert not pool.try_acquire("f", {"GPU": 0.1})
    pool.release("a")
    pool.release("b")
    assert pool.available() == {"GPU": 1.2}
    assert not pool.try_acquire("f", {"GPU": 1})  # 0.5 here and 0.7 there are no GPU
    assert not pool.try_acquire("f", {"GPU": 0.8})
    assert pool.gpus_of("f") == pool.gpus_of("nobody") == ()


def test_whole_gpus_come_in_numbers():
    pool = Pool({"GPU": 3})
    assert pool.try_acquire("a", {"GPU": 2}) and pool.gpus_of("a") == (0, 1)
    assert not pool.try_acquire("b", {"GPU": 2})
    assert pool.try_acquire("b", {"GPU": 1}) and pool.gpus_of("b") == (2,)


def test_a_blocked_one_gives_its_cpu_and_nothing_else():
    pool = Pool({"CPU": 1, "GPU": 1})
    assert pool.try_acquire("a", {"CPU": 1, "GPU": 1})
    assert pool.suspend("a") and not pool.suspend("a")
    assert pool.available() == {"CPU": 1, "GPU": 0}
    assert pool.holders() == {"a": {"GPU": 1}}
    assert pool.try_acquire("b", {"CPU": 1})
    assert pool.resume("a") and not pool.resume("a")
    assert pool.available() == {"CPU": 0, "GPU": 0}  # one too many
    assert pool.release("b")
    assert pool.available() == {"CPU": 0, "GPU": 0}
    assert not pool.try_acquire("c", {"CPU": 0.1})
    pool.suspend("a")
    assert pool.release("a") and not pool.release("a")
    assert pool.available() == {"CPU": 1, "GPU": 1}
    assert not pool.suspend("a") and not pool.resume("a")


def test_nobody_holds_twice():
    pool = Pool({"CPU": 2})
    assert pool.try_acquire("a", {"CPU": 1})
    with pytest.raises(ValueError, match="a holds resources already"):
        pool.try_acquire("a", {"CPU": 1})
    queue = Queue()
    queue.add("b", {})
    with pytest.raises(ValueError, match="b waits already"):
        queue.add("b", {})


@pytest.mark.parametrize(("request_", "text"), [
    ({"CPU": 64}, "asked for 64 CPU; the cluster has 2"),
    ({"CPU": 2, "GPU": 0.5}, "asked for 0.5 GPU; the cluster has 0"),
    ({"CPU": 2.5, "tape": 1, "memory": 1}, "asked for 2.5 CPU and 1 tape; the cluster has 2 and 0"),
    ({"memory": 3 * 2**30}, "asked for 3 GiB of memory; the cluster has 512 MiB"),
    ({"CPU": 2}, ""),
])
def test_what_is_too_much_in_words(request_, text):
    assert explain_infeasible(request_, {"CPU": 2, "memory": 2**29}) == text


class Accounting(RuleBasedStateMachine):
    """Any order of calls against plain sums."""

    def __init__(self):
        super().__init__()
        self.pool, self.held, self.suspended, self.count = Pool(TOTAL), {}, set(), 0

    @rule(request=requests, lasting=st.booleans())
    def acquire(self, request, lasting):
        self.count += 1
        name, before = f"h{self.count}", self.pool.available()
        if self.pool.try_acquire(name, request, lasting=lasting):
            assert self.pool.feasible(request)
            assert all(amount <= before[key] + 1e-9 for key, amount in request.items())
            self.held[name] = request
        else:
            assert self.pool.available() == before
            over = any(amount > before[key] for key, amount in request.items())
            assert over or 0 < request.get("GPU", 0)  # GPUs may be there in pieces only

    @precondition(lambda self: self.held)
    @rule(data=st.data(), what=st.sampled_from(["release", "suspend", "resume"]))
    def change(self, data, what):
        name = data.draw(st.sampled_from(sorted(self.held)))
        if what == "release":
            assert self.pool.release(name)
            del self.held[name]
            self.suspended.discard(name)
        elif what == "suspend":
            assert self.pool.suspend(name) == (name not in self.suspended)
            self.suspended.add(name)
        else:
            assert self.pool.resume(name) == (name in self.suspended)
            self.suspended.discard(name)

    @invariant()
    def sums_are_conserved(self):
        for key, total in TOTAL.items():
            used = sum(parts_of(r).get(key, 0) for n, r in self.held.items() if key != "CPU" or n not in self.suspended)
            assert self.pool.available()[key] == max(0, total * 10_000 - used) / 10_000
            assert key == "CPU" or used <= total * 10_000
        assert set(self.pool.holders()) == set(self.held)

    @invariant()
    def gpus_are_not_given_twice(self):
        load = {}
        for name, request in self.held.items():
            share, gpus = request.get("GPU", 0), self.pool.gpus_of(name)
            assert len(gpus) == math.ceil(share)
            for i in gpus:
                load[i] = load.get(i, 0) + min(parts_of({"x": share})["x"], 10_000)
        assert all(0 <= i < 2 and n <= 10_000 for i, n in load.items())

    def teardown(self):
        for name in self.held:
            self.pool.release(name)
        assert self.pool.available() == self.pool.total == TOTAL


TestAccounting = Accounting.TestCase
TestAccounting.settings = settings(max_examples=60, stateful_step_count=30)


# -- the queue ----------------------------------------------------------------------------------------------------------


def queue_of(*entries):
    queue = Queue()
    for name, request, *lasting in entries:
        queue.add(name, request, lasting=bool(lasting))
    return queue


def test_first_come_first_served():
    queue, pool = queue_of(*((str(i), {"CPU": 1}) for i in range(5))), Pool({"CPU": 2})
    assert queue.admit(pool) == ["0", "1"]
    assert queue.admit(pool) == []
    pool.release("1")
    assert queue.remove("2") and not queue.remove("2")
    assert queue.admit(pool) == ["3"]
    assert len(queue) == 1 and "4" in queue and "3" not in queue


def test_who_needs_something_else_passes():
    pool = Pool({"CPU": 2, "GPU": 1})
    queue = queue_of(("big", {"CPU": 2}), ("gpu", {"GPU": 1}), ("none", {}), ("small", {"CPU": 1}))
    pool.try_acquire("task", {"CPU": 1})
    assert queue.admit(pool) == ["gpu", "none"]


def test_a_big_one_is_not_starved_by_small_ones():
    pool = Pool({"CPU": 2})
    pool.try_acquire("s0", {"CPU": 1})
    queue = queue_of(("big", {"CPU": 2}), ("s1", {"CPU": 1}), ("s2", {"CPU": 1}))
    assert queue.admit(pool) == []
    pool.release("s0")
    assert queue.admit(pool) == ["big"]
    pool.release("big")
    assert queue.admit(pool) == ["s1", "s2"]


def test_a_big_one_whose_turn_may_never_come_is_passed():
    pool = Pool({"CPU": 2})
    pool.try_acquire("actor", {"CPU": 1}, lasting=True)
    queue = queue_of(("big", {"CPU": 2}), ("s1", {"CPU": 1}))
    assert queue.admit(pool) == ["s1"]
    pool.release("actor")
    assert queue.admit(pool) == []  # s1 ends some day
    pool.release("s1")
    assert queue.admit(pool) == ["big"]


def test_two_resources_are_not_taken_in_turns_from_the_one_who_needs_both():
    pool = Pool({"CPU": 1, "tape": 1})
    pool.try_acquire("t", {"CPU": 1})
    queue = queue_of(("both", {"CPU": 1, "tape": 1}), ("tape", {"tape": 1}), ("cpu", {"CPU": 1}))
    assert queue.admit(pool) == []
    pool.release("t")
    assert queue.admit(pool) == ["both"]


@given(st.lists(requests, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_everybody_feasible_gets_its_turn_when_tasks_end(wanted, random):
    pool, queue = Pool(TOTAL), Queue()
    for i, request in enumerate(wanted):
        queue.add(str(i), request)
    running, served = [], []
    while queue or running:
        fresh = queue.admit(pool)
        assert fresh or running
        served += fresh
        running += fresh
        pool.release(running.pop(random.randrange(len(running))))
    assert sorted(served, key=int) == [str(i) for i in range(len(wanted))]
    same = {}
    for name in served:
        same.setdefault(frozenset(parts_of(wanted[int(name)]).items()), []).append(int(name))
    assert all(numbers == sorted(numbers) for numbers in same.values())


def test_a_long_queue_of_equal_requests_costs_little():
    """Counted, not timed: an ask that cannot be met looks at one of them."""
    pool, queue = Pool({"CPU": 1}), queue_of(*((str(i), {"CPU": 1}) for i in range(10_000)))
    assert queue.admit(pool) == ["0"]
    asked = []
    real = pool._try_acquire
    pool._try_acquire = lambda *a: asked.append(a) or real(*a)
    assert queue.admit(pool) == []
    assert len(asked) == 1
