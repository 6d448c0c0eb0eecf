"""Limits and defaults, in one place, each with its unit.

`Limits` bounds what a peer can make this process do; `Settings` is what `soma.init()` was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

PROTOCOL_VERSION = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is accepted from a peer."""

    header_bytes: int = 64 * KIB
    header_depth: int = 8
    parts: int = 1026
    """Frames of one message, the routing id and header included."""
    message_bytes: int = 4 * GIB
    """Sum of the frames of one message; larger values go through the arena."""
    value_bytes: int = 64 * GIB
    inline_bytes: int = 256 * KIB
    """Buffers of a value at least this large go through the arena on one machine."""
    window: int = 1000
    """Calls of one handle that may be unanswered at once; the rest waits at the caller."""
    chunk_bytes: int = 512 * KIB
    """A message to another machine that is larger goes in pieces of this size; CURVE takes frames over 1 MiB half as fast."""
    tcp_frame_bytes: int = 4 * MIB
    """What one frame from another machine may have: a chunk, and room."""
    flight_bytes: int = 64 * MIB
    """Of messages to one mailbox on another machine that it has not acknowledged; what is behind them waits at the sender."""
    ack_messages: int = 64
    ack_bytes: int = MIB
    """After so many messages, or bytes, from another machine the receiver says that it has them."""
    sessions: int = 16_384
    """Senders on other machines that one mailbox remembers."""


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Settings:
    """What a cluster was asked for; travels to the daemon as JSON."""

    num_cpus: float
    num_gpus: float
    memory: int
    """Bytes that actors may reserve with `memory=`."""
    object_store_memory: int
    """Bytes of one process's arena."""
    namespace: str
    resources: dict[str, float]
    tags: tuple[str, ...] = ()
    """What this machine is marked with."""
    log_to_driver: bool = True
    start_method: str = "forkserver"
    preload: tuple[str, ...] = ()
    restart_intensity: int = 3
    """More deaths than this within `restart_period` seconds end an actor whatever `max_restarts` says."""
    restart_period: float = 30.0
    init_timeout: float = 60.0
    """Seconds a constructor may take."""
    drain_grace: float = 1.0
    """Seconds between asking a process to stop and killing it."""
