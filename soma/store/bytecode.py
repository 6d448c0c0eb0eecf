"""What a code object does, as bytes that are the same however it was written: for `definitions`.

Instructions in the order of `flow`, with their operands resolved: constants by value, globals and attributes by name, variables by a
number (in the order of their first use, arguments first), code inside of code in its place. Left out is what changes with layout alone:
line numbers, file names, docstrings, names of variables, annotations (also those of functions and classes inside), and instructions
that only mark a line, prepare a cell or join two others. The names of arguments stay, as calls use them.
Bytecode belongs to one minor version of Python; `definitions` adds which. What is not known here (a later Python) is written down as it
lies there: then layout may show, something is computed once more, and nothing wrong is found.
"""

from __future__ import annotations

import dis
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType
from typing import Any

from soma.store.atoms import ATOMS, atom, framed, number, text, unordered
from soma.store.flow import Flow, Handler, Step

_FLAGS = 0x04 | 0x08 | 0x20 | 0x80 | 0x100 | 0x200
"""*args, **kwargs, generator, coroutine, coroutine by decorator, asynchronous generator."""

_MARKS = frozenset({"NOP", "CACHE", "EXTENDED_ARG", "RESUME", "MAKE_CELL", "COPY_FREE_VARS", "SETUP_ANNOTATIONS"})
_ABOUT_ITSELF = frozenset({"__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__"})
_VARIABLES = frozenset(dis.haslocal) | frozenset(dis.hasfree)
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs) | frozenset(getattr(dis, "hasjump", ()))
_GLOBALS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_ANNOTATED, _CLOSED = 4, 8  # flags of MAKE_FUNCTION, later of SET_FUNCTION_ATTRIBUTE


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one code object does."""

    text: bytes
    reads: tuple[tuple[str, ...], ...]
    """Globals that it or code inside of it reads, each with the attributes that are taken of it at once: `("np", "linalg", "norm")`."""
    free: tuple[str, ...]
    """Its variables of an outer function, in the order of their first use."""


@dataclass(slots=True)
class _Scope:
    """The variables of one code object, numbered as they come. Those of an outer one are known by its numbers."""

    code: CodeType
    outer: _Scope | None = None
    numbers: dict[str, str] = field(default_factory=dict)

    def number(self, name: str) -> str:
        if name not in self.numbers:
            if self.outer is not None and name in self.code.co_freevars:
                self.numbers[name] = self.outer.number(name)
            else:
                self.numbers[name] = f"{self.depth}.{len(self.numbers)}"
        return self.numbers[name]

    @property
    def depth(self) -> int:
        return 0 if self.outer is None else self.outer.depth + 1


@lru_cache(maxsize=4096)
def behaviour(code: CodeType) -> Behaviour:
    """What a code object does, with all code inside of it."""
    scope, reads, writes = _Scope(code), set[tuple[str, ...]](), set[str]()
    said = _write(scope, reads, writes)
    free = sorted(code.co_freevars, key=lambda name: int(scope.number(name).partition(".")[2]))
    # What it assigns itself is a state, not a constant: a counter of calls would make each call something new.
    return Behaviour(said, tuple(sorted(chain for chain in reads if chain[0] not in writes)), tuple(free))


def _write(scope: _Scope, reads: set[tuple[str, ...]], writes: set[str]) -> bytes:
    code = scope.code
    starred = bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
    arguments = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount + starred]
    for name in arguments:
        scope.number(name)
    steps = _clean(code)
    flow = _flow(code, steps)
    said = [number(n) for n in (code.co_flags & _FLAGS, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)]
    said += map(text, arguments)
    for at in flow.walk():
        if isinstance(at, bytes):
            said.append(at)
            continue
        step = steps[at]
        said.append(text(flow.name(at)))
        if step.code in _VARIABLES:
            said.append(text(scope.number(step.value)))
        elif step.code in dis.hasconst:
            said.append(_constant(step.value, scope, reads, writes))
        elif step.code not in _JUMPS:
            said += (text(step.value), number(step.flag)) if step.code in dis.hasname else (atom(step.arg),)
        if step.name in _GLOBALS:
            reads.add((step.value, *_attributes(steps, at + 1)))
        elif step.name in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            writes.add(step.value)
    return framed(b"code", *said)


def _flow(code: CodeType, steps: list[Step]) -> Flow:
    offsets = [step.offset for step in steps]
    targets = {at: bisect_left(offsets, step.value) for at, step in enumerate(steps) if step.code in _JUMPS}
    handlers = {}
    for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined]  # not in typeshed
        handler = Handler(bisect_left(offsets, entry.target), entry.depth, entry.lasti)
        handlers.update(dict.fromkeys(range(bisect_left(offsets, entry.start), bisect_left(offsets, entry.end)), handler))
    return Flow(steps, targets, handlers)


def _attributes(steps: list[Step], at: int) -> Iterator[str]:
    while at < len(steps) and steps[at].name in _ATTRIBUTES:
        yield steps[at].value
        at += 1


def _constant(value: Any, scope: _Scope, reads: set[tuple[str, ...]], writes: set[str]) -> bytes:
    if isinstance(value, CodeType):
        return _write(_Scope(value, scope), reads, writes)
    if type(value) in ATOMS:
        return atom(value)
    parts = [_constant(part, scope, reads, writes) for part in value]
    return unordered(parts) if isinstance(value, frozenset) else framed(b"(", *parts)


def _clean(code: CodeType) -> list[Step]:
    """The instructions that say something, in order."""
    kept: list[Step] = []
    for step in _steps(code):
        if step.name == "MAKE_FUNCTION" and step.arg:
            if step.arg & _CLOSED:
                _drop_cells(kept, 1)
            if step.arg & _ANNOTATED:
                _drop_annotations(kept, 1)
            step.arg &= ~_ANNOTATED
        elif step.name == "SET_FUNCTION_ATTRIBUTE" and step.arg in (_CLOSED, _ANNOTATED):
            after = next(n for n in range(1, len(kept)) if kept[-n].name == "MAKE_FUNCTION") + 1
            if step.arg == _ANNOTATED:
                _drop_annotations(kept, after)
                continue
            _drop_cells(kept, after)
        elif step.name == "STORE_NAME" and step.value in _ABOUT_ITSELF and kept and kept[-1].name in ("LOAD_CONST", "LOAD_NAME"):
            kept.pop()
            continue
        elif step.name == "STORE_SUBSCR" and len(kept) > 2 and kept[-2].value == "__annotations__":
            _drop(kept, 2, 1)
            kept.pop(-2)
        kept.append(step)
    return kept


def _drop_cells(kept: list[Step], after: int) -> None:
    """Take out the tuple of cells for a closure, made before the last `after` instructions: which cells, the code inside says."""
    at = len(kept) - after - 1
    del kept[at - (kept[at].arg or 0):at + 1]


def _drop_annotations(kept: list[Step], after: int) -> None:
    """Take out what made the annotations of a function, a tuple; the last `after` instructions came after it."""
    rest = kept[-after:]
    del kept[-after:]
    made = kept.pop()
    if made.name == "BUILD_TUPLE" and made.arg:
        _drop(kept, 0, made.arg)
    kept += rest


def _drop(kept: list[Step], after: int, values: int) -> None:
    """Take out the instructions that left so many values on the stack, before the last `after` ones."""
    at = len(kept) - after
    left = 0
    end = at
    while at and left < values:
        at -= 1
        left += dis.stack_effect(kept[at].code, kept[at].arg if kept[at].code >= dis.HAVE_ARGUMENT else None, jump=False)
    del kept[at:end]


def _steps(code: CodeType) -> Iterator[Step]:
    for found in dis.get_instructions(code):
        if found.opname in _MARKS:
            continue
        name, value = found.opname, found.argval
        if found.opcode in dis.hasconst and found.arg is not None:
            value = code.co_consts[found.arg]  # dis itself does not look up all of them in Python 3.11
        if name == "RETURN_CONST":
            yield Step(found.offset, "LOAD_CONST", dis.opmap["LOAD_CONST"], found.arg, value)
            yield Step(found.offset, "RETURN_VALUE", dis.opmap["RETURN_VALUE"], None, None)
        elif isinstance(value, tuple) and name.count("FAST") == 2:  # two instructions on one line, joined
            first, _, second = name.partition("_FAST_")
            for part, variable in zip((f"{first}_FAST", second), value, strict=True):
                yield Step(found.offset, part, dis.opmap[part], 0, variable)
        else:
            flag = int(found.argrepr != found.argval) + ((found.arg or 0) & 2 if name == "LOAD_SUPER_ATTR" else 0)
            yield Step(found.offset, name, found.opcode, found.arg, value, flag)
