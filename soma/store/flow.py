"""The order in which a code object's instructions are written down: by where control goes, not by where they lie. For `bytecode`.

One path is followed to its end, then the ways that left it, in the order in which they did. Jumps that only lead on are no steps, a
branch goes on with what is true, and what nothing leads to is left out; so it does not show in which order the compiler laid the blocks,
which depends on the lines of the source. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soma.store.atoms import framed, number

_ENDS = frozenset({"RETURN_VALUE", "RAISE_VARARGS", "RERAISE", "INTERPRETER_EXIT"})


@dataclass(slots=True)
class Step:
    """An instruction; `arg` is the operand as it is written, `value` what it means, `flag` what is packed beside a name."""

    offset: int
    name: str
    code: int
    arg: int | None
    value: Any
    flag: int = 0


@dataclass(frozen=True, slots=True)
class Handler:
    """Where control goes if a step raises, and what the stack holds then."""

    target: int
    depth: int
    lasti: bool


class Flow:
    """Steps with their jumps (`targets`: by step, the step that it may go to) and handlers (by step)."""

    def __init__(self, steps: Sequence[Step], targets: Mapping[int, int], handlers: Mapping[int, Handler]) -> None:
        self._steps, self._targets, self._handlers = steps, targets, handlers
        self._written: dict[int, int] = {}
        self._labels: dict[int, int] = {}
        self._waiting: deque[int] = deque()

    def walk(self) -> Iterator[int | bytes]:
        """The steps to write, by number, and between them what leads from one to another."""
        self._refer(0)
        while self._waiting:
            at: int | None = self._waiting.popleft()
            assert at is not None
            yield framed(b"label", number(self._labels[at]))
            guard: Handler | None = None
            while at is not None:
                if at in self._written:
                    yield self._refer(at)
                    break
                self._written[at] = len(self._written)
                if self._handlers.get(at) != guard:
                    guard = self._handlers.get(at)
                    yield framed(b"guard") if guard is None else framed(
                        b"guard", self._refer(guard.target), number(guard.depth), number(guard.lasti))
                yield at
                other, at = self._leads(at)
                if other is not None:
                    yield self._refer(other)

    def name(self, at: int) -> str:
        """What a step does, whichever way it was written."""
        name, _ = self._jump(at)
        if not name.startswith("POP_JUMP"):
            return name
        return "IF_NOT_NONE" if name.endswith("NONE") else "IF"

    def _leads(self, at: int) -> tuple[int | None, int | None]:
        """Where else a step may go, and where the path goes on; None: nowhere."""
        (name, target), after = self._jump(at), self._after(at)
        if name.startswith("POP_JUMP") and name.endswith(("IF_TRUE", "IF_NOT_NONE")):
            return after, target
        return target, after

    def _jump(self, at: int) -> tuple[str, int | None]:
        """A step and where it jumps to. `and` and `or` (up to Python 3.11) that lead to a test of the same value jump over it."""
        name = self._steps[at].name
        if at not in self._targets:
            return name, None
        target = self._settled(self._targets[at])
        while name.endswith("_OR_POP") and target in self._targets and _asks_truth(self._steps[target].name):
            there = self._steps[target].name
            same = ("_IF_TRUE" in name) is ("_IF_TRUE" in there)
            if not (same and there.endswith("_OR_POP")):
                name = "POP_JUMP_IF_TRUE" if "_IF_TRUE" in name else "POP_JUMP_IF_FALSE"
            target = self._settled(self._targets[target] if same else target + 1)
        return name, target

    def _after(self, at: int) -> int | None:
        return None if self._steps[at].name in _ENDS else self._settled(at + 1)

    def _settled(self, at: int) -> int:
        """The step that control comes to, over jumps that only lead on; the first of them if they lead in a circle."""
        seen = [at]
        while _is_jump(self._steps[at]):
            at = self._targets[at]
            if at in seen:
                return min(seen)
            seen.append(at)
        return at

    def _refer(self, at: int) -> bytes:
        at = self._settled(at)
        if at in self._written:
            return framed(b"back", number(self._written[at]))
        if at not in self._labels:
            self._labels[at] = len(self._labels)
            self._waiting.append(at)
        return framed(b"on", number(self._labels[at]))


def _asks_truth(name: str) -> bool:
    return "JUMP" in name and ("_IF_TRUE" in name or "_IF_FALSE" in name)


def _is_jump(step: Step) -> bool:
    """Whether it does nothing but go elsewhere."""
    return step.name.startswith("JUMP") and "_IF_" not in step.name
