"""A job's program while it runs: what it says and reports as events, in order; its limits; and the end of all its processes.

Nothing of it outlives `events()`: when the program ends, is stopped or goes over a limit, so do its children, whatever they made of
themselves. The program leads a session of its own; what it and its children print comes through one pipe.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soma.environments import used_bytes
from soma.jobs.events import JobEvent, Left, Reported, Said
from soma.jobs.family import ask_to_end, end_family, reap_orphans
from soma.jobs.progress import LINE_BYTES, METRICS, reported

GRACE = 0.3
"""Seconds between asking a program to end and ending it."""
TICK = 0.25
"""Seconds between looks at the disk and at orphans."""
_SHARE = 10
"""Looking at the disk takes at most a tenth of the time."""
_CHUNK = 65536
_LAST_OUTPUT = 1.0
"""Seconds that reading what is left of the output may take."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a program may take: seconds from its start, and bytes in a directory. None: no limit."""

    seconds: float | None = None
    disk_bytes: int | None = None
    directory: Path | None = None


class Program:
    """One run of a program.

    Args:
        argv: never seen by a shell.
        pipe: where a FIFO is made, which `soma.jobs.report` writes to.
        stop: a descriptor that becomes readable when the program is to be stopped.
    """

    def __init__(self, argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str], pipe: Path, stop: int, bounds: Bounds) -> None:
        self._argv, self._cwd, self._environ = list(argv), cwd, dict(environ)
        self._pipe, self._stop, self._bounds = pipe, stop, bounds
        self.over: str | None = None
        """Which limit it went over, in words."""
        self.stopped = False
        self._progress = b""
        self._metrics: set[str] = set()

    def events(self) -> Iterator[JobEvent]:
        """What it does, until all of it is gone; the last is `Left`.

        Raises:
            OSError: it cannot be started.
        """
        os.mkfifo(self._pipe, 0o600)
        fifo = os.open(self._pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # for writing too: it is never without a writer
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, fifo)
            process = subprocess.Popen(self._argv, cwd=self._cwd, env=self._environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, start_new_session=True)
            assert process.stdout is not None
            stack.callback(process.wait)
            stack.enter_context(process.stdout)
            stack.callback(lambda: end_family(time.monotonic() + 5.0))
            out = process.stdout.fileno()
            os.set_blocking(out, False)
            yield from self._watch(process, out, fifo)
            code = process.wait()
            end_family(time.monotonic() + 5.0)
            reap_orphans(process.pid)
            yield from self._rest(out, fifo)
            yield Left(code, None) if code >= 0 else Left(None, _name_of(-code))

    def _watch(self, process: subprocess.Popen[bytes], out: int, fifo: int) -> Iterator[JobEvent]:
        """Until the program itself is gone."""
        began = time.monotonic()
        kill_at: float | None = None
        look_at = began
        with contextlib.ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            for fd in (out, fifo, self._stop):
                selector.register(fd, selectors.EVENT_READ)
            end = os.pidfd_open(process.pid)
            stack.callback(os.close, end)
            selector.register(end, selectors.EVENT_READ)
            while process.poll() is None:
                now = time.monotonic()
                if now >= look_at:
                    reap_orphans(process.pid)
                    look_at = self._look(now - began)
                if (self.over or self.stopped) and kill_at is None:
                    ask_to_end(process.pid)
                    kill_at = now + GRACE
                elif kill_at is not None and now >= kill_at:
                    end_family(now + 5.0)
                    process.wait()
                for key, _ in selector.select(max(0.0, min(kill_at or look_at, look_at) - now)):
                    if key.fd == self._stop:
                        self.stopped = True
                        selector.unregister(key.fd)
                    elif key.fd == out:
                        data = _read(out)
                        if data == b"":  # it closed its output; it may go on
                            selector.unregister(out)
                        elif data:
                            yield Said(data)
                    elif key.fd == fifo:
                        yield from self._reports(_read(fifo))

    def _look(self, seconds: float) -> float:
        """Compare with the limits; when to do so next."""
        began = time.monotonic()
        bounds = self._bounds
        if bounds.seconds is not None and seconds >= bounds.seconds:
            self.over = self.over or "timeout"
        if bounds.disk_bytes is not None and bounds.directory is not None:
            used = used_bytes(bounds.directory)
            if used > bounds.disk_bytes:
                self.over = self.over or f"disk_quota: its files take {used} bytes, {bounds.disk_bytes} are allowed"
        now = time.monotonic()
        wait = max(TICK, _SHARE * (now - began))
        if bounds.seconds is not None and self.over is None:
            wait = min(wait, max(0.001, bounds.seconds - seconds))
        return now + wait

    def _rest(self, out: int, fifo: int) -> Iterator[JobEvent]:
        """What is left in the pipes; nobody writes any more."""
        until = time.monotonic() + _LAST_OUTPUT
        while time.monotonic() < until and (data := _read(out)):
            yield Said(data)
        while time.monotonic() < until and (data := _read(fifo)):
            yield from self._reports(data)
        if self._bounds.disk_bytes is not None and self.over is None:
            self._look(0.0)  # it may have filled its disk and left before anybody looked

    def _reports(self, data: bytes | None) -> Iterator[JobEvent]:
        *lines, self._progress = (self._progress + (data or b"")).split(b"\n")
        self._progress = self._progress[-LINE_BYTES:]
        last: Reported | None = None
        for line in lines:
            try:
                new = reported(line)
            except (ValueError, TypeError, RecursionError) as e:
                yield Said(f"soma: a report that is none was dropped: {str(e)[:200]}\n".encode())
                continue
            if len(self._metrics | new.metrics.keys()) > METRICS:
                yield Said(f"soma: a report was dropped: a job has at most {METRICS} metrics\n".encode())
                continue
            self._metrics |= new.metrics.keys()
            last = new if last is None else Reported(new.step if new.step is not None else last.step,
                                                     new.total if new.total is not None else last.total, {**last.metrics, **new.metrics})
        if last is not None:
            yield last


def _read(fd: int) -> bytes | None:
    """What is there; b"" at the end, None when there is nothing now."""
    try:
        return os.read(fd, _CHUNK)
    except BlockingIOError:
        return None


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
