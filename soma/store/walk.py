"""Walks through a value and everything that it holds, and gives it a digest. The engine behind `digesting` and `code`.

First a graph is made, breadth first and without recursion, so neither depth nor cycles are limits; then `merkle` solves it. A value
that stands for itself (`atoms`, arrays, what a version stands for) is a token in the label of whoever holds it; all others are nodes.
Raises IdentityError with a shortest path to what is at fault. What is met stays alive until the end, so that no id comes twice.
"""

from __future__ import annotations

from collections import deque
from types import FunctionType
from typing import Any

from blake3 import blake3

from soma.errors import IdentityError
from soma.store import definitions, foreign
from soma.store.atoms import ATOMS, FLAT, SHORT, flat, framed, number, text, unordered
from soma.store.decompose import parts_of
from soma.store.merkle import Node, digests
from soma.store.parts import Unstable

_LENGTH = 20
_FORM = b"soma 1"
"""Part of every digest: another number, other digests."""

_NODE = b"\xff"
"""Where a part is a node: no token begins with it."""


def hex_of(token: bytes) -> str:
    """40 hex digits that stand for a token."""
    return blake3(framed(_FORM, token)).hexdigest(length=_LENGTH)


class Walk:
    """One walk. `path` is what the root is called in errors; `nameless` is code whose own name does not count."""

    def __init__(self, path: str, nameless: type | FunctionType | None = None) -> None:
        self._path = path
        self._own = "" if nameless is None else f"{nameless.__module__}.{nameless.__qualname__}"
        self._nodes: list[Node] = []
        self._came: list[tuple[int, str]] = []  # from which node, by which step
        self._numbers: dict[int, int] = {}
        self._tokens: dict[int, bytes] = {}
        self._kept: list[Any] = []
        self._next: deque[tuple[int, Any]] = deque()

    def digest(self, root: Any) -> str:
        """The digest of a value, or of code without its name."""
        try:
            token = self._leaf(root, code=bool(self._own))
        except Unstable as fault:
            raise IdentityError(self._path, str(fault)) from fault.__cause__
        if token is not None:
            return hex_of(token)
        name = self._name(root) if isinstance(root, type) else b""
        self._number(root, -1, "")
        while self._next:
            self._expand(*self._next.popleft())
        return hex_of(name + digests(self._nodes)[0])

    def _expand(self, at: int, value: Any) -> None:
        step = ""
        node = self._nodes[at]
        tokens = []
        try:
            parts = parts_of(value)
            for step, part in parts.items:
                token = self._leaf(part, parts.code)
                if token is None:
                    node.children.append(self._number(part, at, step))
                    token = _NODE + self._name(part) if isinstance(part, type) else _NODE
                tokens.append(token)
        except Unstable as fault:
            raise IdentityError(self._path_to(at) + step, str(fault)) from fault.__cause__
        node.ordered = parts.ordered
        held = framed(b"", *tokens) if parts.ordered else unordered(tokens)
        node.label = framed(b"", parts.tag, number(len(tokens)), held)

    def _number(self, value: Any, came: int, step: str) -> int:
        """The node of a value, new or met before."""
        known = self._numbers.get(id(value))
        if known is not None:
            return known
        n = self._numbers[id(value)] = len(self._nodes)
        self._nodes.append(Node(b""))
        self._came.append((came, step))
        self._kept.append(value)
        self._next.append((n, value))
        return n

    def _leaf(self, value: Any, code: bool) -> bytes | None:
        kind = type(value)
        write = ATOMS.get(kind)
        if write is not None:
            return write(value)
        if id(value) in self._numbers:
            return None
        known = self._tokens.get(id(value))
        if known is not None:
            return known
        if kind in FLAT:
            token = flat(value)
            return token if token is None or len(token) < SHORT / 8 else self._keep(value, token)
        if kind is object:
            if not code:
                raise Unstable("a bare object() equals nothing but itself")
            return b"O"
        token = definitions.leaf(value) or foreign.leaf(value)
        return None if token is None else self._keep(value, token)

    def _keep(self, value: Any, token: bytes) -> bytes:
        self._tokens[id(value)] = token
        self._kept.append(value)
        return token

    def _name(self, cls: type) -> bytes:
        """A class's name; below the nameless one only what follows on its own."""
        name = definitions.name_of(cls)
        inside = name == self._own or name.startswith(f"{self._own}.")
        return text(name[len(self._own):] if self._own and inside else name)

    def _path_to(self, at: int) -> str:
        steps = []
        while at > 0:
            at, step = self._came[at]
            steps.append(step)
        return self._path + "".join(reversed(steps))
