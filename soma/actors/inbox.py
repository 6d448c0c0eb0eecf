"""Reading the mailbox: whoever waits, reads. No thread of its own unless nobody waits and somebody must.

A thread that waits for something becomes the reader if there is none; it handles what comes for everybody and wakes the
others. That saves two thread switches per call against a reader thread. The pump is the reader of last resort: it runs only
while `needed()` says that unread messages matter to somebody (a callback, a queue to be sent) and no thread is in a wait.
An event loop may take the pump's place (see `attending`): callbacks for that loop then cost no thread switch at all.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from soma.errors import ClusterLostError
from soma.transport.endpoint import Mailbox

STAND_BY = 0.005
"""Seconds without a look by anybody else after which the pump reads for calls that merely wait for room."""
OVERTIME = 0.05
"""Seconds for which what has arrived is still read when a wait's time is over; a flood must not keep it for ever."""


class Inbox:
    """One mailbox, its readers, and the messages that are held back until everything else was read.

    Signals must not raise in here but where it waits: see `interrupts`.
    """

    def __init__(self, mailbox: Mailbox, handle: Callable[[list[bytes]], None], needed: Callable[[], bool],
                 urgent: Callable[[], bool] | None = None) -> None:
        self._mailbox = mailbox
        self._handle = handle
        self._needed = needed
        self._urgent = urgent or needed
        self._turn = threading.Condition(threading.Lock())
        self._reader: int | None = None
        self._followers = 0
        self.late: list[Callable[[], None]] = []
        """To be done when the mailbox is empty: deaths, after every reply that came before them."""
        self._pump: threading.Thread | None = None
        self._pump_event = threading.Event()
        self._pump_stands_by = False
        self._looks = 0
        """How often somebody came to read."""
        self._attendant: Callable[[], None] | None = None
        """Asks the event loop that reads instead of the pump to look."""
        self._closed = False
        self._busy = False
        """More messages were there at the last look: take them without polling for each."""

    def wait_until(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        """Read and handle messages until `done()`; False if `timeout` seconds pass first."""
        if done():
            return True
        self._looks += 1
        if self._reader == threading.get_ident():  # what this thread has read made it call somebody who waits: go on reading below him
            return self._read_until(done, None if timeout is None else time.monotonic() + timeout)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._turn:
                self._followers += 1  # before looking: a reader that sees 0 here has settled what `done` looks at
                try:
                    while self._reader is not None:
                        if done():
                            return True
                        left = None if end is None else end - time.monotonic()
                        if left is not None and left <= 0:
                            return False
                        self._check_open()
                        self._turn.wait(left)
                finally:
                    self._followers -= 1
                self._reader = threading.get_ident()
            try:
                return self._read_until(done, end)
            finally:
                self._stand_down()

    def _read_until(self, done: Callable[[], bool], end: float | None) -> bool:
        box, handle = self._mailbox, self._handle
        while not done():
            frames = None
            if self._busy:
                frames = box.take_nowait()
            if frames is None:
                self._busy = bool(self.late) and box.poll(0)
                if self._busy:
                    continue
                if self.late:
                    self._do_late()
                    self._tell()
                    continue
                left = None if end is None else max(0.0, end - time.monotonic())  # also with none left: what is there is read
                self._check_open()
                if not box.poll(left):
                    if left == 0.0:
                        return done()
                    continue
                frames = box.take()
                self._busy = box.ready()
            handle(frames)
            if self._followers:
                self._tell()
            if end is not None and time.monotonic() > end + OVERTIME:
                return done()
        return True

    def _stand_down(self) -> None:
        self._release()
        if self._attendant is not None:  # what is left, and the sign that it came, may have been seen here
            self._attendant()

    def _release(self) -> None:
        with self._turn:
            self._reader = None
            if self._followers:
                self._turn.notify_all()

    def _do_late(self) -> None:
        while self.late:
            self.late.pop(0)()

    def _tell(self) -> None:
        if self._followers:
            with self._turn:
                self._turn.notify_all()

    def wake(self) -> None:
        """Something that a waiter may wait for changed without a message."""
        self._mailbox.wake()
        self._tell()

    def drain(self) -> None:
        """Handle what has arrived, if nobody else reads; never waits."""
        self._looks += 1
        if self._begin():
            try:
                self._handle_some()
            finally:
                self._stand_down()

    def _begin(self) -> bool:
        """Become the reader, if there is none."""
        with self._turn:
            if self._reader is None:
                self._reader = threading.get_ident()
                return True
            return False

    def _handle_some(self) -> bool:
        """False if there may be more."""
        for _ in range(64):
            frames = self._mailbox.take_nowait()
            if frames is not None:
                self._handle(frames)
                if self._mailbox.ready():  # at a third of what it costs to hear that nothing is there to be taken
                    continue
            self._do_late()
            return True
        return False

    # -- the event loop ------------------------------------------------------------------------------------------------

    def attend(self, look: Callable[[], None] | None) -> bool:
        """From now on an event loop reads, instead of the pump, whenever no thread waits. With None the pump is back.

        Args:
            look: has the loop call `read_now` soon; called from any thread, also after the loop has ended.

        Returns:
            False if another loop does that already.
        """
        with self._turn:
            if look is not None and self._attendant is not None:
                return False
            self._attendant = look
        if look is None:
            self.poke_pump()
        else:
            self._mailbox.wake()  # the pump, if it reads
            look()
        return True

    def read_now(self) -> None:
        """Called in the loop's thread when the mailbox's descriptor says that something came, and when it was asked to look."""
        if self._closed or not self._begin():
            return  # whoever reads asks to look again when he is done
        done = False
        try:
            done = self._handle_some()
        finally:
            self._release()
            if not done and self._attendant is not None:
                self._attendant()

    # -- the pump ------------------------------------------------------------------------------------------------------

    def poke_pump(self, *, urgent: bool = True) -> None:
        """There may be a need for a reader while nobody waits. Not `urgent`: whoever asks reads now and then himself."""
        if self._attendant is not None:
            return
        if self._pump is None:
            self._pump = threading.Thread(target=self._pump_loop, name="soma-pump", daemon=True)
            self._pump.start()
        if urgent or not self._pump_stands_by:
            self._pump_event.set()

    def _pump_loop(self) -> None:
        while True:
            self._pump_event.wait()
            self._pump_event.clear()
            self._stand_by()
            if self._closed:
                return
            with contextlib.suppress(ClusterLostError):  # closed between its look at that and its next wait
                self.wait_until(lambda: self._closed or self._attendant is not None or not self._needed())

    def _stand_by(self) -> None:
        """Leave the reading to a thread that makes calls and reads in between, as long as it does: two would only take turns."""
        self._pump_stands_by = True
        while not self._closed and self._attendant is None and not self._urgent() and self._needed():
            seen = self._looks
            if not self._pump_event.wait(STAND_BY) and self._looks == seen:
                break
            self._pump_event.clear()
        self._pump_stands_by = False

    def close(self) -> None:
        """End all waits, and wait until nobody reads any more: then the mailbox may be closed."""
        self._closed = True
        self._pump_event.set()
        self.wake()
        if self._pump is not None and self._pump is not threading.current_thread():
            self._pump.join()
        with self._turn:
            self._followers += 1
            while self._reader is not None and self._reader != threading.get_ident():
                self._turn.wait()
            self._followers -= 1

    def _check_open(self) -> None:
        if self._closed:
            raise ClusterLostError("soma.shutdown() was called")
