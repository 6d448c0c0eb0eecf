"""A cycle is named if and only if nobody in it can ever go on, whatever order things happen in."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.actors.waits import WaitGraph, explain

ACTORS = "abcdef"
names = st.sampled_from(ACTORS)
waits = st.dictionaries(
    names,
    st.lists(st.tuples(st.frozensets(names, min_size=1, max_size=4), st.sampled_from(["all", "any"])), min_size=1, max_size=2),
)


def graph_of(plan):
    graph = WaitGraph()
    for waiter, several in plan.items():
        for epoch, (on, kind) in enumerate(several):
            graph.block(waiter, on, epoch, kind)
    return graph


def naive_stuck(plan):
    """Let everybody go on who can, one after the other, over and over; who is left is stuck."""
    done = {a for a in ACTORS if a not in plan}
    for _ in ACTORS:
        for waiter, several in plan.items():
            if any(on <= done if kind == "all" else on & done for on, kind in several):
                done.add(waiter)
    return set(ACTORS) - done


def naive_cycle_lengths(plan, start, among):
    """Lengths of all simple cycles through `start`, by trying every order of actors."""
    edges = {w: set().union(*(on for on, _ in several)) for w, several in plan.items()}
    for n in range(1, len(among) + 1):
        for middle in itertools.permutations(sorted(among - {start}), n - 1):
            ring = (start, *middle)
            if all(b in edges.get(a, ()) for a, b in zip(ring, (*ring[1:], start), strict=True)):
                yield n


@given(waits)
def test_stuck_as_a_naive_search_says(plan):
    graph, stuck = graph_of(plan), naive_stuck(plan)
    for actor in ACTORS:
        found = graph.stuck(actor)
        assert (actor in found) == (actor in stuck)
        assert found <= stuck


@given(waits)
def test_a_cycle_is_a_cycle_of_the_stuck_and_the_shortest(plan):
    graph, stuck = graph_of(plan), naive_stuck(plan)
    for actor in ACTORS:
        cycle = graph.cycle_through(actor)
        if actor not in stuck:
            assert cycle is None
            continue
        assert cycle is not None and set(cycle) <= stuck and len(set(cycle)) == len(cycle)
        for one, other in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
            assert any(other in on for on, _ in plan[one])
        shortest = min(naive_cycle_lengths(plan, actor, stuck), default=None)
        if shortest is None:
            assert actor not in cycle
        else:
            assert (cycle[0], len(cycle)) == (actor, shortest)
        assert cycle == graph.cycle_through(actor)


@given(waits, st.lists(st.tuples(names, st.integers(0, 3))), names)
def test_unblock_and_forget_leave_the_graph_that_was_never_blocked(plan, over, dead):
    graph = graph_of(plan)
    for waiter, epoch in over:
        graph.unblock(waiter, epoch)
        graph.unblock(waiter, epoch)
    left = {w: [wait for epoch, wait in enumerate(several) if (w, epoch) not in over] for w, several in plan.items()}
    graph.forget(dead)
    left = {w: [(on, kind) for on, kind in several if dead not in on] for w, several in left.items() if w != dead}
    left = {w: several for w, several in left.items() if several}
    assert {w: [(wait.on, wait.kind) for wait in epochs.values()] for w, epochs in graph.waits().items()} == left
    assert all(graph.blocked(a) == (a in left) for a in ACTORS)
    for actor in ACTORS:
        assert bool(graph.stuck(actor)) == (actor in naive_stuck(left))


@given(waits)
def test_who_closes_a_cycle_last_finds_it(plan):
    """Asking only for the actor that blocks is enough: some ask found a cycle if and only if somebody is stuck."""
    graph, found = WaitGraph(), False
    for waiter, several in plan.items():
        for epoch, (on, kind) in enumerate(several):
            graph.block(waiter, on, epoch, kind)
            found = found or epoch == len(several) - 1 and graph.cycle_through(waiter) is not None
    if naive_stuck(plan):
        assert found


def test_get_needs_all_and_wait_needs_one():
    graph = WaitGraph()
    graph.block("a", frozenset("bc"), 1, "all")
    graph.block("b", frozenset("a"), 1)
    assert graph.cycle_through("a") == ("a", "b")
    assert graph.cycle_through("b") == ("b", "a")
    assert graph.cycle_through("c") is None
    graph.block("a", frozenset("bc"), 1, "any")
    assert graph.cycle_through("a") is graph.cycle_through("b") is None
    graph.block("c", frozenset("a"), 7)
    assert graph.cycle_through("c") == ("c", "a")


def test_an_actor_that_waits_for_itself():
    graph = WaitGraph()
    graph.block("a", frozenset("a"), 1)
    assert graph.cycle_through("a") == ("a",)
    graph.block("x", frozenset("a"), 1)
    assert graph.cycle_through("x") == ("a",)


def test_an_old_word_does_not_end_a_new_wait():
    graph = WaitGraph()
    graph.block("a", frozenset("b"), 2)
    graph.block("b", frozenset("a"), 1)
    graph.unblock("a", 1)
    assert graph.cycle_through("b") == ("b", "a")
    graph.block("a", frozenset(), 2)
    assert not graph.blocked("a")


def test_long_chains_need_no_recursion():
    graph, n = WaitGraph(), 20_000
    for i in range(n):
        graph.block(str(i), frozenset({str(i + 1)}), 1)
    assert graph.cycle_through("0") is None
    graph.block(str(n), frozenset({"0"}), 1)
    assert len(graph.cycle_through("0")) == n + 1


@pytest.mark.parametrize(("cycle", "text"), [
    (("a",), "Parent waits for itself"),
    (("a", "b"), "Parent waits for b, which waits for Parent"),
    (("b", "a", "c"), "b waits for Parent, which waits for c, which waits for b"),
])
def test_the_cycle_in_words(cycle, text):
    assert explain(cycle, {"a": "Parent"}) == text
