"""Gradients in flat buckets, each reduced over all ranks as soon as the backward pass has filled it.

`cut` decides which parameter lies where: pure. `Buckets` gives every small parameter a gradient that is a view into its bucket; a large
one is a bucket by itself, and its gradient is the very tensor that the backward pass made. So no gradient exists twice. A bucket's
reduction is started from the hooks of its parameters. Buckets go out in one order at every rank, whatever order gradients arrive in. One
number more travels with them: the loss.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MIB = 1 << 20
DEFAULT_BYTES = 4 * MIB
"""Of a bucket. Smaller ones overlap more, larger ones cost less."""


class Reducer(Protocol):
    """The part of a group that gradients need."""

    def all_reduce(self, array: Any, op: str = "sum", *, check: bool = False) -> bool: ...


@dataclass(frozen=True, slots=True)
class Cut:
    """One bucket: the dtype of its elements, and (name, start, stop) of each that lies in it."""

    dtype: Any
    items: tuple[tuple[str, int, int], ...]

    @property
    def size(self) -> int:
        return self.items[-1][2]


def cut(sizes: Sequence[tuple[str, int, Any, int]], most: int) -> list[Cut]:
    """Buckets of up to `most` bytes, or of one item that is larger; dtypes apart.

    Args:
        sizes: (name, elements, dtype, bytes of an element) in the order in which gradients are expected.
    """
    if most < 1:
        raise ValueError(f"bucket_bytes={most}: at least 1")
    open_: dict[Any, list[tuple[str, int, int]]] = {}
    done: list[Cut] = []
    for name, count, dtype, width in sizes:
        items = open_.setdefault(dtype, [])
        start = items[-1][2] if items else 0
        if items and (start + count) * width > most:
            done.append(Cut(dtype, tuple(items)))
            items = open_[dtype] = []
            start = 0
        items.append((name, start, start + count))
    return done + [Cut(dtype, tuple(items)) for dtype, items in open_.items()]


class Buckets:
    """Of one model at one rank. `begin`, one or more backward passes of which the last is `closing`, `finish`; then the gradients are
    the sums over all ranks."""

    LOSS = ""
    """The name under which the loss lies in its bucket."""

    def __init__(self, parameters: Mapping[str, Any], group: Reducer, most: int = DEFAULT_BYTES) -> None:
        import torch

        self._group = group
        wanted = [(name, p.numel(), p.dtype, p.element_size()) for name, p in reversed(list(parameters.items()))]
        self.cuts = cut([*wanted, (self.LOSS, 1, torch.float64, 8)] if wanted and wanted[-1][2] not in (torch.float32, torch.float64)
                        else [*wanted, (self.LOSS, 1, wanted[-1][2], wanted[-1][3])], most)
        device = next(iter(parameters.values())).device
        self._large = {i: parameters[c.items[0][0]] for i, c in enumerate(self.cuts)
                       if len(c.items) == 1 and c.items[0][0] != self.LOSS and c.size * parameters[c.items[0][0]].element_size() > most}
        self._flat = [None if i in self._large else torch.zeros(c.size, dtype=c.dtype, device=device) for i, c in enumerate(self.cuts)]
        self._bucket = {name: i for i, c in enumerate(self.cuts) for name, _, _ in c.items}
        self._hooks = []
        for c, flat in zip(self.cuts, self._flat, strict=True):
            for name, start, stop in c.items:
                if name == self.LOSS:
                    assert flat is not None
                    self._loss = flat[start:stop]
                    continue
                p = parameters[name]
                p.grad = None if flat is None else flat[start:stop].view_as(p)
                self._hooks.append(p.register_post_accumulate_grad_hook(lambda p, name=name: self._arrived(name)))
        self._waiting: list[int] = []
        self._next = len(self.cuts)
        self._closing = False
        self._finite = True
        self._work: _Worker | None = _Worker() if len(self.cuts) > 1 else None

    @property
    def flat(self) -> list[Any]:
        """The buckets: all gradients, and the loss; where none is so large that it lies by itself."""
        return self._flat

    def put(self, parameters: Mapping[str, Any]) -> list[Any]:
        """Copies of the parameters, laid out as their gradients are."""
        import torch

        return [torch.cat([parameters[name].detach().reshape(-1) if name != self.LOSS else torch.zeros(1, dtype=c.dtype)
                           for name, _, _ in c.items]) for c in self.cuts]

    def take(self, parameters: Mapping[str, Any], flat: Sequence[Any]) -> None:
        """Overwrite the parameters with what `put` gave."""
        import torch

        with torch.no_grad():
            for c, values in zip(self.cuts, flat, strict=True):
                for name, start, stop in c.items:
                    if name != self.LOSS:
                        parameters[name].copy_(values[start:stop].view_as(parameters[name]))

    def begin(self) -> None:
        """All gradients are zero."""
        for flat in self._flat:
            if flat is not None:
                flat.zero_()
        for p in self._large.values():
            p.grad = None
        self._waiting = [sum(name != self.LOSS for name, _, _ in c.items) for c in self.cuts]
        self._next, self._finite, self._closing = 0, True, False

    def closing(self) -> None:
        """The backward pass that comes now is the last one of this step: its hooks may send."""
        self._closing = True

    def finish(self, loss: float) -> tuple[float, bool]:
        """Send what was not sent, wait for all: the sum of the ranks' losses, and whether everything is finite."""
        self._loss.fill_(loss)
        while self._next < len(self.cuts):
            self._send()
        if self._work is not None:
            self._work.wait()
        return float(self._loss), self._finite

    def close(self) -> None:
        """Reduce nothing any more."""
        for hook in self._hooks:
            hook.remove()
        self._flat, self._large = [], {}
        if self._work is not None:
            self._work.close()

    def _arrived(self, name: str) -> None:
        if not self._closing:
            return
        self._waiting[self._bucket[name]] -= 1
        # The last one carries the loss, and is sent by `finish`.
        while self._next < len(self.cuts) - 1 and self._waiting[self._next] <= 0 and self._bucket[self.LOSS] != self._next:
            self._send()

    def _send(self) -> None:
        flat = self._flat[self._next]
        if flat is None:
            flat = self._gradient(self._large[self._next])
        self._next += 1
        if self._work is None:
            self._reduce(flat)
        else:
            self._work.do(lambda: self._reduce(flat))

    def _gradient(self, p: Any) -> Any:
        """Of a large parameter; zeros, if nothing of this rank's rows has reached it."""
        import torch

        if p.grad is None:
            p.grad = torch.zeros_like(p)
        return p.grad

    def _reduce(self, flat: Any) -> None:
        self._finite = self._group.all_reduce(flat, check=True) and self._finite


class _Worker:
    """A thread that does one thing after the other, while the backward pass goes on. The first error ends it and comes out of `wait`."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._idle = threading.Semaphore(0)
        threading.Thread(target=self._run, name="soma-reduce", daemon=True).start()

    def do(self, what: Any) -> None:
        self._todo.put(what)

    def wait(self) -> None:
        """Until everything is done."""
        self._todo.put(self._idle.release)
        self._idle.acquire()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._todo.put(None)

    def _run(self) -> None:
        while (what := self._todo.get()) is not None:
            if self._error is not None and what != self._idle.release:
                continue
            try:
                what()
            except BaseException as e:
                self._error = e
