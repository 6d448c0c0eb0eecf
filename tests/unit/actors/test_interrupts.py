"""Where a thread is when an interrupt must not raise in it."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from soma.actors.interrupts import Interrupts, _raise_if_still

LONG = 10.0


def frame_of(thread: threading.Thread, there: Callable[[FrameType], bool]) -> FrameType:
    """Its innermost frame, once it is where it is wanted."""
    assert thread.ident is not None
    while True:
        frame = sys._current_frames().get(thread.ident)
        if frame is not None and there(frame):
            return frame


def test_imports_are_not_interrupted_but_what_modules_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits for another one's import would leave the module's lock taken."""
    go = tmp_path / "go"
    os.mkfifo(go)
    (tmp_path / "waits_in_its_body.py").write_text(f"open({str(go)!r}).close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    interrupts = Interrupts(lambda: None, ())
    threads = [threading.Thread(target=importlib.import_module, args=("waits_in_its_body",)) for _ in range(2)]
    try:
        threads[0].start()
        body = frame_of(threads[0], lambda frame: frame.f_code.co_name == "<module>")
        threads[1].start()
        lock = frame_of(threads[1], lambda frame: frame.f_code.co_qualname == "_ModuleLock.acquire")
        assert not interrupts.protects(body)
        assert interrupts.protects(lock)
    finally:
        open(go, "w").close()
        for thread in threads:
            thread.join(LONG)
        sys.modules.pop("waits_in_its_body", None)


def test_logging_is_not_interrupted() -> None:
    """It takes its lock in one step and sees to its release in the next."""
    handler = logging.Handler()
    assert handler.lock is not None

    def take() -> None:
        handler.acquire()
        handler.release()

    thread = threading.Thread(target=take)
    with handler.lock:
        thread.start()
        assert Interrupts(lambda: None, ()).protects(frame_of(thread, lambda frame: frame.f_code is logging.Handler.acquire.__code__))
    thread.join(LONG)


def test_an_interrupt_does_not_follow_a_thread_to_another_place() -> None:
    """Who was looked at and has gone on since may be where it must not be interrupted."""
    came_through: list[BaseException | None] = []
    first, second, third = (threading.Event() for _ in range(3))

    def walk() -> None:
        try:
            first.wait(LONG)
            second.wait(LONG)
            third.wait(LONG)
        except KeyboardInterrupt as e:
            came_through.append(e)

    thread = threading.Thread(target=walk)
    thread.start()
    waits = threading.Condition.wait.__code__
    old = frame_of(thread, lambda frame: frame.f_code is waits)
    first.set()
    now = frame_of(thread, lambda frame: frame.f_code is waits and frame is not old)
    assert thread.ident is not None
    assert not _raise_if_still(old, thread.ident, KeyboardInterrupt)
    second.set()
    now = frame_of(thread, lambda frame: frame.f_code is waits and frame not in (old, now))
    assert came_through == []
    assert _raise_if_still(now, thread.ident, KeyboardInterrupt)
    third.set()
    thread.join(LONG)
    assert [type(e) for e in came_through] == [KeyboardInterrupt]
