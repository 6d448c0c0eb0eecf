"""The driver's side of a graph's cache: which results need not be made, and why the others must.

A key is made of what a result depends on: the filter's identity, the bytes of its input and targets, the state it uses, the seed. The
digest of a result is written beside it, so a chain of hits is followed from record to record, and no value is read before somebody
needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from soma.events import Event, NodeCacheHit, NodeCacheMiss
from soma.filters import Identity, Keeping, identity_of
from soma.graph.plan import Plan
from soma.graph.values import Named, Value, digest_of
from soma.graph.walk import Call
from soma.store import Cache, Hit, Made, combine, digest

Emit = Callable[..., None]


@dataclass(slots=True)
class Verdict:
    """What is known of a call before it is made.

    Attributes:
        keeping: goes with the call.
        state: the state that `fit` would make, if the cache has it.
        outputs: those of all nodes that are wanted, if the cache has all of them.
    """

    keeping: Keeping
    state: Hit | None = None
    outputs: dict[str, Hit] | None = None


@dataclass(frozen=True, slots=True)
class Why:
    """What is remembered for `explain`: "hit" or "miss", what of, and where or why."""

    node: str
    what: str
    hit: bool
    said: str


@dataclass(slots=True)
class Learning:
    """What `fit` depends on besides inputs: digest of the targets, and what else goes into the keys."""

    y: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


class Recall:
    """Of one run."""

    def __init__(self, cache: Cache, filters: Mapping[str, Any], identities: dict[str, Identity], seed: int | None, run: str,
                 emit: Emit) -> None:
        self._cache, self._filters, self._identities, self._seed, self._run, self._emit = cache, filters, identities, seed, run, emit
        self.whys: list[Why] = []
        self.learning = Learning()

    def consult(self, plan: Plan, call: Call, given: Named, state: str) -> Verdict:
        """Look a call up. `state` is the digest of the state that `forward` would use."""
        keeping = self._keeping(plan, call, given, state)
        verdict = Verdict(keeping)
        if call.op != "forward":
            verdict.state = self._find(call.node, "state", keeping.store_state, keeping.state_key, keeping, "fit")
            if verdict.state is None:
                return verdict
            keeping = verdict.keeping = replace(keeping, state=verdict.state.digest)
        if call.op == "fit":
            verdict.outputs = {}
            return verdict
        hits: dict[str, Hit] = {}
        for id in call.wanted:
            part = id if plan.is_composite(id) else ""
            key = keeping.output_key(keeping.state, part)
            hit = self._find(id, "output", keeping.store_output, key, keeping, f"forward {part}".strip())
            if hit is None:
                return verdict
            hits[id] = hit
        verdict.outputs = hits
        return verdict

    def digest_raw(self, value: Value, what: str) -> None:
        """Hash a value that the driver holds."""
        if not value.digest:
            value.digest = digest(value.get(self._cache), what)

    def keep(self, call: Call, keeping: Keeping, what: str, value: Any, hashed: str, ms: float) -> None:
        """Into the memory of this process, where there is no disk."""
        part = what.partition(" ")[2]
        key = keeping.state_key if what == "fit" else keeping.output_key(keeping.state, part)
        self._cache.keep(key, value, hashed, Made(f"{keeping.title} {what}", keeping.parts, ms, time.time(), "", self._run))

    def found_late(self, call: Call, keeping: Keeping, tier: str, ms: float) -> None:
        """The state was not there when it was looked for, and was when the call came to make it: somebody else had made it meanwhile."""
        self._note(NodeCacheHit, Why(call.node, "state", True, tier), what="state", tier=tier, key=keeping.state_key, load_ms=ms)

    @staticmethod
    def with_state(keeping: Keeping, state: str) -> Keeping:
        """After `fit`: the state that outputs are made with."""
        return replace(keeping, state=state)

    def state_hit(self, keeping: Keeping) -> Hit | None:
        """What was just stored."""
        return self._cache.find(keeping.state_key) if keeping.store_state else None

    # -- keys ------------------------------------------------------------------------------------------------------------------

    def _keeping(self, plan: Plan, call: Call, given: Named, state: str) -> Keeping:
        cacheable = [plan.node(id).cacheable for id in call.nodes]
        allowed = all(c == "yes" or (c == "seeded" and self._seed is not None) for c in cacheable)
        identity, parts = self._identity(plan, call)
        x = digest_of(given)
        told = {**parts, "input": x}
        if call.op == "forward":
            return Keeping(identity, x, "", state, seed=self._seed, store_output=allowed, title=self._title(call), run=self._run,
                           parts={**told, "state": state, "seed": str(self._seed)})
        extra = combine(*(text for item in sorted(self.learning.extra.items()) for text in item)) if self.learning.extra else ""
        return Keeping(identity, x, self.learning.y, "", extra, self._seed, allowed, allowed, self._title(call),
                       {**told, "targets": self.learning.y, "seed": str(self._seed), **self.learning.extra}, self._run)

    def _title(self, call: Call) -> str:
        return f"{self._identity_of(call.node).name}@{call.node}"

    def _identity_of(self, id: str) -> Identity:
        found = self._identities.get(id)
        if found is None:
            found = self._identities[id] = identity_of(self._filters[id])
        return found

    def _identity(self, plan: Plan, call: Call) -> tuple[str, dict[str, str]]:
        if not plan.is_composite(call.node):
            own = self._identity_of(call.node)
            return own.digest, dict(own.parts)
        texts, parts = [], {}
        for id in call.nodes:
            own = self._identity_of(id)
            texts += [id, own.digest, *plan.node(id).inputs, ""]
            parts.update({f"{id}: {name}": text for name, text in own.parts.items()})
        return combine(*texts), parts

    # -- looking ---------------------------------------------------------------------------------------------------------------

    def _find(self, node: str, what: str, allowed: bool, key: str, keeping: Keeping, title: str) -> Hit | None:
        began = time.perf_counter()
        hit = self._cache.find(key) if allowed else None
        if hit is not None:
            self._note(NodeCacheHit, Why(node, what, True, hit.tier), what=what, tier=hit.tier, key=key,
                       load_ms=(time.perf_counter() - began) * 1e3)
            return hit
        why = self._why_not(node, allowed, keeping, title)
        self._note(NodeCacheMiss, Why(node, what, False, why), what=what, why=why, key=key)
        return None

    def _note(self, kind: type[Event], noted: Why, **fields: Any) -> None:
        self.whys.append(noted)
        self._emit(kind, node=noted.node, **fields)

    def _why_not(self, node: str, allowed: bool, keeping: Keeping, title: str) -> str:
        if not allowed:
            return "it may not be cached: it is opaque, cacheable=False, or not deterministic and without a seed"
        last = self._cache.last(f"{keeping.title} {title}")
        if last is None:
            return "it was never stored"
        now = dict(keeping.parts)
        changed = [name for name in now if last.parts.get(name) != now[name]] + [name for name in last.parts if name not in now]
        return f"{' and '.join(changed)} changed" if changed else "it was removed from the cache"
