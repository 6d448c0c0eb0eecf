"""Digests of graphs against the definition of what they should tell: whether a walk could tell two nodes apart."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from soma.store.merkle import Node, digests

LABELS = st.sampled_from([b"a", b"b", b"list"])


@st.composite
def graphs(draw: st.DrawFn, most: int = 8) -> list[Node]:
    count = draw(st.integers(1, most))
    edges = st.lists(st.integers(0, count - 1), max_size=3)
    return [Node(draw(LABELS), draw(edges), draw(st.sampled_from([True, True, False]))) for _ in range(count)]


def alike(nodes: Sequence[Node]) -> list[int]:
    """A number for each node, equal exactly for those that no walk tells apart: split by label and children until nothing changes."""
    kinds = [0] * len(nodes)
    while True:
        seen: dict[object, int] = {}
        after = []
        for n, node in enumerate(nodes):
            children = [kinds[child] for child in node.children]
            said = (kinds[n], node.label, node.ordered, tuple(children if node.ordered else sorted(children)))
            after.append(seen.setdefault(said, len(seen)))
        if after == kinds:
            return kinds
        kinds = after


def reached(nodes: Sequence[Node], start: int) -> list[int]:
    found = [start]
    for n in found:
        found += [child for child in dict.fromkeys(nodes[n].children) if child not in found]
    return found


@given(graphs())
def test_equal_digests_mean_that_no_walk_tells_apart(nodes: list[Node]) -> None:
    """Nodes with one child or fewer look the same ordered or not, so that is no difference to be found."""
    for node in nodes:
        node.label += b"" if node.ordered else b" unordered"
    kinds, found = alike(nodes), digests(nodes)
    for one in range(len(nodes)):
        for two in range(one):
            if found[one] == found[two]:
                assert kinds[one] == kinds[two]


@given(graphs(), st.randoms(use_true_random=False))
def test_numbers_do_not_count(nodes: list[Node], chance: random.Random) -> None:
    order = list(range(len(nodes)))
    chance.shuffle(order)
    renamed: list[Node] = [nodes[0]] * len(nodes)
    for n, node in enumerate(nodes):
        renamed[order[n]] = Node(node.label, [order[child] for child in node.children], node.ordered)
    found, other = digests(nodes), digests(renamed)
    assert [other[order[n]] for n in range(len(nodes))] == found


@given(graphs(), st.data())
def test_only_what_can_be_reached_counts(nodes: list[Node], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(nodes) - 1))
    kept = reached(nodes, start)
    alone = [Node(nodes[n].label, [kept.index(child) for child in nodes[n].children], nodes[n].ordered) for n in kept]
    assert digests(alone)[0] == digests(nodes)[start]


@given(graphs(6))
def test_two_of_each_are_as_one(nodes: list[Node]) -> None:
    """Every node twice, each referring to the twins by turns: whether parts are shared does not count."""
    size = len(nodes)
    twins = [Node(node.label, [child + size * ((n + at) % 2) for at, child in enumerate(node.children)], node.ordered)
             for n, node in enumerate(nodes + nodes)]
    if all(n in reached(twins, m) for n in range(2 * size) for m in range(2 * size)):  # one component, as the single ones are
        assert digests(twins) == digests(nodes) * 2


@given(st.lists(st.tuples(LABELS, st.lists(st.integers(0, 50), max_size=3)), min_size=1, max_size=12))
def test_without_cycles_equal_content_is_an_equal_digest(rows: list[tuple[bytes, list[int]]]) -> None:
    nodes = [Node(label, [child % n for child in children] if n else []) for n, (label, children) in enumerate(rows)]
    kinds, found = alike(nodes), digests(nodes)
    assert [[a == b for b in kinds] for a in kinds] == [[a == b for b in found] for a in found]


def test_large_graphs_take_linear_time() -> None:
    chain = [Node(b"%d" % (n % 7), [n + 1]) for n in range(100_000)] + [Node(b"end")]
    wide = [Node(b"top", list(range(1, 100_001)))] + [Node(b"%d" % n) for n in range(100_000)]
    tree = [Node(b"x", [n // 2, 2 * n + 1, 2 * n + 2] if 2 * n + 2 < 20_000 else [n // 2]) for n in range(20_000)]  # with ways back up
    upstream = [Node(b"u", [n + 1]) for n in range(50_000)] + [Node(b"loop", [50_000])]
    began = time.process_time()
    for nodes in (chain, wide, tree, upstream):
        assert len(digests(nodes)) == len(nodes)
    assert time.process_time() - began < 10
