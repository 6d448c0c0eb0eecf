"""Where this code runs: `get_runtime_context`, and an actor's handle to itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soma.actors import current
from soma.actors.handle import ActorHandle


@dataclass(frozen=True, slots=True)
class RuntimeContext:
    """Where this code runs. In a driver the actor and task are None."""

    actor_id: str | None
    actor_name: str | None
    node_id: str
    task_id: str | None
    attempt: int
    namespace: str
    is_driver: bool

    def get_actor_id(self) -> str | None:
        return self.actor_id

    def get_node_id(self) -> str:
        return self.node_id

    def get_task_id(self) -> str | None:
        return self.task_id

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle to the actor itself."""
        return current_actor()


def get_runtime_context() -> RuntimeContext:
    info = current.engine().context()
    return RuntimeContext(**{f: info[f] for f in RuntimeContext.__dataclass_fields__})


def current_actor() -> ActorHandle[Any]:
    """Inside an actor: a handle to itself."""
    engine = current.engine()
    info = engine.context().get("handle_info")
    if info is None:
        raise RuntimeError("current_actor is only known inside an actor's method")
    return ActorHandle(info, engine)
