"""What runs now, per thread, in the `local=True` engine: the stack of calls inside calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from soma.actors.context import LeaveActor
from soma.actors.local.actor import LocalActor
from soma.actors.local.calls import Call
from soma.actors.options import Options


@dataclass(frozen=True, slots=True)
class Frame:
    """One call, constructor or step of a generator."""

    actor: LocalActor | None
    task_id: str | None
    attempt: int
    label: str
    listener: Callable[[dict[str, Any]], None] | None = None
    """Hears what the call tells."""


class LocalStack:
    """Frames of each thread, outermost first."""

    def __init__(self) -> None:
        self._here = threading.local()

    @property
    def frames(self) -> list[Frame]:
        found: list[Frame] = self._here.__dict__.setdefault("frames", [])
        return found

    @contextmanager
    def of_call(self, call: Call) -> Iterator[None]:
        options = call.actor.spec.options if call.actor else call.options
        with self._running(Frame(call.actor, call.id.hex(), call.attempt, call.label, call.options.listener), options):
            yield

    @contextmanager
    def of_constructor(self, actor: LocalActor) -> Iterator[None]:
        label = f"{actor.info.class_name}.__init__"
        with self._running(Frame(actor, None, actor.life.incarnation, label), actor.spec.options):
            yield

    @contextmanager
    def _running(self, frame: Frame, options: Options) -> Iterator[None]:
        """Inside, the frame is on top and the variables of `runtime_env` are set."""
        env: dict[str, str] = dict((options.runtime_env or {}).get("env_vars") or {})
        before = {k: os.environ.get(k) for k in env}
        os.environ.update(env)
        self.frames.append(frame)
        if frame.actor is not None:
            frame.actor.running += 1
        try:
            yield
        finally:
            if frame.actor is not None:
                frame.actor.running -= 1
            self.frames.pop()
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value

    def leave(self) -> None:
        """End the actor whose code this is, when its call has unwound."""
        frames = self.frames
        if not frames or frames[-1].actor is None:
            raise RuntimeError("exit_actor() outside an actor: use soma.kill(handle) or soma.shutdown()")
        raise LeaveActor

    def cycle(self, call: Call) -> str:
        """In words: why a call of an actor on this stack cannot run before the stack unwinds."""
        frames = self.frames
        start = next((i for i, f in enumerate(frames) if f.actor is not None and f.actor is call.actor), 0)
        labels = [_named(f.label, f.actor) for f in frames[start:]]
        labels.append(_named(call.label, call.actor))
        return " waits for ".join(labels) + f", which can run only after {labels[0]} has ended"


def _named(label: str, actor: LocalActor | None) -> str:
    return label if actor is None else f"{label} of {actor.label}"
