"""Every error soma raises, in one tree.

    SomaError
    ├── ClusterError                     the cluster as a whole
    │   ├── NotInitializedError          a verb before `init()` where no default makes sense, or after `shutdown()`
    │   ├── AlreadyInitializedError      a second `init()`
    │   ├── ClusterLostError             the daemon died; everything it ran died with it
    │   └── ForkedClientError            used in a child that the user's code forked
    ├── ActorDiedError                   the process is gone: exit code or signal, stderr, native stack, memory
    │   └── ActorInitError               its constructor failed (or exited, or timed out)
    ├── ActorTaskError                   stands in for a user's exception that could not travel
    ├── TaskCancelledError               somebody cancelled the call
    ├── GetTimeoutError                  also a TimeoutError: the caller's own limit passed
    ├── DeadlockError                    a cycle of waits; the message names it
    ├── PlacementError                   no machine could ever satisfy the request
    ├── PendingCallsLimitExceeded        `max_pending_calls` of a handle is reached
    ├── ObjectLostError                  the process that owned a value died, or the value was freed
    ├── NotSerializableError             also a TypeError: names the attribute path at fault
    │   ├── ArgumentNotSerializableError     raised at the call, before anything is sent
    │   └── ResultNotSerializableError       the actor lives and serves its next call
    ├── DecodeError                      bytes arrived, but unpickling them failed
    ├── ProtocolError                    a message breaks the wire format
    │   └── VersionMismatchError         names both versions
    ├── SecurityError                    a wrong owner, mode or address; refuses to start
    ├── ObjectTooLargeError              over the configured size of one value
    ├── GraphError                       also a ValueError: a graph that cannot be; the message names the nodes
    │   └── SchemaError                  a value, or what one node gives and the next wants, does not fit a declared schema
    ├── NotFittedError                   also a ValueError: a filter that learns has not learned yet
    ├── StreamBrokenError                a stream cannot go on: processes died more often than allowed, or chunks are not kept any more
    ├── IdentityError                    also a TypeError: something cannot be hashed stably; the message names the part
    ├── EnvironmentBuildError            packages that an actor or job asked for cannot be had; ends with what uv said
    ├── ArchiveError                     also a ValueError: files that cannot be packed or unpacked
    ├── JobError                         no such job, or it has not what was asked for
    ├── StudyError                       a study cannot be opened, run or read as asked
    │   └── SpaceError                       also a ValueError: a search space that cannot be; names the dimension
    ├── TrainingError                    training together went wrong
    │   ├── GroupBrokenError             a member of a group is gone: nobody's collective call can finish
    │   ├── NonFiniteError               a gradient, or what a client gave, is NaN or infinite; says whose and which
    │   ├── StateMismatchError           also a ValueError: states that cannot be combined; names path and owner
    │   └── QuorumError                  too few clients answered
    └── CacheError                       the cache cannot be used: an unsafe directory, another format, an unknown pin
        ├── CacheMissError               an entry is gone or damaged: the value must be made again
        └── CacheFullError               no room to store a value

A user's own exception is *not* in this tree: it arrives as itself, with the remote traceback as its `__cause__`
(a `RemoteTraceback`) and a note naming actor and node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from soma.errors.causes import UNKNOWN_CAUSE as UNKNOWN_CAUSE
from soma.errors.causes import DeathCause as DeathCause
from soma.errors.graphs import GraphError as GraphError
from soma.errors.graphs import IdentityError as IdentityError
from soma.errors.graphs import NotFittedError as NotFittedError
from soma.errors.graphs import SchemaError as SchemaError
from soma.errors.graphs import StreamBrokenError as StreamBrokenError
from soma.errors.root import SomaError as SomaError

Executed = Literal["no", "maybe"]


class ClusterError(SomaError):
    """The cluster as a whole."""


class NotInitializedError(ClusterError, RuntimeError):
    """No cluster is running in this process."""


class AlreadyInitializedError(ClusterError, RuntimeError):
    """`soma.init()` was called while a cluster is running."""


class ClusterLostError(ClusterError):
    """The daemon died, and with it every actor."""


class ForkedClientError(ClusterError, RuntimeError):
    """A child made by `fork` used the cluster of its parent."""


@dataclass(eq=False)
class ActorDiedError(SomaError):
    """The actor's process is gone, and with it this call.

    `executed` says what is known of the call: "no" (it never began; repeating it is safe) or "maybe".
    `cause` explains the death; `history` lists earlier deaths when restarts were spent.
    """

    actor: str
    cause: DeathCause = UNKNOWN_CAUSE
    executed: Executed = "maybe"
    history: tuple[DeathCause, ...] = field(default=())

    def __post_init__(self) -> None:
        Exception.__init__(self, self.actor, self.cause, self.executed, self.history)

    @property
    def signal(self) -> str | None:
        return self.cause.signal

    @property
    def exit_code(self) -> int | None:
        return self.cause.exit_code

    @property
    def reason(self) -> str:
        return self.cause.reason

    def __str__(self) -> str:
        text = f"{self.actor} died: {self.cause.describe()}"
        if self.history:
            text += "\nbefore that: " + "; ".join(c.describe().splitlines()[0] for c in self.history)
        said = {"no": "this call was never begun", "maybe": "this call may have run, wholly or in part"}[self.executed]
        return f"{text}\n({said})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.actor, self.cause, self.executed, self.history)


class ActorInitError(ActorDiedError):
    """The constructor failed; `cause.detail` carries the original text, `__cause__` the original exception if it could travel."""


class ActorTaskError(SomaError):
    """Stands in for an exception that could not be pickled or unpickled.

    `type_name`, `message` and `traceback_text` are those of the original.
    """

    def __init__(self, type_name: str, message: str, traceback_text: str, why: str = "") -> None:
        super().__init__(type_name, message, traceback_text, why)
        self.type_name, self.message, self.traceback_text, self.why = type_name, message, traceback_text, why

    def __str__(self) -> str:
        why = f"\n(it arrives as ActorTaskError because {self.why})" if self.why else ""
        return f"{self.type_name}: {self.message}{why}\n\n{self.traceback_text}"


class RemoteTraceback(Exception):
    """The traceback as the actor saw it; the `__cause__` of a user's exception. Never raised by itself."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return "\n\n" + self.text


