"""An actor of the `local=True` engine: an object, its life, and why it ended."""

from __future__ import annotations

from typing import Any

from soma.actors.caller import label_of
from soma.actors.engine import ActorSpec, HandleInfo
from soma.actors.failures import Failure, rebuild
from soma.actors.local.calls import Call, Lane, Loop, Outcome, Stream
from soma.actors.refs import ObjectRef
from soma.actors.supervisor import Life
from soma.errors import ActorDiedError, ActorInitError, DeathCause, Executed
from soma.transport.codec import encode
from soma.transport.values import Parcel, open_parcel, parcel


class LocalActor:
    """One actor over all its restarts."""

    def __init__(self, info: HandleInfo, spec: ActorSpec, made_from: Parcel, ctor_needs: list[ObjectRef[Any]],
                 needs: dict[str, float], key: tuple[str, str] | None) -> None:
        self.info = info
        self.spec = spec
        self.made_from = made_from
        """The constructor's (args, kwargs)."""
        self.ctor_needs = ctor_needs
        self.needs = needs
        """What it has reserved."""
        self.key = key
        """Namespace and name."""
        self.life = Life(spec.options.max_restarts)
        self.instance: Any = None
        self.cause: DeathCause | None = None
        """Set when it is dead for good."""
        self.init_failure: Failure | None = None
        self.doom: DeathCause | None = None
        """Somebody ended it while one of its calls runs; carried out when that call returns."""
        self.running = 0
        self.unsettled = 0
        self.handles = 0
        self.held = False
        """There was a handle."""
        self.streams: list[Stream] = []
        self.loop = Loop()
        limit = spec.options.max_concurrency or (1000 if spec.is_async else 1)
        self._lane = Lane() if limit == 1 and not spec.options.concurrency_groups else None
        self._saved: Parcel | None = None

    @property
    def label(self) -> str:
        return label_of(self.info)

    @property
    def lane(self) -> Lane:
        """Where its next call queues."""
        return self._lane or Lane()

    @property
    def waiting(self) -> int:
        return len(self._lane.queue) if self._lane else 0

    @property
    def state(self) -> str:
        return self.life.phase.value

    def queued(self) -> list[Call]:
        return list(self._lane.queue) if self._lane else []

    def save(self) -> None:
        """Keep what `__soma_restore__` gives back after a restart: the state after the last call that ended."""
        save = getattr(self.instance, "__soma_save__", None)
        if save is not None and self.spec.options.max_restarts != 0:
            self._saved = parcel(encode(save(), path="__soma_save__()"), None)

    def restore(self) -> None:
        if self._saved is not None:
            self.instance.__soma_restore__(open_parcel(self._saved))

    def obituary(self, executed: Executed, cause: DeathCause | None = None) -> Outcome:
        """The error of a call that ended with this actor, or came after; `cause` if it is not dead for good (yet)."""
        cause = cause or self.cause or DeathCause("unknown")
        failure, history = self.init_failure, self.life.history

        def throw() -> Any:
            if cause.reason != "init":
                raise ActorDiedError(self.label, cause, executed, history)
            raise ActorInitError(self.label, cause, executed, history) from (rebuild(failure) if failure else None)

        return throw
