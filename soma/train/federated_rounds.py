"""The rounds as the driver sees them: who learns in which process, what became of each, and when to go on without the rest.

Updates go from the client's process to the aggregator's through shared memory; here only their samples and metrics pass. Whatever becomes
of a client ends its part in the round: it answers, raises, dies with its process, or is still at it at the deadline, and then its process
is ended, for nothing else stops code that hangs. The aggregator's end ends the run.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from soma import cluster
from soma.actors.handle import ActorHandle
from soma.actors.refs import ObjectRef
from soma.errors import ActorDiedError, ClusterError, GroupBrokenError, ObjectLostError, QuorumError
from soma.train.aggregator import Aggregator, Closed, TorchAggregator
from soma.train.federated_clients import ClientHost, Task, TorchClientHost

GONE = 2.0
"""Seconds that ended processes have to be gone."""

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Client:
    """A client: how it learns, and from what, under refs."""

    name: str
    learner: ObjectRef[Any]
    data: tuple[ObjectRef[Any], ...] = ()


@dataclass(slots=True)
class Outcome:
    """What became of a round. `state` is a ref: the new state lies in the aggregator's process."""

    state: ObjectRef[Any]
    closed: Closed
    metrics: Mapping[str, Mapping[str, float]]
    seconds: float


class Hosts:
    """The processes that clients learn in. One that ended is replaced when the next round begins, or sooner if it is needed.

    Args:
        many: how many.
        num_cpus: of each.
        tell: gets what clients report while they learn.
        torch: whether they need it.
    """

    def __init__(self, many: int, num_cpus: float, tell: Tell, *, torch: bool) -> None:
        self._made_of = cluster.remote(TorchClientHost if torch else ClientHost).options(num_cpus=num_cpus)
        self._tell = tell
        self._learners: Sequence[ObjectRef[Any]] = ()
        self._free: list[ActorHandle[ClientHost] | None] = [None] * many
        self._busy: dict[ObjectRef[Any], ActorHandle[ClientHost]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        end([h for h in (*self._free, *self._busy.values()) if h is not None])
        self._free.clear()
        self._busy.clear()

    def warm(self, learners: Sequence[ObjectRef[Any]] | None = None) -> None:
        """Start the processes that are missing, side by side, and have them import what the learners need: no deadline runs meanwhile.
        What fails here fails again when a client learns, and counts there."""
        self._learners = self._learners if learners is None else learners
        fresh = [self._made_of.remote() for host in self._free if host is None]
        self._free = [*fresh, *(host for host in self._free if host is not None)]
        if fresh:
            cluster.wait([h.ready.remote(*self._learners) for h in fresh], num_returns=len(fresh))

    @property
    def free(self) -> bool:
        return bool(self._free)

    def learn(self, client: Client, task: Task, state: Any) -> tuple[ObjectRef[Any], ObjectRef[Any]]:
        """Let a client learn; (its update, what it says of it)."""
        host = self._free.pop() or self._made_of.remote()
        call = host.learn.options(num_returns=2, listener=self._tell)
        update, said = call.remote(task, client.learner, state, *client.data)
        self._busy[said] = host
        return update, said

    def done(self, said: ObjectRef[Any]) -> None:
        """A call ended; its process is free for another."""
        self._free.append(self._busy.pop(said))

    def lost(self, said: ObjectRef[Any]) -> None:
        """A call's process is gone, or has to go."""
        end([self._busy.pop(said)])
        self._free.append(None)


def end(handles: Sequence[ActorHandle[Any]]) -> None:
    """End processes, and wait until what they reserved is free."""
    with contextlib.suppress(ClusterError):  # a cluster that is gone took them along
        if handles and cluster.is_initialized():
            for handle in handles:
                cluster.kill(handle)
            cluster.wait([h.ready.remote() for h in handles], num_returns=len(handles), timeout=GONE)


class Server:
    """The aggregator's process."""

    def __init__(self, *args: Any, torch: bool, **kwargs: Any) -> None:
        made_of = cluster.remote(TorchAggregator if torch else Aggregator).options(concurrency_groups={"watch": 1})
        self.handle: ActorHandle[Aggregator] = made_of.remote(*args, **kwargs)
        self.watch: list[ObjectRef[Any]] = []

    def __enter__(self) -> Self:
        with self.explained():
            if cluster.get(self.handle.pid.remote()) != os.getpid():  # with init(local=True) it is this very process
                self.watch = [self.handle.watch.remote()]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(ClusterError):
            if cluster.is_initialized():
                cluster.kill(self.handle)
                cluster.wait([self.handle.pid.remote()], timeout=GONE)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Inside, the aggregator's death is a GroupBrokenError."""
        try:
            yield
        except ActorDiedError as e:
            raise GroupBrokenError(f"the aggregator is gone, and with it the state and the open round: {e}") from e


@dataclass(slots=True)
class Round:
    """One round while it goes on."""

    number: int
    hosts: Hosts
    server: Server
    deadline: float | None
    seed: int | None
    metrics: dict[str, Mapping[str, float]] = field(default_factory=dict)
    first_error: BaseException | None = None
    _learning: dict[ObjectRef[Any], tuple[Client, ObjectRef[Any]]] = field(default_factory=dict)
    _adding: dict[ObjectRef[Any], str] = field(default_factory=dict)
    _repeated: set[str] = field(default_factory=set)

    def play(self, clients: Sequence[Client], quorum: int, state: Any) -> Outcome:
        """Let the clients learn from `state` (a value or a ref), and close the round.

        Raises:
            QuorumError: too few updates; the cause is the first error that a client raised.
            GroupBrokenError: the aggregator died.
            StateMismatchError, NonFiniteError: of an update.
        """
        self.hosts.warm()
        began = time.monotonic()
        until = None if self.deadline is None else began + self.deadline
        aggregator = self.server.handle
        with self.server.explained():
            cluster.get(aggregator.begin.remote(self.number, tuple(c.name for c in clients), quorum))
            queue = deque(clients)
            while queue or self._learning or self._adding:
                if until is not None and time.monotonic() >= until and (queue or self._learning):
                    self._give_up(queue)
                while queue and self.hosts.free:
                    self._start(queue.popleft(), state)
                if self._learning or self._adding:  # at the deadline all may have been settled
                    self._settle(self._wait(until), queue)
            try:
                new, closed = aggregator.close.options(num_returns=2).remote(self.number)
                return Outcome(new, cluster.get(closed), self.metrics, time.monotonic() - began)
            except QuorumError as e:
                raise e from self.first_error

    def _start(self, client: Client, state: Any) -> None:
        update, said = self.hosts.learn(client, Task(client.name, self.number, self.seed), state)
        self._learning[said] = (client, update)

    def _wait(self, until: float | None) -> list[ObjectRef[Any]]:
        waited = [*self._learning, *self._adding, *self.server.watch]
        left = None if until is None or not self._learning else max(0.0, until - time.monotonic())
        settled, _ = cluster.wait(waited, num_returns=1, timeout=left)
        if settled:  # whatever else is there by now
            settled, _ = cluster.wait(waited, num_returns=len(waited), timeout=0)
        return settled

    def _settle(self, settled: Sequence[ObjectRef[Any]], queue: deque[Client]) -> None:
        for ref in settled:
            if ref in self._learning:
                self._learnt(ref, queue)
            elif ref in self._adding:
                self._added(ref)
            else:
                cluster.get(ref)  # the watch ended: raises the aggregator's death

    def _learnt(self, said: ObjectRef[Any], queue: deque[Client]) -> None:
        client, update = self._learning.pop(said)
        try:
            samples, metrics = cluster.get(said)
        except ActorDiedError as e:
            e.with_traceback(None)  # its frames hold this ref, and the ref holds it; those that matter are the client's, in its cause
            self.hosts.lost(said)
            if e.executed == "no" and client.name not in self._repeated:
                self._repeated.add(client.name)  # the process ended before: another one, once
                queue.appendleft(client)
            else:
                self._leave_out(client.name, e)
            return
        except ClusterError:
            raise
        except Exception as e:  # the client's own
            e.with_traceback(None)
            self.hosts.done(said)
            self._leave_out(client.name, e)
            return
        self.hosts.done(said)
        self.metrics[client.name] = metrics
        self._adding[self.server.handle.add.remote(self.number, client.name, samples, update)] = client.name

    def _added(self, ref: ObjectRef[Any]) -> None:
        client = self._adding.pop(ref)
        try:
            cluster.get(ref)
        except ObjectLostError as e:  # its process died after it had answered
            e.with_traceback(None)
            self._leave_out(client, e)

    def _give_up(self, queue: deque[Client]) -> None:
        """The deadline passed."""
        if self._learning:  # who was done by then
            self._settle(cluster.wait([*self._learning], num_returns=len(self._learning), timeout=0)[0], queue)
        while self._adding:  # what was answered in time counts, and may still lie in a process that is ended now
            self._settle(cluster.wait([*self._adding, *self.server.watch])[0], queue)
        for said, (client, _) in list(self._learning.items()):
            self.hosts.lost(said)
            self._leave_out(client.name, f"not done at the deadline of {self.deadline:g} s")
        self._learning.clear()
        for client in queue:
            self._leave_out(client.name, f"not begun at the deadline of {self.deadline:g} s")
        queue.clear()

    def _leave_out(self, client: str, why: str | BaseException) -> None:
        if isinstance(why, BaseException):
            self.first_error = self.first_error or why
            why = str(why).splitlines()[0] if isinstance(why, ActorDiedError) else f"{type(why).__name__}: {why}"
        self.metrics.pop(client, None)
        self._adding[self.server.handle.leave_out.remote(self.number, client, why)] = client