class TaskCancelledError(SomaError):
    """The call was cancelled before it ended."""


class GetTimeoutError(SomaError, TimeoutError):
    """The caller's own limit passed; the call goes on."""


class DeadlockError(SomaError):
    """Actors wait for each other in a cycle; none of them could ever go on."""


class PlacementError(SomaError):
    """What was asked for exceeds what exists."""


class PendingCallsLimitExceeded(SomaError):
    """A handle already has `max_pending_calls` unanswered calls."""


class ObjectLostError(SomaError):
    """A value cannot be had any more: its owner died or freed it."""


class NotSerializableError(SomaError, TypeError):
    """A value cannot be pickled; `path` says which part of it, e.g. `args[0].net._lock`."""

    def __init__(self, path: str, problem: str, hint: str = "") -> None:
        super().__init__(path, problem, hint)
        self.path, self.problem, self.hint = path, problem, hint

    def __str__(self) -> str:
        return f"{self.path} cannot be sent to another process: {self.problem}" + (f" ({self.hint})" if self.hint else "")


class ArgumentNotSerializableError(NotSerializableError):
    """An argument; nothing was sent."""


class ResultNotSerializableError(NotSerializableError):
    """A result; the method did run."""


class DecodeError(SomaError):
    """Unpickling failed in the receiving process."""


class ProtocolError(SomaError):
    """A message that breaks the wire format; refused before anything in it is used."""


class VersionMismatchError(ProtocolError):
    """The peer speaks another version of the protocol."""


class SecurityError(SomaError):
    """Something that must be private is not."""


class ObjectTooLargeError(SomaError):
    """A single value over the configured limit."""


class TrainingError(SomaError):
    """Training together went wrong."""


class GroupBrokenError(TrainingError):
    """A member of a group of ranks is gone, so no collective call of this generation can finish. Nothing of the call was applied."""


class NonFiniteError(TrainingError, ArithmeticError):
    """A gradient or an update holds NaN or infinity; the message says of which parameter and which rank or client."""


class StateMismatchError(TrainingError, ValueError):
    """States that cannot be combined: other keys, shapes or types. The message names the path and whose state it is."""


class QuorumError(TrainingError):
    """Fewer clients gave an update than the round needs; the message names those that did not, and why."""


class CacheError(SomaError):
    """The cache cannot be used as asked."""


class CacheMissError(CacheError):
    """An entry that was there is gone, or its bytes are damaged; it was removed, and the value must be made again."""


class CacheFullError(CacheError):
    """The disk has no room for a value; nothing of it was stored."""


class EnvironmentBuildError(SomaError):
    """An environment could not be made; the message ends with the last lines of what tried. Nothing else is used in its place."""


class ArchiveError(SomaError, ValueError):
    """Files that cannot be packed or unpacked: a path that leaves its directory, a device, too many, too large. Nothing was kept."""


class JobError(SomaError):
    """There is no such job, the actor that kept it is gone, or it has not what was asked for."""


class StudyError(SomaError):
    """A study cannot be opened, run or read as asked: another one has its name, its storage is not there, nothing has completed yet."""


class SpaceError(StudyError, ValueError):
    """A search space that cannot be; the message names the dimension."""
