"""From a blueprint to `Lowered`: nothing but filters, loops and branches, each with what is inside it.

Whole graphs among the members are replaced by their nodes, called `graph/node`. Loops and branches may name nodes of the graph they stand
in (`g.loop("again", body="step", until="stop")`): those move inside. What an expression inside a loop or branch is made of is called
`loop/node`, `loop/until/node`, `branch/condition/node` or `branch/label/node`. Pure; every problem is collected, each naming its nodes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from soma.errors import GraphError
from soma.filters import Branch, Loop, is_graph
from soma.graph.builder import Blueprint, Edge, blueprint_of


@dataclass(frozen=True, slots=True, eq=False)
class LoweredLoop:
    """See `steps.Loop`."""

    body: Lowered
    carry: tuple[str, ...]
    until: str | None
    max_iterations: int


@dataclass(frozen=True, slots=True, eq=False)
class LoweredBranch:
    """See `steps.Branch`."""

    condition: Lowered
    arms: Mapping[str, Lowered]


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """Filters, loops and branches by id, and the edges between them."""

    nodes: dict[str, Any] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()
    placed: frozenset[str] = frozenset()

    @property
    def entries(self) -> tuple[str, ...]:
        fed = {b for _, b in self.edges}
        return tuple(n for n in self.nodes if n not in fed)

    @property
    def leaves(self) -> tuple[str, ...]:
        taken = {a for a, _ in self.edges}
        return tuple(n for n in self.nodes if n not in taken)


def lower(blueprint: Blueprint) -> Lowered:
    """Take everything apart.

    Raises:
        GraphError: an edge or a name that leads nowhere, a node that is to be in two places, an id twice, …
    """
    work = _Lowering(blueprint, "")
    lowered = work.result()
    if work.problems:
        raise GraphError("\n".join(dict.fromkeys(work.problems)))
    return lowered


class _Lowering:
    """Of one blueprint; those inside have their own."""

    def __init__(self, blueprint: Blueprint, prefix: str) -> None:
        self._b, self._prefix = blueprint, prefix
        self.problems: list[str] = []
        self._owner: dict[str, str] = {}

    def result(self) -> Lowered:
        self._claim()
        for a, b in self._b.edges:
            missing = next((id for id in (a, b) if id not in self._b.nodes), None)
            if missing is not None:
                self.problems.append(f"edge {a!r} >> {b!r}: there is no node {missing!r}{self._near(missing)}")
            elif self._owner.get(a) != self._owner.get(b):
                inner, outer = (a, self._owner[a]) if a in self._owner else (b, self._owner[b])
                self.problems.append(f"edge {a!r} >> {b!r}: {inner!r} is inside {outer!r}; connect {outer!r} instead")
        lowered = self._some([id for id in self._b.nodes if id not in self._owner])
        _exchange(lowered, {self._prefix + id: filter for id, filter in self._b.replaced.items()})
        return lowered

    def _claim(self) -> None:
        """Which nodes move into loops and branches."""
        for id, member in self._b.nodes.items():
            for name in _named(member):
                if name not in self._b.nodes:
                    if not self._in_body(member, name):
                        self.problems.append(f"{_what(member)} {id!r} names {name!r}, and there is no such node{self._near(name)}")
                elif name == id:
                    self.problems.append(f"{_what(member)} {id!r} names itself")
                elif self._owner.setdefault(name, id) != id:
                    self.problems.append(f"node {name!r} cannot be inside both {self._owner[name]!r} and {id!r}")

        for id in self._b.nodes:
            chain = [id]
            while (owner := self._owner.get(chain[-1])) is not None and owner not in chain:
                chain.append(owner)
            if owner == id:
                self.problems.append(f"{' is inside '.join(map(repr, [*chain, id]))}, which cannot be")

    def _in_body(self, member: Any, name: str) -> bool:
        """Whether it names a node of an expression inside it: the signal of a loop may be made in its body."""
        return (isinstance(member, Loop) and member.until == (name,) and not isinstance(member.body, tuple)
                and name in blueprint_of(member.body).nodes)

    def _near(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._b.nodes, 1)
        return f"; did you mean {near[0]!r}?" if near else ""

    def _some(self, ids: Iterable[str]) -> Lowered:
        """These nodes of the blueprint and the edges among them."""
        chosen = dict.fromkeys(ids)
        nodes: dict[str, Any] = {}
        ends: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        edges: dict[Edge, None] = {}
        for id in chosen:
            member, name = self._b.nodes[id], self._prefix + id
            if is_graph(member):
                inner = self._part(member.__soma_graph__(), f"{name}/")
                self._add(nodes, inner.nodes)
                edges.update(dict.fromkeys(inner.edges))
                ends[id] = inner.entries, inner.leaves
            else:
                self._add(nodes, {name: self._lowered(id, member)})
                ends[id] = (name,), (name,)
        for a, b in self._b.edges:
            if a in chosen and b in chosen:
                edges.update(((x, y), None) for x in ends[a][1] for y in ends[b][0])
        placed = frozenset(n for id in chosen if id in self._b.placed for n in ends[id][0])
        return Lowered(nodes, tuple(edges), placed)

    def _add(self, nodes: dict[str, Any], more: Mapping[str, Any]) -> None:
        for id, member in more.items():
            if id in nodes:
                self.problems.append(f"there are two nodes {id!r}")
            nodes[id] = member

    def _lowered(self, id: str, member: Any) -> Any:
        if not isinstance(member, (Loop, Branch)):
            return member
        return self._loop(id, member) if isinstance(member, Loop) else self._branch(id, member)

    def _inside(self, id: str, thing: Any, called: str = "") -> Lowered:
        """Named nodes of this blueprint, or a part of its own."""
        if isinstance(thing, tuple):
            return self._some([name for name in thing if name in self._b.nodes and self._owner.get(name) == id])
        return self._part(blueprint_of(thing), f"{self._prefix}{id}/{called}")

    def _part(self, blueprint: Blueprint, prefix: str) -> Lowered:
        work = _Lowering(blueprint, prefix)
        lowered = work.result()
        self.problems += work.problems
        return lowered

    def _loop(self, id: str, loop: Loop) -> LoweredLoop:
        body = self._inside(id, loop.body)
        until = self._until_in(body, id, loop.until)
        carry = tuple(leaf for leaf in body.leaves if leaf != until)
        if not carry and not self.problems:
            self.problems.append(f"loop {id!r} has no body but its signal")
        if loop.until is not None and until is None:
            signal = self._inside(id, loop.until, "until/")
            if len(signal.leaves) != 1:
                self.problems.append(f"loop {id!r}: its signal must come from one node, and {len(signal.leaves)} give something")
                return LoweredLoop(body, carry, None, loop.max_iterations)
            until = signal.leaves[0]
            nodes = dict(body.nodes)
            self._add(nodes, signal.nodes)
            joints = tuple((a, b) for a in carry for b in signal.entries)
            body = replace(body, nodes=nodes, edges=(*body.edges, *signal.edges, *joints))
        return LoweredLoop(body, carry, until, loop.max_iterations)

    def _until_in(self, body: Lowered, id: str, until: Any) -> str | None:
        """The signal's node, if it is one of the body's own."""
        if not isinstance(until, tuple):
            return None
        return next((n for n in (*until, *(f"{self._prefix}{id}/{u}" for u in until)) if n in body.nodes), None)

    def _branch(self, id: str, branch: Branch) -> LoweredBranch:
        condition = self._inside(id, branch.condition, "condition/")
        if len(condition.leaves) != 1 and not self.problems:
            self.problems.append(f"branch {id!r}: its label must come from one node, and {len(condition.leaves)} give something")
        arms = {label: self._inside(id, arm, f"{label}/") for label, arm in branch.arms.items()}
        return LoweredBranch(condition, arms)


def _exchange(lowered: Lowered, replaced: Mapping[str, Any]) -> None:
    """Put other filters under some ids, wherever those are."""
    for id, member in lowered.nodes.items() if replaced else ():
        if isinstance(member, LoweredLoop):
            _exchange(member.body, replaced)
        elif isinstance(member, LoweredBranch):
            for part in (member.condition, *member.arms.values()):
                _exchange(part, replaced)
        elif id in replaced:
            lowered.nodes[id] = replaced[id]


def _named(member: Any) -> list[str]:
    """The nodes of the surrounding graph that a loop or branch names."""
    if isinstance(member, Loop):
        return [n for part in (member.body, member.until) if isinstance(part, tuple) for n in part]
    if isinstance(member, Branch):
        return [n for part in (member.condition, *member.arms.values()) if isinstance(part, tuple) for n in part]
    return []


def _what(member: Any) -> str:
    return "loop" if isinstance(member, Loop) else "branch"
