"""A graph's processes: which node runs where, the actors, and which states they hold.

Actors are made when a node is first run, and made anew when one that died is needed again. What a node has learnt lies in its actor;
beside that, as its filter asks (`max_retries`) or the cache allows, under a ref or in the cache, so that it survives the actor.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from soma import cluster
from soma.actors.handle import ActorHandle
from soma.actors.refs import ObjectRef
from soma.errors import ActorDiedError, CacheMissError, ClusterError
from soma.filters import FilterActor, Stored, options_of
from soma.graph.placement import Placed, place, release
from soma.graph.plan import Plan
from soma.graph.steps import Branch
from soma.store import Cache, Hit

Handle = ActorHandle[FilterActor]

GONE = 2.0
"""Seconds that killed processes have to be gone."""


@dataclass(slots=True)
class Held:
    """What a unit (a node, or a group that is trained as one) has learnt, and where that is.

    Attributes:
        digest: of the state; "" without a cache.
        hit: where the cache has it.
        ref: a copy that survives the actor.
        inside: the actor that holds it.
        lost: its actor died, and there was no copy.
        gone: the cache had it, and has not any more.
    """

    digest: str = ""
    hit: Hit | None = None
    ref: ObjectRef[Any] | None = None
    inside: str = ""
    lost: bool = False
    gone: bool = False


class Processes:
    """Of one graph."""

    def __init__(self, plan: Plan, filters: Mapping[str, Any], cache: Cache | None, wait: float) -> None:
        self._plan, self.filters, self._cache, self._wait = plan, filters, cache, wait
        self._owner = f"graph-{secrets.token_hex(6)}"
        self._lock = threading.RLock()
        self._placed: dict[str, Placed] | None = None
        self._handles: dict[str, Handle] = {}
        self._plans: dict[str, Plan] = {n.id: p for p in plan.plans() for n in p.nodes}
        self._optional = {n.id for p in plan.plans() for b in p.nodes if isinstance(b.inner, Branch) for _, arm in b.inner.arms
                          for n in arm.filters()}
        self._asked: list[ObjectRef[Any]] = []
        """What the scheduler was asked and has not answered."""
        self.states: dict[str, Held] = {}
        self.schedule = ""
        """What the scheduler decided, replayable: lines of JSON."""

    # -- where things run ------------------------------------------------------------------------------------------------------

    def plan_of(self, node: str) -> Plan:
        """The plan (the graph's, or one inside a loop or branch) that a node belongs to."""
        return self._plans[node]

    def unit(self, node: str) -> tuple[str, ...]:
        return self._plans[node].group(node)

    def placements(self) -> dict[str, Placed]:
        """Where each filter runs, by node; decides it, if that was not done yet.

        Raises:
            PlacementError: it cannot run anywhere, or not now.
        """
        with self._lock:
            if self._placed is None:
                self._placed, self.schedule = place(self._owner, self._plan, self.filters, self._wait, self._asked)
            return self._placed

    def ask_no_more(self) -> None:
        """Whoever waits for what others hold gets `TaskCancelledError`. From any thread."""
        for ref in tuple(self._asked):
            cluster.cancel(ref)

    def handle(self, first: str) -> Handle:
        """The actor that runs a unit; made if there is none."""
        with self._lock:
            placed = self.placements()[first]
            found = self._handles.get(placed.process)
            return found if found is not None else self._start(placed)

    def start(self, firsts: Iterable[str]) -> None:
        """Make the actors of all of these at once, so that they come up side by side."""
        for first in firsts:
            self.handle(first)

    def _start(self, placed: Placed) -> Handle:
        filters, groups = self._hosted_by(placed.process)
        spec = self._cache.spec if self._cache is not None and self._cache.spec.path is not None else None
        options = {"name": placed.process, **placed.options}
        actor: Handle = cluster.remote(FilterActor).options(**options).remote(filters, groups, spec)
        self._handles[placed.process] = actor
        return actor

    def _hosted_by(self, process: str) -> tuple[dict[str, Any], dict[str, list[tuple[str, tuple[str, ...]]]]]:
        """The filters of a process, and the groups among them."""
        together = [id for id, p in self.placements().items() if p.process == process]
        groups = {}
        for id in together:
            plan = self._plans[id]
            if plan.is_composite(id) and plan.group(id)[0] == id:
                groups[id] = [(m, plan.node(m).inputs) for m in plan.group(id)]
        return {id: self.filters[id] for id in together}, groups

    def exchange(self, plan: Plan, filters: Mapping[str, Any]) -> None:
        """Run other filters, of a plan of the same shape, in the processes that there are. What was learnt is forgotten.

        Raises:
            Exception: one of them cannot come to its process; then the processes are of no use any more.
        """
        with self._lock:
            self._plan, self.filters, self.states = plan, filters, {}
            self._plans = {n.id: p for p in plan.plans() for n in p.nodes}
            taken = [handle.load.remote(*self._hosted_by(process)) for process, handle in self._handles.items()]
        cluster.get(taken)

    def died(self, first: str, handle: Handle) -> None:
        """A unit's actor died: the next use makes another. What only it held is lost."""
        with self._lock:
            if self._placed is not None:
                self._gone(self._placed[first].process, handle)

    def _gone(self, process: str, handle: Handle) -> None:
        if self._handles.get(process) is not handle:
            return  # somebody else saw it first
        del self._handles[process]
        for held in self.states.values():
            if held.inside == handle.actor_id:
                held.inside = ""
                held.lost = held.hit is None and held.ref is None

    def look(self, seconds: float) -> None:
        """Find out which actors are gone. Those that are busy for longer than this are not."""
        asked = {handle.pid.remote(): (process, handle) for process, handle in self.running.items()}
        if not asked:
            return
        settled, _ = cluster.wait(list(asked), num_returns=len(asked), timeout=seconds)
        for ref in settled:
            try:
                cluster.get(ref)
            except ActorDiedError:
                with self._lock:
                    self._gone(*asked[ref])

    @property
    def placed(self) -> Mapping[str, Placed]:
        """Where each filter runs, as far as that is decided."""
        return self._placed or {}

    # -- states ----------------------------------------------------------------------------------------------------------------

    def retries(self, first: str) -> int:
        """How often a call of a unit may be repeated after a death."""
        return min(options_of(self.filters[id]).max_retries for id in self.unit(first))

    def learning_units(self) -> list[str]:
        """The units with something to learn, by their first nodes."""
        return [first for p in self._plan.plans() for first in p.units if p.node(first).inner is None and self.learners_of(first)]

    def learners_of(self, first: str) -> list[str]:
        """The members of a unit that learn; of one that is trained as a group, all."""
        plan = self._plans[first]
        members = plan.group(first)
        learn = [id for id in members if plan.node(id).learns]
        return list(members) if learn and plan.is_composite(first) else learn

    def is_optional(self, first: str) -> bool:
        """Whether it stands in an arm of a branch, which no fit need have taken."""
        return first in self._optional

    def fetch(self, first: str) -> dict[str, Any]:
        """{node: state} of a unit, wherever it is."""
        held = self.states.get(first)
        if held is not None and not held.inside and (held.hit is not None or held.ref is not None):
            value = self._cache.load(held.hit) if held.hit is not None and self._cache is not None else cluster.get(held.ref)  # type: ignore[arg-type]
            return dict(value) if self._plans[first].is_composite(first) else {first: value}
        handle = self.handle(first)
        return {id: cluster.get(handle.get_state.remote(id)) for id in self.learners_of(first)}

    def secure(self) -> None:
        """Keep a copy of what only actors hold."""
        for first, held in list(self.states.items()):
            if held.inside and held.hit is None and held.ref is None:
                state = self.fetch(first)
                held.ref = cluster.put(state if self._plans[first].is_composite(first) else state[first])

    def learnt(self, first: str, held: Held) -> None:
        with self._lock:
            self.states[first] = held

    def load(self, first: str, handle: Handle) -> ObjectRef[Any] | None:
        """Give the actor a unit's state, if it is elsewhere; the call that does, to be looked at if something fails."""
        with self._lock:
            held = self.states.get(first)
            if held is not None and held.gone:
                raise CacheMissError(f"what node {first!r} had learnt was in the cache, and is not any more: fit again")
            if held is None or held.inside == handle.actor_id or (held.hit is None and held.ref is None):
                return None
            if held.hit is not None:
                assert self._cache is not None
                on_disk = held.hit.tier != "memory" and self._cache.spec.path is not None
                state: Any = Stored(held.hit.digest) if on_disk else self._cache.load(held.hit)
            else:
                state = held.ref
            held.inside = handle.actor_id
            many = self._plans[first].is_composite(first)
            done: ObjectRef[Any] = handle.set_states.remote(state) if many else handle.set_state.remote(first, state)
            return done

    def not_loaded(self, first: str) -> None:
        """The cache did not have what `load` asked it for."""
        with self._lock:
            held = self.states.get(first)
            if held is not None:
                held.inside, held.hit = "", None
                held.gone = held.ref is None

    # -- the end ---------------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> dict[str, Handle]:
        return self._handles.copy()

    @property
    def actors(self) -> frozenset[str]:
        """The ids of those that exist now."""
        return frozenset(handle.actor_id for handle in self.running.values())

    def end_all_but(self, these: frozenset[str]) -> None:
        """End the actors of other ids; if none is left, all is as before the first run."""
        with self._lock:
            ended = {process: handle for process, handle in self._handles.items() if handle.actor_id not in these}
            if len(ended) == len(self._handles):
                self.close()
                return
            with contextlib.suppress(ClusterError):
                for process, handle in ended.items():
                    self._gone(process, handle)
                    cluster.kill(handle)

    def close(self) -> None:
        """End the processes; states that only they held are lost."""
        with self._lock:
            handles, self._handles = self._handles, {}
            placed, self._placed = self._placed, None
            for held in self.states.values():
                held.lost = held.lost or (held.hit is None and held.ref is None)
                held.inside = ""
        with contextlib.suppress(ClusterError):  # a cluster that is gone took them along
            if cluster.is_initialized():
                for handle in handles.values():
                    cluster.kill(handle)
                if placed is not None:
                    _wait_for_the_end(handles.values(), placed)
                    release(self._owner)


def _wait_for_the_end(handles: Iterable[Handle], placed: Mapping[str, Placed]) -> None:
    """Until what the processes reserved is free. A call to one that is being killed may still be answered, but not this one."""
    if any(name != "tags" for p in placed.values() for name in p.options):
        last = [handle.shutdown.remote() for handle in handles]
        if last:
            cluster.wait(last, num_returns=len(last), timeout=GONE)
