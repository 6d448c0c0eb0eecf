"""Questions to the daemon and their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from soma.actors.sharing import Port
from soma.errors import GetTimeoutError, PlacementError, SomaError
from soma.ids import DAEMON, CallIds
from soma.transport import messages as m
from soma.transport.frames import pack

_RAISED: dict[str, type[Exception]] = {"ValueError": ValueError, "PlacementError": PlacementError}


class Requests:
    """Each question has an id; its answer goes to whoever asked. `lost` is set when the daemon is gone."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._answers: dict[bytes, Callable[[m.Answer], None]] = {}
        self._asked: dict[bytes, list[bytes]] = {}
        """What `request` sent and waits for: asked again when a daemon says that it is another one."""
        self._ids = CallIds()
        self.lost: BaseException | None = None

    @property
    def open(self) -> bool:
        return bool(self._answers)

    def ask(self, then: Callable[[m.Answer], None]) -> bytes:
        """A new request id whose answer goes to `then`."""
        request = bytes(self._ids())
        self._answers[request] = then
        return request

    def on_answer(self, msg: m.Answer, frames: list[bytes]) -> None:
        if not msg.request:  # the daemon was started again; what it says to both questions is the same
            for asked in list(self._asked.values()):
                self._port.outlet.send(DAEMON, asked)
            return
        then = self._answers.pop(msg.request, None)
        if then is not None:
            if frames:
                msg.fields["body"] = frames[0]
            then(msg)

    def request(self, make: Callable[[bytes], Any], frames: Sequence[bytes] = (), timeout: float = 30.0) -> m.Answer:
        """Ask and wait; the daemon's errors are raised here."""
        got: list[m.Answer] = []
        request = self.ask(got.append)
        self._asked[request] = [pack(make(request)), *frames]
        try:
            self._port.outlet.send(DAEMON, self._asked[request])
            if not self._port.inbox.wait_until(lambda: bool(got) or self.lost is not None, timeout) or not got:
                self._answers.pop(request, None)
                raise self.lost or GetTimeoutError(f"the daemon did not answer within {timeout:g} s")
        finally:
            del self._asked[request]
        answer = got[0]
        if answer.error:
            raise _RAISED.get(answer.error, SomaError)(answer.text)
        return answer
