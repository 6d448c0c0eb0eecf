"""One pass through a plan, decided purely: what may start now, given what is done. No cluster, no clock, no values.

    walk = Walk(plan, "fit" | "forward", wanted)
    todo = walk.begin(x)                    # things to do: `Call` a node's filter, or `Read` a value
    todo = walk.done(key, {node: value})    # … and what that makes possible
    todo = walk.read(key, value)
    walk.failed(key)                        # what depends on it never starts; everything else goes on

Values are opaque: whatever the caller uses to name them. A node starts when its own inputs are done, whatever else runs. In "fit" only
what learns, and what is needed for that, is run. A node inside a loop learns the first time that it is reached, and is only applied in
later passes, so that what comes behind the loop learns from what it will get later. A branch takes one arm, in "fit" too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from soma.errors import GraphError
from soma.graph import signals
from soma.graph.plan import Plan, PlanNode
from soma.graph.program import Mode, Op, program_for
from soma.graph.steps import Branch, Loop


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """Several values that a node gets as a dict; or a loop or an arm with several ends gives as one."""

    parts: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """Run a node, or a group of nodes that run as one.

    Attributes:
        key: names it in this walk.
        nodes: one, or all of a composite.
        inputs: what comes from outside of it, by the id of its maker; the graph's (or body's, or arm's) own input is "".
        wanted: the nodes whose outputs are wanted; none when it only learns.
        turn: which pass of a loop it belongs to, counted from 0.
    """

    key: int
    plan: Plan
    nodes: tuple[str, ...]
    op: Op
    inputs: tuple[tuple[str, Any], ...]
    wanted: tuple[str, ...]
    turn: int = 0

    @property
    def node(self) -> str:
        return self.nodes[0]


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Look at a value: it decides what runs next. `node` made it."""

    key: int
    node: str
    value: Any


Todo = Call | Read
Outputs = dict[str, Any]


class Walk:
    """See the module."""

    def __init__(self, plan: Plan, mode: Mode, wanted: Iterable[str]) -> None:
        self._plan, self._mode, self._wanted = plan, mode, tuple(wanted)
        self._keys = 0
        self._open: dict[int, Callable[[Any], None]] = {}
        self.learnt: set[str] = set()
        """Units that learn once in this walk, and did."""
        self._new: list[Todo] = []
        self.outputs: Outputs | None = None
        """What was wanted; None until all of it is there."""
        self.remarks: list[str] = []

    def begin(self, x: Any) -> list[Todo]:
        def finish(outputs: Outputs) -> None:
            self.outputs = outputs

        _Frame(self, self._plan, self._mode, self._wanted, x, 0, finish).begin()
        return self._taken()

    def done(self, key: int, outputs: Mapping[str, Any]) -> list[Todo]:
        """A call is done."""
        self._open.pop(key)(outputs)
        return self._taken()

    def read(self, key: int, value: Any) -> list[Todo]:
        """A value was looked at. GraphError if it cannot be understood; the walk then stands as after `failed`."""
        self._open.pop(key)(value)
        return self._taken()

    def failed(self, key: int) -> None:
        """A call or a look failed, or what came of it could not be used."""
        self._open.pop(key, None)

    def drop(self) -> None:
        """Nobody goes on with it; it and what it holds need not wait for the collector."""
        self._open.clear()

    @property
    def idle(self) -> bool:
        """Nothing is under way; if `outputs` is None, something failed."""
        return not self._open

    def _taken(self) -> list[Todo]:
        new, self._new = self._new, []
        return new

    def call(self, frame: _Frame, first: str, op: Op, wanted: tuple[str, ...], then: Callable[[Any], None]) -> None:
        self._keys += 1
        self._open[self._keys] = then
        self._new.append(Call(self._keys, frame.plan, frame.plan.group(first), op, frame.inputs(first), wanted, frame.turn))

    def look(self, node: str, value: Any, then: Callable[[Any], None]) -> None:
        self._keys += 1
        self._open[self._keys] = then
        self._new.append(Read(self._keys, node, value))


