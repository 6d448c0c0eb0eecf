"""Digests of a graph whose nodes refer to each other, cycles included: pure.

A node's digest is the hash of its label and of its children's digests. It depends on what can be reached from the node and on
nothing else: not on where one came from, nor on whether two equal parts are one object or two.
The nodes of a cycle have no first one. There the labels are hashed alone, then each node anew with what its children were given,
until no two nodes that had the same hash come apart: equal hashes now mean that no walk could tell the nodes apart (automata are
minimised like this, by Moore's algorithm). Their digests are made from the table of all transitions between these hashes.
Linear in nodes and edges; in a cycle once more for each round, of which there are as many as its nodes at most, and often few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

_SIZE = 32
_NOTHING = bytes(_SIZE)


@dataclass(slots=True)
class Node:
    """Something that has parts: what it is (`label`), and those of its parts that are nodes themselves, by number."""

    label: bytes
    children: list[int] = field(default_factory=list)
    ordered: bool = True


def digests(nodes: Sequence[Node]) -> list[bytes]:
    """The digest of every node, 32 bytes each."""
    known: list[bytes] = [b""] * len(nodes)
    waiting = [len(node.children) for node in nodes]
    above: list[list[int]] = [[] for _ in nodes]
    for n, node in enumerate(nodes):
        for child in node.children:
            above[child].append(n)
    ready = [n for n, count in enumerate(waiting) if not count]
    while ready:
        n = ready.pop()
        known[n] = _hash(nodes[n], known.__getitem__)
        for parent in above[n]:
            waiting[parent] -= 1
            if not waiting[parent]:
                ready.append(parent)
    for circle in _components(nodes, [n for n, digest in enumerate(known) if not digest]):
        if len(circle) == 1 and circle[0] not in nodes[circle[0]].children:
            known[circle[0]] = _hash(nodes[circle[0]], known.__getitem__)
        else:
            _solve(nodes, circle, known)
    return known


def _hash(node: Node, digest_of: Callable[[int], bytes]) -> bytes:
    children = [digest_of(child) for child in node.children]
    if not node.ordered:
        children.sort()
    return blake3(b"".join((b"node", len(node.label).to_bytes(8, "little"), node.label, *children))).digest()


def _solve(nodes: Sequence[Node], circle: list[int], known: list[bytes]) -> None:
    now = dict.fromkeys(circle, _NOTHING)
    kinds = 1
    while True:
        for n, given in now.items():
            known[n] = given
        after = {n: _hash(nodes[n], known.__getitem__) for n in circle}
        if len(set(after.values())) == kinds:
            break
        kinds, now = len(set(after.values())), after
    table = blake3(b"".join(sorted({now[n] + after[n] for n in circle}))).digest()
    for n in circle:
        known[n] = blake3(b"circle" + now[n] + after[n] + table).digest()


def _components(nodes: Sequence[Node], rest: list[int]) -> Iterator[list[int]]:
    """Strongly connected components of the nodes in `rest`, each after those that it refers to (Tarjan, without recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    among, open_ = set(rest), set[int]()
    path: list[int] = []
    for root in rest:
        if root in order:
            continue
        walk = [(root, iter(nodes[root].children))]
        order[root] = low[root] = len(order)
        path.append(root)
        open_.add(root)
        while walk:
            n, children = walk[-1]
            for child in children:
                if child not in order and child in among:
                    order[child] = low[child] = len(order)
                    path.append(child)
                    open_.add(child)
                    walk.append((child, iter(nodes[child].children)))
                    break
                if child in open_:
                    low[n] = min(low[n], order[child])
            else:
                walk.pop()
                if walk:
                    low[walk[-1][0]] = min(low[walk[-1][0]], low[n])
                if low[n] == order[n]:
                    component = [path.pop()]
                    while component[-1] != n:
                        component.append(path.pop())
                    open_.difference_update(component)
                    yield component
