"""Task actors: functions run on processes lent by the daemon, one task at a time each.

The daemon lends a worker when its CPU is free, and another when a lent one blocks in `get`; so nested tasks cannot starve.
`TaskPool` queues this process's tasks by what they need, asks for workers, and returns those it has no work for.
"""

from __future__ import annotations

import functools
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from soma.actors.caller import Caller
from soma.actors.calls import Link, Pending
from soma.actors.methods import MethodSpec
from soma.actors.options import Options
from soma.actors.refs import ObjectRefGenerator
from soma.actors.sharing import Port, Sharing
from soma.errors import ActorDiedError, Executed, PlacementError, TaskCancelledError
from soma.ids import DAEMON, ActorId, CallId
from soma.transport import messages as m
from soma.transport.codec import Packed, decode, encode
from soma.transport.frames import pack

_ASKS = 32
"""Requests for workers of one kind that may be open at once."""


class TaskWorker:
    """What runs in a task actor's process: functions by value, the recent ones kept unpickled."""

    def __init__(self) -> None:
        self.task = ""
        """What runs, for messages."""
        self._known: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()

    def run(self, blob: bytes, /, *args: Any, **kwargs: Any) -> Any:
        fn = self._known.get(blob)
        if fn is None:
            fn = self._known[blob] = decode(blob, ())
            if len(self._known) > 64:
                self._known.popitem(last=False)
        self.task = f"task {fn.__name__}"
        return fn(*args, **kwargs)


@dataclass(slots=True)
class Lease:
    """A worker on loan: what it is for and what it runs."""

    shape: str
    call: CallId | None = None


class TaskPool:
    """This process's tasks."""

    def __init__(self, port: Port, sharing: Sharing, caller: Caller,
                 ask: Callable[[Callable[[m.Answer], None]], bytes]) -> None:
        self._port, self._sharing, self._caller, self._ask = port, sharing, caller, ask
        self._queues: dict[str, deque[Pending]] = {}
        self._shapes: dict[str, dict[str, Any]] = {}
        self._leases: dict[ActorId, Lease] = {}
        self._asked: dict[bytes, str] = {}
        self._shape_of: dict[CallId, str] = {}
        self._blobs: weakref.WeakKeyDictionary[Callable[..., Any], Packed] = weakref.WeakKeyDictionary()

    @property
    def backlog(self) -> bool:
        return bool(self._asked) or any(self._queues.values())

    def submit(self, fn: Callable[..., Any], spec: MethodSpec, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options,
               needs: dict[str, Any]) -> Any:
        packed = self._blobs.get(fn)
        if packed is None:
            packed = encode(fn, path=spec.name)
            self._blobs[fn] = packed
        returns = options.num_returns
        call = self._caller.prepare("run", (packed.body, *args), kwargs, returns, options.max_retries, options)
        call.label = f"task {spec.name}"
        if packed.notes:
            call.parcel.notes = (*call.parcel.notes, *packed.notes)
        shape = repr(sorted(needs.items()))
        with self._port.lock:
            self._shapes[shape] = needs
            refs = [self._sharing.new_ref(id, "", call.deadline) for id in call.returns]
            stream: ObjectRefGenerator[Any] | None = self._caller.streams.open(call, "") if call.streams else None
            self._shape_of[call.call_id] = shape
            self._queues.setdefault(shape, deque()).append(call)
            self._flow(shape)
        if stream is not None:
            return stream
        return refs[0] if returns == 1 else refs or None

    def _flow(self, shape: str) -> None:
        """Give idle workers work; ask for more, or return them. The lock is held."""
        queue = self._queues[shape]
        for actor, lease in list(self._leases.items()):
            if lease.shape != shape or lease.call is not None:
                continue
            if queue:
                self._start(actor, lease, queue.popleft())
            else:
                del self._leases[actor]
                self._port.outlet.send(DAEMON, [pack(m.ReturnWorker(self._port.me, actor, b""))])
        open_asks = [r for r, s in self._asked.items() if s == shape]
        for _ in range(min(_ASKS, len(queue)) - len(open_asks)):
            request = self._ask(functools.partial(self._granted, shape))
            self._asked[request] = shape
            self._port.outlet.send(DAEMON, [pack(m.LeaseWorker(request, self._port.me, self._shapes[shape]))])
            self._port.inbox.poke_pump()
        for request in open_asks[len(queue):]:
            del self._asked[request]
            self._port.outlet.send(DAEMON, [pack(m.ReturnWorker(self._port.me, "", request))])

    def _start(self, actor: ActorId, lease: Lease, call: Pending) -> None:
        lease.call = call.call_id
        self._caller.launch(self._caller.link(actor, None), call)

    def _granted(self, shape: str, answer: m.Answer) -> None:
        with self._port.lock:
            wanted = self._asked.pop(answer.request, None)
            if answer.error:
                for call in self._queues[shape]:
                    self._settle(call, PlacementError(f"{call.label}: {answer.text}"))
                self._queues[shape].clear()
                return
            actor = ActorId(str(answer.fields["actor"]))
            self._leases[actor] = Lease(shape)
            del wanted
            self._flow(shape)

    def on_settled(self, call: Pending, link: Link) -> None:
        """A task ended: its worker is free."""
        shape = self._shape_of.pop(call.call_id, None)
        lease = self._leases.get(link.actor)
        if shape is not None and lease is not None and lease.call == call.call_id:
            lease.call = None
            self._flow(shape)

    def on_lost(self, call: Pending, link: Link, executed: Executed) -> bool:
        """A worker died with a task: run it elsewhere if it never began or may be repeated."""
        shape = self._shape_of.get(call.call_id)
        if shape is None:
            return False
        self._leases.pop(link.actor, None)
        ended = link.cause is not None and link.cause.reason in ("shutdown", "cancelled")
        if not ended and (call.retries != 0 or executed == "no"):
            if executed != "no":
                Link._spend(call)
            self._queues[shape].appendleft(call)
        else:
            del self._shape_of[call.call_id]
            error: BaseException = TaskCancelledError(f"{call.label} was cancelled") if link.cause and link.cause.reason == "cancelled" \
                else ActorDiedError(call.label, link.cause or ActorDiedError("").cause, executed, ())
            self._settle(call, error)
        self._flow(shape)
        return True

    def _settle(self, call: Pending, error: BaseException) -> None:
        self._shape_of.pop(call.call_id, None)
        self._caller.settle_all(call, error)

    def give_up(self, actor: ActorId) -> None:
        """This worker is about to be killed: it gets no further task. The lock is held."""
        lease = self._leases.pop(actor, None)
        if lease is not None:
            self._flow(lease.shape)

    def cancel(self, call_id: CallId) -> bool:
        """Drop a task that has no worker yet."""
        with self._port.lock:
            shape = self._shape_of.get(call_id)
            for call in self._queues.get(shape or "", ()):
                if call.call_id == call_id:
                    self._queues[shape or ""].remove(call)
                    self._settle(call, TaskCancelledError(f"{call.label} was cancelled before it began"))
                    self._flow(shape or "")
                    return True
            return False

    def fail_everything(self, error: BaseException) -> None:
        with self._port.lock:
            for queue in self._queues.values():
                for call in queue:
                    self._settle(call, error)
                queue.clear()
            self._asked.clear()


