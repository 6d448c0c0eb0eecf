"""Who wants to hear of events in this process, and how those of other processes get here.

A run tells its subscribers directly, in the thread that makes it go on, so that nothing is lost or overtaken. What happens in an actor's
process (a graph that an actor runs, say) is published through the cluster, in order, to the drivers that subscribed.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from soma.actors import current
from soma.actors.engine import Engine
from soma.events import Event, event_of

log = logging.getLogger("soma")

Subscriber = Callable[[Event], None]


class Hub:
    """The subscribers of one process."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []
        self._attached: weakref.ref[Engine] | None = None

    @property
    def wanted(self) -> bool:
        """Whether anybody hears what is published here."""
        return bool(self._subscribers) or self._is_actor()

    def subscribe(self, fn: Subscriber) -> Callable[[], None]:
        """Call `fn` with every event from now on; returns a function that ends it."""
        self._subscribers.append(fn)
        engine = current.peek()
        if engine is not None:
            self.attach(engine)

        def stop() -> None:
            if fn in self._subscribers:
                self._subscribers.remove(fn)

        return stop

    def attach(self, engine: Engine) -> None:
        """Hear the events of a cluster too, once somebody wants events at all."""
        if self._subscribers and (self._attached is None or self._attached() is not engine):
            self._attached = weakref.ref(engine)
            engine.on_event(self._from_cluster)

    def publish(self, event: Event) -> None:
        """To everybody; a subscriber that raises is reported and keeps its place."""
        engine = current.peek()
        if engine is not None and self._is_actor():
            engine.publish(event.as_dict())
            if self._attached is not None and self._attached() is engine:
                return  # it comes back to the subscribers here from the cluster
        self._tell(event)

    def _from_cluster(self, fields: Mapping[str, Any]) -> None:
        self._tell(event_of(fields))

    def _tell(self, event: Event) -> None:
        for fn in list(self._subscribers):
            try:
                fn(event)
            except Exception:
                log.exception("an event subscriber raised; it stays subscribed")

    def _is_actor(self) -> bool:
        engine = current.peek()
        return engine is not None and not engine.context()["is_driver"]


HUB = Hub()
"""That of this process."""
