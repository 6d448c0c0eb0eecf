"""What the fault proxy does with the bytes of one connection. No thread and no clock: the time is an argument."""

from __future__ import annotations

import collections
import random
import socket
import struct
from dataclasses import dataclass

HELD = 1 << 18
PIECE = 1 << 16
SENDS = 256
"""At one turn, so that one-byte slices of one connection do not hold up the others."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Of one direction.

    Attributes:
        latency, jitter: seconds that each piece is late; the jitter is added, evenly distributed.
        rate: bytes per second at most; 0: no limit.
        slices: bytes that are sent at a time; 0: as they come.
        stalled: nothing is passed on, not even an end; both sides keep their connection. In both directions: half-open.
        cut_after: reset a connection when it has passed that many bytes in this direction.
        flip: the chance of each byte to have one of its bits turned.
    """

    latency: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    slices: int = 0
    stalled: bool = False
    cut_after: int | None = None
    flip: float = 0.0


class Pipe:
    """One direction of a connection: what was read and is not sent yet, each piece with the time when it may go."""

    def __init__(self, source: socket.socket, sink: socket.socket, seed: str) -> None:
        self.source, self.sink = source, sink
        self._lateness, self._random = random.Random(f"late {seed}"), random.Random(f"flip {seed}")
        self._queue: collections.deque[tuple[float, bytes]] = collections.deque()
        self._held = 0
        self._line_free = 0.0
        """When the last piece so far will have left, at the rate there is."""
        self._sent = 0
        self._received = 0
        self._chance, self._next_flip = 0.0, float("inf")
        self.ended = self.closed = False
        """The source sent its end; and it was passed on."""

    def wants_to_read(self, faults: Faults) -> bool:
        return not (faults.stalled or self.ended) and self._held < HELD

    def due(self, faults: Faults) -> float | None:
        """When something may be sent; None: nothing is there, or nothing may."""
        if faults.stalled or self.closed:
            return None
        if self._queue:
            return self._queue[0][0]
        return 0.0 if self.ended else None

    def read(self, faults: Faults, now: float) -> None:
        try:
            data = self.source.recv(PIECE)
        except BlockingIOError:
            return
        if not data:
            self.ended = True
            return
        self._held += len(data)
        data = self._damaged(data, faults.flip)
        at = now + faults.latency + self._lateness.uniform(0, faults.jitter)
        pieces = [data] if not faults.rate else [data[i:i + 1024] for i in range(0, len(data), 1024)]
        for piece in pieces:
            at = max(at, self._line_free)  # in order, whatever the jitter says
            if faults.rate:
                at += len(piece) / faults.rate
            self._line_free = at
            self._queue.append((at, piece))

    def write(self, faults: Faults, now: float) -> bool:
        """Send what is due. True: this connection is to be reset now."""
        for _ in range(SENDS):
            if not self._queue or self._queue[0][0] > now:
                break
            at, piece = self._queue.popleft()
            limit = faults.slices or len(piece)
            if faults.cut_after is not None:
                limit = min(limit, faults.cut_after - self._sent)
                if limit <= 0:
                    return True
            try:
                count = self.sink.send(piece[:limit])
            except BlockingIOError:
                count = 0
            if count < len(piece):
                self._queue.appendleft((at, piece[count:]))
            self._sent += count
            self._held -= count
            if count < limit:
                break  # the sink is full
        if self.ended and not self._queue and not self.closed:
            self.sink.shutdown(socket.SHUT_WR)
            self.closed = True
        return faults.cut_after is not None and self._sent >= faults.cut_after

    def _damaged(self, data: bytes, chance: float) -> bytes:
        """Which bits are turned depends on the places of the bytes only, not on how they arrived in pieces."""
        begin, self._received = self._received, self._received + len(data)
        if chance != self._chance:
            self._chance, self._next_flip = chance, begin + self._gap(chance)
        if self._next_flip >= self._received:
            return data
        damaged = bytearray(data)
        while self._next_flip < self._received:
            damaged[int(self._next_flip) - begin] ^= 1 << self._random.randrange(8)
            self._next_flip += 1 + self._gap(chance)
        return bytes(damaged)

    def _gap(self, chance: float) -> float:
        """Bytes until the next one that is damaged."""
        return int(self._random.expovariate(chance)) if chance else float("inf")


class Connection:
    """A client, the target, and a pipe each way."""

    def __init__(self, client: socket.socket, server: socket.socket, seed: str) -> None:
        self.ends = (client, server)
        for end in self.ends:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pipes = {"forward": Pipe(client, server, f"{seed} forward"), "backward": Pipe(server, client, f"{seed} backward")}

    @property
    def over(self) -> bool:
        return all(pipe.closed for pipe in self.pipes.values())

    def close(self, reset: bool) -> None:
        for end in self.ends:
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
