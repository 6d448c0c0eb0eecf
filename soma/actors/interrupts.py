"""Signals that raise in the main thread (Ctrl-C, a cancelled call), and the places where they must not.

Between two frames of a message, or half-way through settling the calls of a dead actor, an exception would lose something for
good; and an exception that comes right after a lock was taken leaves it taken: one of ours, or the one of a module that is imported
right now, and then all who import it wait for ever. In a finalizer or a callback of the garbage collector it would be printed and
forgotten by Python itself. So signals raise only in the user's code and where soma waits. One that comes
elsewhere is put off: the side thread sends it again, until the main thread is at a better place. Nothing is paid for this as long as no
signal comes.
"""

from __future__ import annotations

import _weakrefset
import ctypes
import functools
import gc
import itertools
import logging
import operator
import os
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any

from soma import transport
from soma.transport.endpoint import ZmqMailbox
from soma.transport.network_mailbox import NetworkMailbox

_WAITS = frozenset({ZmqMailbox.poll.__code__, NetworkMailbox.await_sign.__code__, threading.Condition.wait.__code__})
"""Where a thread of ours waits it may be interrupted: nothing was taken out of the mailbox yet."""
_OURS = tuple(os.path.dirname(os.path.abspath(m)) + os.sep for m in (__file__, transport.__file__))
_LOCKS = threading.__file__
_DEAF = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>", logging.__file__)
"""Others that take a lock in one step and see to its release in the next: Python's imports (not what a module does), and logging."""
_WEAK = (weakref.__file__, _weakrefset.__file__)
"""The standard library's callbacks of dead weak references."""
_BREATH = 0.001
"""Seconds the main thread gets to come to a better place before a signal is sent again."""


class Interrupts:
    """What is put off in one process."""

    def __init__(self, wake_side: Callable[[], None], protected: Iterable[Callable[..., Any]]) -> None:
        self._wake_side = wake_side
        self._protected: frozenset[CodeType] = frozenset(fn.__code__ for fn in protected)
        self._put_off: int | None = None
        self._later: deque[Callable[[], None]] = deque()
        self._main = threading.main_thread().ident

    def put_off(self, number: int, frame: FrameType | None) -> bool:
        """Called by a signal handler in the main thread: True if it must not raise now; it will be called again."""
        if not self.protects(frame):
            return False
        self._put_off = number
        self._wake_side()
        return True

    def later(self, again: Callable[[], None]) -> None:
        """Have the side thread call `again` in a moment. Safe in signal handlers."""
        self._later.append(again)
        self._wake_side()

    def raise_in(self, thread: int, what: type[BaseException]) -> bool:
        """Raise in a thread as soon as it runs Python code; False, and nothing is done, if it must not be interrupted where it is."""
        frame = sys._current_frames().get(thread)
        return not self.protects(frame) and _raise_if_still(frame, thread, what)

    def protects(self, frame: FrameType | None) -> bool:
        """Whether a thread that is there must not be interrupted."""
        if frame is None or frame.f_code in _WAITS:
            return False
        if _is_ours(frame):  # it may just have taken a lock: since Python 3.13 that is where signals are looked at
            return True
        if frame.f_code.co_filename in (*_DEAF, *_WEAK):
            return True
        deaf = {weakref.finalize.__call__.__code__, *(getattr(callback, "__code__", None) for callback in gc.callbacks)}
        while frame is not None:
            code = frame.f_code
            if code in self._protected or code in deaf or code.co_name == "__del__":
                return True
            frame = frame.f_back
        return False

    def again(self) -> None:
        """Called by the side thread when it was woken."""
        if self._put_off is None and not self._later:
            return
        time.sleep(_BREATH)
        for _ in range(len(self._later)):
            self._later.popleft()()
        number, self._put_off = self._put_off, None
        if number is not None and self._main is not None:
            signal.pthread_kill(self._main, number)

    def guard_ctrl_c(self, wake_fd: int = -1) -> Callable[[], None]:
        """Take Python's own handler of SIGINT over, if it is in place; returns the undoing.

        `wake_fd` ends waits when a byte is written to it: a signal that comes just before a wait would else be noticed after it.
        """
        here = threading.current_thread() is threading.main_thread()
        if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return lambda: None

        own_fd = os.dup(wake_fd) if wake_fd >= 0 else -1  # the other may be closed, and its number reused, before this is undone
        undone = False

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            if undone:
                restore()
            elif not self.put_off(number, frame):
                raise KeyboardInterrupt

        def restore() -> None:
            if signal.getsignal(signal.SIGINT) is on_interrupt:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            _replace_wakeup_fd(own_fd, -1)
            if own_fd >= 0:
                os.close(own_fd)

        def undo() -> None:
            nonlocal undone
            self._put_off = None
            if undone:
                return
            undone = True
            if threading.current_thread() is threading.main_thread():
                restore()
            elif signal.getsignal(signal.SIGINT) is on_interrupt and self._main is not None:
                signal.pthread_kill(self._main, signal.SIGINT)  # only the main thread may change handlers: it does so in this one

        signal.signal(signal.SIGINT, on_interrupt)
        _replace_wakeup_fd(-1, own_fd)
        return undo


def take_back(thread: int) -> None:
    """What a thread was to raise and did not come to."""
    _set_async_exc(ctypes.c_ulong(thread), None)


_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc


def _raise_if_still(frame: FrameType | None, thread: int, what: type[BaseException]) -> bool:
    """Raise in a thread if it is still in that frame; else it may have come to where it must not be interrupted.

    In one step: between the look and the deed no Python code is run, only C, so this thread keeps the GIL and that one stays put.
    """
    looks = map(operator.methodcaller("get", thread), itertools.starmap(sys._current_frames, [()]))
    there = map(functools.partial(operator.is_, frame), looks)
    deeds = itertools.starmap(_set_async_exc, itertools.compress([(ctypes.c_ulong(thread), ctypes.py_object(what))], there))
    return bool(list(deeds))


def _replace_wakeup_fd(old: int, new: int) -> None:
    """Unless it is somebody else's, an event loop's perhaps."""
    found = signal.set_wakeup_fd(new, warn_on_full_buffer=False)
    if found != old:
        signal.set_wakeup_fd(found)


def _is_ours(frame: FrameType | None) -> bool:
    """Whether the innermost code is soma's, or a lock's that soma uses."""
    while frame is not None and frame.f_code.co_filename == _LOCKS:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_OURS)