class _Frame:
    """One run of one plan: the graph's own, a pass of a loop, a condition, an arm."""

    def __init__(self, walk: Walk, plan: Plan, mode: Mode, wanted: tuple[str, ...], x: Any, turn: int,
                 then: Callable[[Outputs], None]) -> None:
        self.walk, self.plan, self.mode, self.wanted, self.x, self.turn, self._then = walk, plan, mode, wanted, x, turn, then
        self._values: Outputs = {}
        self._program = program_for(plan, mode, wanted)
        self._waits = dict(self._program.waits)
        self._left = len(self._waits)

    def begin(self) -> None:
        if not self._left:
            self._then({})
            return
        for first in [f for f, n in self._waits.items() if n == 0]:
            self._start(first)

    def inputs(self, first: str) -> tuple[tuple[str, Any], ...]:
        """What a call needs from outside."""
        return tuple((i, self._values[i] if i else self.x) for i in self._program.inputs[first])

    def _input(self, node: PlanNode) -> Any:
        parts = self.inputs(node.id)
        return parts[0][1] if len(parts) == 1 else Bundle(parts)

    def _start(self, first: str) -> None:
        op, node = self._program.ops[first], self.plan.node(first)
        finish = partial(self._finished, first)
        if isinstance(node.inner, Loop):
            _LoopRun(self, node.inner, op, self._input(node), finish).begin()
        elif isinstance(node.inner, Branch):
            _BranchRun(self, node.inner, op, self._input(node), finish).begin()
        else:
            self._call(first, op, self._program.used[first], finish)

    def _call(self, first: str, op: Op, wanted: tuple[str, ...], then: Callable[[Any], None]) -> None:
        if op != "forward" and first in self.walk.learnt:
            op = "forward"
            if not wanted:
                then({})
                return
        if op != "forward":
            self.walk.learnt.add(first)
        self.walk.call(self, first, op, wanted, then)

    def _finished(self, first: str, outputs: Mapping[str, Any]) -> None:
        self._values.update(outputs)
        self._left -= 1
        ready = []
        for follower in self._program.followers.get(first, ()):
            self._waits[follower] -= 1
            if self._waits[follower] == 0:
                ready.append(follower)
        for follower in ready:
            self._start(follower)
        if not self._left:
            self._then({id: self._values[id] for id in self.wanted})


class _LoopRun:
    """A loop: pass after pass."""

    def __init__(self, frame: _Frame, loop: Loop, op: Op, x: Any, then: Callable[[Outputs], None]) -> None:
        self._frame, self._loop, self._op, self._x, self._then = frame, loop, op, x, then
        self._done = 0

    def begin(self) -> None:
        loop, frame = self._loop, self._frame
        if self._op == "fit" and not _learns_in_arms(loop.body):  # the first pass has taught all there is to teach
            _Frame(frame.walk, loop.body, "fit", (), self._x, 0, lambda _: self._then({})).begin()
            return
        mode: Mode = "fit" if self._op != "forward" else "forward"
        wanted = loop.carry if loop.until is None or loop.until in loop.carry else (*loop.carry, loop.until)
        _Frame(frame.walk, loop.body, mode, wanted, self._x, self._done, self._passed).begin()

    def _passed(self, outputs: Outputs) -> None:
        loop = self._loop
        carry = outputs[loop.carry[0]] if len(loop.carry) == 1 else Bundle(tuple((id, outputs[id]) for id in loop.carry))
        self._done += 1
        if loop.until is None:
            self._decided(carry, self._done == loop.max_iterations)
        else:
            self._frame.walk.look(loop.until, outputs[loop.until], partial(self._signalled, carry))

    def _signalled(self, carry: Any, value: Any) -> None:
        over = signals.stops(value, self._loop.node, str(self._loop.until))
        if not over and self._done == self._loop.max_iterations:
            self._frame.walk.remarks.append(f"loop {self._loop.node!r} was still going after max_iterations={self._done} passes; "
                                            "its value is that of the last")
            over = True
        self._decided(carry, over)

    def _decided(self, carry: Any, over: bool) -> None:
        if over:
            self._then({self._loop.node: carry} if self._op != "fit" else {})
        else:
            self._x = carry
            self.begin()


def _learns_in_arms(body: Plan) -> bool:
    """Whether later passes may reach a node that learns and that the first did not."""
    return any(isinstance(n.inner, Branch) and n.learns for p in body.plans() for n in p.nodes)


class _BranchRun:
    """A branch: the condition, then an arm."""

    def __init__(self, frame: _Frame, branch: Branch, op: Op, x: Any, then: Callable[[Outputs], None]) -> None:
        self._frame, self._branch, self._op, self._x, self._then = frame, branch, op, x, then

    def begin(self) -> None:
        condition = self._branch.condition
        mode: Mode = "fit" if self._op != "forward" and condition.learners else "forward"
        _Frame(self._frame.walk, condition, mode, condition.leaves, self._x, self._frame.turn, self._conditioned).begin()

    def _conditioned(self, outputs: Outputs) -> None:
        (node, value), = outputs.items()
        self._frame.walk.look(node, value, partial(self._labelled, node))

    def _labelled(self, node: str, value: Any) -> None:
        branch, frame = self._branch, self._frame
        label = signals.label(value, branch.node, node)
        arm = branch.arm(label)
        if arm is None:
            raise GraphError(f"branch {branch.node!r}: {node!r} gave {label!r}, and there is no such arm and no 'default'; the arms are "
                             f"{', '.join(repr(name) for name, _ in branch.arms)}")
        mode: Mode = "fit" if self._op != "forward" else "forward"
        wanted = arm.leaves if self._op != "fit" else ()
        _Frame(frame.walk, arm, mode, wanted, self._x, frame.turn, partial(self._armed, arm)).begin()

    def _armed(self, arm: Plan, outputs: Outputs) -> None:
        if self._op == "fit":
            self._then({})
            return
        ends = arm.leaves
        self._then({self._branch.node: outputs[ends[0]] if len(ends) == 1 else Bundle(tuple((id, outputs[id]) for id in ends))})

