"""`Tap`: what a process prints while a prediction runs, by descriptors 1 and 2: Python's prints, C code, and child processes.

Each capture has a pipe of its own in place of both descriptors, so a child that outlives its prediction still writes to the pipe of
that one: what comes there afterwards goes to the process's own log, never to the next prediction. A thread reads while the prediction
runs; what is left is read by the predicting thread itself, so all that was written before `end` is told before `end` returns, and where
nothing was printed no thread is waited for.

Threads of one process share its descriptors: what a thread of an earlier prediction still prints belongs to whoever runs then.
Refused: a second capture while one is open.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import faulthandler
import fcntl
import os
import selectors
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from soma import cluster
from soma.serve.slots.lines import LineBlocks

CHUNK = 64 * 1024
PAUSE = 0.005
"""Seconds between two looks of the thread, if somebody writes all the time: each look takes the interpreter from the writer."""
LAST_WORDS = 0.01
"""Seconds that messages get to leave a process that ends."""
WIDE = 1024 * 1024
"""Bytes of a pipe that turned out to be too narrow."""
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)

Tell = Callable[[str], None]


class Tap:
    """Descriptors 1 and 2 of this process, and the thread that reads what is captured. `close` ends the thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._own = os.dup(1), os.dup(2)
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = os.pipe()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._later: deque[Callable[[], None]] = deque()
        self._stopped = threading.Event()
        self._open: Capture | None = None
        self._piped = False
        self._reader = threading.Thread(target=self._read, name="soma-output", daemon=True)
        self._reader.start()

    def open(self, tell: Tell) -> Capture:
        """From now on `tell` gets what is printed, in texts of whole lines: in the context of this call, by this thread or another."""
        if self._open is not None:
            raise RuntimeError("the output of this process is captured already")
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self._open = capture = Capture(self, reading, tell)
        self.watch(reading, capture)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        return capture

    @contextlib.contextmanager
    def listening(self, log: str) -> Iterator[list[str]]:
        """Inside, what is printed goes to `log`, a named pipe that the front end reads: so nothing of it dies with this process. Where
        there is none (the front end is on another machine) it is told, and in the list afterwards."""
        logs: list[str] = []

        def tell(text: str) -> None:
            logs.append(text)
            cluster.tell({"kind": "log", "text": text})

        if not os.path.exists(log):
            capture = self.open(tell)
            try:
                yield logs
            finally:
                capture.end()
            return
        writing = os.open(log, os.O_WRONLY)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        self._piped = True
        try:
            yield logs
        finally:
            flush()
            self._piped = False
            self.put_back()

    def close(self) -> None:
        """Give the descriptors back."""
        if self._open is not None:
            self._open.end()
        self._stopped.set()
        os.write(self._waker, b"x")
        self._reader.join()
        os.close(self._waker)
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()
        for fd in self._own:
            os.close(fd)

    def put_back(self) -> None:
        """Descriptors 1 and 2 are what they were."""
        os.dup2(self._own[0], 1)
        os.dup2(self._own[1], 2)
        self._open = None

    def watch(self, fd: int, capture: Capture) -> None:
        self._selector.register(fd, selectors.EVENT_READ, capture)

    def unwatch(self, fd: int) -> None:
        self._selector.unregister(fd)

    def write_own(self, data: bytes) -> None:
        """To the log of the process."""
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(self._own[1], data)

    def later(self, fn: Callable[[], None]) -> None:
        """Have the thread call it in a moment: at once, or after `PAUSE` if it has just looked."""
        self._later.append(fn)
        os.write(self._waker, b"x")

    def _read(self) -> None:
        while not self._stopped.is_set():
            busy = False
            for key, _ in self._selector.select():
                if key.data is None:
                    self._call_later()
                else:
                    busy = key.data.pump() or busy
            if not busy:
                self._stopped.wait(PAUSE)

    def _call_later(self) -> None:
        for _ in range(len(os.read(self._wake, CHUNK))):
            if self._later:
                self._later.popleft()()

    def tell_deaths(self) -> None:
        """The stack of a crash in C code goes to the log of the process, where the cluster looks for it; a pipe dies with its process."""
        faulthandler.enable(file=self._own[1])

    def tell_before_exit(self) -> None:
        """`os._exit` waits until what was printed is on its way; it would be lost with the process."""
        leave = os._exit

        def told_first(status: int) -> NoReturn:
            if os.getpid() == self.pid:
                if self._open is not None:
                    self._open.end()
                    time.sleep(LAST_WORDS)
                elif self._piped:
                    flush()
            leave(status)

        os._exit = told_first


class Capture:
    """One prediction's output."""

    def __init__(self, tap: Tap, fd: int, tell: Tell) -> None:
        self._tap, self._fd, self._tell = tap, fd, tell
        self._context = contextvars.copy_context()
        self._lines = LineBlocks()
        self._lock = threading.Lock()
        self._ended = self._over = self._wide = False
        """`_over`: it is not watched any more."""

    def end(self) -> None:
        """All that was written is told. To be called where `open` was."""
        flush()
        with self._lock:
            if self._ended:
                return
            if not self._over:
                self._over = True  # first: the thread would be woken by the end of the pipe
                self._tap.unwatch(self._fd)
            self._tap.put_back()
            while data := self._read():
                self._say(self._lines.feed(data))
            self._say(self._lines.end())
            self._ended = True
            if data is None:  # a child goes on writing
                self._over = False
                self._tap.watch(self._fd, self)
            else:
                os.close(self._fd)

    def pump(self) -> bool:
        """By the reading thread: what is there, once. True if there may be a lot more."""
        with self._lock:
            if self._over:
                return False
            data = self._read()
            if data == b"":
                self._finish()
            elif data and self._ended:
                self._tap.write_own(data)
            elif data:
                self._say(self._lines.feed(data))
            full = data is not None and len(data) == CHUNK
            if full and not self._wide and _F_SETPIPE_SZ is not None:
                self._wide = True
                with contextlib.suppress(OSError):  # over the user's limit for pipes: the narrow one works as well
                    fcntl.fcntl(self._fd, _F_SETPIPE_SZ, WIDE)
            return full

    def _read(self) -> bytes | None:
        """What is there; None if nothing is, empty if nobody can write any more."""
        try:
            return os.read(self._fd, CHUNK)
        except BlockingIOError:
            return None

    def _say(self, texts: list[str]) -> None:
        for text in texts:
            self._context.run(self._tell, text)

    def _finish(self) -> None:
        """Nobody can write any more. If the capture is still open, the user's code closed the descriptors; then `end` sees it too."""
        self._over = True
        self._tap.unwatch(self._fd)
        if self._ended:
            os.close(self._fd)


def flush() -> None:
    """What Python and C hold back of what was printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (ValueError, OSError, AttributeError):  # the user's code closed or replaced it
            continue
    flush_c()


def _c_stdout() -> Callable[[], Any]:
    """`fflush(stdout)`. Not of all streams: a thread that waits for input would hold the lock of one of them."""
    try:
        library = ctypes.CDLL(None)
        stream = ctypes.c_void_p.in_dll(library, "__stdoutp" if sys.platform == "darwin" else "stdout")
        flush = library.fflush
    except (OSError, ValueError, AttributeError):
        return lambda: None  # a C library without that name: what C code holds back comes when it is full
    flush.argtypes, flush.restype = [ctypes.c_void_p], ctypes.c_int
    return lambda: flush(stream)


flush_c = _c_stdout()
