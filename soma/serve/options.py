"""How a target is served: slots, queue, times. See `soma.serve.http.options` for how it is offered. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soma.serve.steps import Limits


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Of `run`, besides those of HTTP. Times in seconds.

    Attributes:
        slots: predictions at once: processes, or coroutines in one process for `async def predict`.
        min_slots, max_slots: instead of `slots`: so many processes at least, and more while predictions wait for them.
        max_queue: predictions that may wait; with 0, one too many is refused with 409.
        timeout: of a prediction.
        grace: between asking a prediction to end and killing its process.
        setup_timeout: of a setup.
        keep, keep_seconds: so many results can be asked for, so long.
        version: of what is served.
        train: the function that trains.
        upload_url: where output files are PUT; else they are data URIs.
        reload: serve anew when the file changes.
        actor: options of the slots' actors: num_gpus, memory, runtime_env, …
        canary, canary_share: another target, set up beside the first and of the same signature, which gets that share of what comes.
    """

    slots: int = 1
    min_slots: int | None = None
    max_slots: int | None = None
    max_queue: int = 256
    timeout: float | None = None
    grace: float = 5.0
    setup_timeout: float | None = None
    keep: int = 1000
    keep_seconds: float = 3600.0
    version: str = "1"
    train: str = ""
    upload_url: str = ""
    reload: bool = False
    actor: Mapping[str, Any] = field(default_factory=dict)
    canary: Any = None
    canary_share: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("min_slots", 1), ("max_slots", 1), ("max_queue", 0), ("keep", 0)):
            value = getattr(self, name)
            optional = name in ("min_slots", "max_slots") and value is None
            if not optional and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name}={value!r}: a whole number from {least}")
        if not 0 < self.canary_share < 1:
            raise ValueError(f"canary_share={self.canary_share!r}: between 0 and 1")
        if (self.min_slots or 1) > self.most:
            raise ValueError(f"min_slots={self.min_slots} is more than max_slots={self.most}")
        for name in ("timeout", "grace", "setup_timeout", "keep_seconds"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
                raise ValueError(f"{name}={value!r}: seconds from 0")

    @property
    def most(self) -> int:
        """Predictions at once, at most."""
        return max(self.slots, self.min_slots or 1) if self.max_slots is None else self.max_slots

    def limits(self) -> Limits:
        scales = self.min_slots is not None or self.max_slots is not None
        return Limits(self.most, self.max_queue, self.timeout, self.grace, self.setup_timeout,
                      min_slots=(self.min_slots or min(self.slots, self.most)) if scales else None)
