"""What will run, as frozen values without data: the nodes, and a tree of steps over them.

A node starts as soon as its own inputs are there, whatever stands beside it. A `Sequence` is drawn only where that forces one
part to follow the other, so no short branch ever waits for a long one. Plans can be compared, hashed, written as JSON and read back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from soma.graph.ordering import ordered
from soma.graph.program import Mode, Program
from soma.graph.steps import (
    Branch,
    Cached,
    Composite,
    Empty,
    Execute,
    Loop,
    Remote,
    Sequence,
    Step,
    Stream,
    leaves_of,
    with_leaves,
)


@dataclass(frozen=True, slots=True)
class PlanNode:
    """One node.

    Attributes:
        label: how it is shown.
        kind: "trainable", "stateless", "opaque", "loop" or "branch".
        inputs: whose outputs it gets; none: the graph's input.
        stream: "fixed", "evolving" or "barrier".
        differentiable, cacheable: what its filter says; with `deterministic=False` it is cacheable only with a seed ("seeded").
        inner: what a loop or a branch runs.
    """

    id: str
    label: str
    kind: str
    inputs: tuple[str, ...]
    stream: str = "fixed"
    differentiable: bool = False
    cacheable: str = "yes"
    inner: Loop | Branch | None = None

    @property
    def learns(self) -> bool:
        """Whether there is something to fit, in it or inside it."""
        if self.inner is None:
            return self.kind != "stateless"
        return any(p.learners for p in self.parts)

    @property
    def parts(self) -> tuple[Plan, ...]:
        """The plans inside a loop or a branch."""
        if isinstance(self.inner, Loop):
            return (self.inner.body,)
        return () if self.inner is None else (self.inner.condition, *(arm for _, arm in self.inner.arms))


@dataclass(frozen=True, slots=True)
class Plan:
    """The nodes in an order that respects their inputs, and the tree of steps over them.

    `diagnostics` are remarks of the compiler: nothing is wrong, but somebody may want to know.
    """

    nodes: tuple[PlanNode, ...]
    root: Step
    diagnostics: tuple[str, ...] = ()
    _by_id: dict[str, PlanNode] = field(init=False, repr=False, compare=False, default_factory=dict)
    _group: dict[str, Composite] = field(init=False, repr=False, compare=False, default_factory=dict)
    _json: list[str] = field(init=False, repr=False, compare=False, default_factory=list)
    units: tuple[str, ...] = field(init=False, repr=False, compare=False, default=())
    """The nodes that run by themselves, and the first of each composite, in an order that respects inputs."""
    programs: dict[tuple[Mode, tuple[str, ...]], Program] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_id.update((n.id, n) for n in self.nodes)
        for step in leaves_of(self.root):
            inner = step.step if isinstance(step, (Stream, Remote)) else step
            if isinstance(inner, Composite):
                self._group.update(dict.fromkeys(inner.nodes, inner))
        object.__setattr__(self, "units", self._unit_order())

    def _unit_order(self) -> tuple[str, ...]:
        if all(len(c.nodes) == 1 for c in self._group.values()):
            return tuple(n.id for n in self.nodes)
        before: dict[str, list[str]] = {self.group(n.id)[0]: [] for n in self.nodes}
        after: dict[str, list[str]] = {first: [] for first in before}
        for node in self.nodes:
            first = self.group(node.id)[0]
            for maker in {self.group(i)[0] for i in node.inputs} - {first, *before[first]}:
                before[first].append(maker)
                after[maker].append(first)
        return tuple(ordered(before, after))

    def node(self, id: str) -> PlanNode:
        return self._by_id[id]

    def group(self, id: str) -> tuple[str, ...]:
        """The nodes that run in one call with this one: itself, or its composite."""
        found = self._group.get(id)
        return (id,) if found is None else found.nodes

    def is_composite(self, id: str) -> bool:
        return id in self._group

    @property
    def leaves(self) -> tuple[str, ...]:
        """The nodes whose outputs nobody takes: what `forward` gives."""
        taken = {i for n in self.nodes for i in n.inputs}
        return tuple(n.id for n in self.nodes if n.id not in taken)

    @property
    def learners(self) -> tuple[str, ...]:
        """The nodes that learn, loops and branches with such nodes inside included."""
        return tuple(n.id for n in self.nodes if n.learns)

    def filters(self) -> Iterator[PlanNode]:
        """Every node that is a filter, those inside loops and branches too."""
        for node in self.nodes:
            if node.inner is None:
                yield node
            for plan in node.parts:
                yield from plan.filters()

    def plans(self) -> Iterator[Plan]:
        """This plan and all inside it."""
        yield self
        for node in self.nodes:
            for plan in node.parts:
                yield from plan.plans()

    def ancestors(self, ids: Iterable[str]) -> set[str]:
        """The nodes and all that they depend on."""
        found = set(ids)
        todo = list(found)
        while todo:
            new = [i for i in self._by_id[todo.pop()].inputs if i not in found]
            found.update(new)
            todo.extend(new)
        return found

    # -- how and where it runs ---------------------------------------------------------------------------------------------------

    def pruned(self, cached: Mapping[str, str], wanted: Iterable[str] | None = None) -> Plan:
        """Without what need not run: `cached` nodes (id → tier) are marked, and nodes that only they needed are left out."""
        needed: set[str] = set()
        todo = list(self.leaves if wanted is None else wanted)
        while todo:
            id = todo.pop()
            if id not in needed:
                needed.update(self.group(id))
                todo.extend(i for member in self.group(id) for i in self.node(member).inputs if member not in cached)
        changed: dict[str, Step] = {}
        for step in leaves_of(self.root):
            id = getattr(step.step if isinstance(step, (Stream, Remote)) else step, "node", "")
            if id not in needed:
                changed[id] = Empty()
            elif id in cached:
                changed[id] = Cached(id, cached[id])
        return replace(self, root=with_leaves(self.root, changed))

    def placed(self, where: Mapping[str, tuple[str, str, str]]) -> Plan:
        """With the process, the machine and the reason of each node that has one."""
        changed: dict[str, Step] = {}
        for step in leaves_of(self.root):
            id = getattr(step.step if isinstance(step, Stream) else step, "node", "")
            if id in where and not isinstance(step, (Remote, Cached)):
                changed[id] = Remote(step, *where[id])
        return replace(self, root=with_leaves(self.root, changed))

    def with_nodes(self, nodes: tuple[PlanNode, ...]) -> Plan:
        """The same steps over nodes of other inputs."""
        return replace(self, nodes=nodes)

    def streamed(self) -> Plan:
        """Chunk by chunk, each node as its filter says."""
        changed: dict[str, Step] = {}
        for step in leaves_of(self.root):
            id = getattr(step.step if isinstance(step, Remote) else step, "node", "")
            if id and not isinstance(step, Stream):
                changed[id] = Stream(step, self.node(id).stream)
        return replace(self, root=with_leaves(self.root, changed))

    # -- how it is shown ---------------------------------------------------------------------------------------------------------

    def formula(self) -> str:
        """As it could have been written: `a >> (b | c) >> d`."""
        return _formula(self.root, outermost=True)

    def to_mermaid(self) -> str:
        """A flowchart that GitHub and notebooks draw."""
        from soma.graph.showing import mermaid

        return mermaid(self)

    def to_json(self) -> str:
        """As JSON; `Plan.from_json` reads it."""
        from soma.graph.serial import plan_to_json

        if not self._json:
            self._json.append(plan_to_json(self))  # once: each recorded run writes it
        return self._json[0]

    @staticmethod
    def from_json(text: str) -> Plan:
        """A plan that `to_json` wrote. ValueError if it is none."""
        from soma.graph.serial import plan_from_json

        return plan_from_json(text)

    def __repr__(self) -> str:
        from soma.graph.showing import tree

        return tree(self)


def _formula(step: Step, *, outermost: bool = False) -> str:
    if isinstance(step, (Stream, Remote)):
        return _formula(step.step, outermost=outermost)
    if isinstance(step, Empty):
        return ""
    if isinstance(step, Composite):
        return step.nodes[0] if len(step.nodes) == 1 else f"[{' + '.join(step.nodes)}]"
    if isinstance(step, (Execute, Cached, Loop, Branch)):
        return step.node
    text = (" >> " if isinstance(step, Sequence) else " | ").join(_formula(s) for s in step.steps)
    return text if outermost else f"({text})"

