"""What HTTP and webhooks are written against: a service that makes predictions, and the words the two sides exchange.

Nothing here knows HTTP beyond the status that a refusal would have, and nothing knows slots. All calls are made in the event loop's thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

WEBHOOK_EVENTS = ("start", "output", "logs", "completed")
"""What a webhook can be told of; all of it, unless the request has a filter."""
ENDS = frozenset({"completed", "error"})
"""Of what listeners are told: the last."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for. Its shape is checked, its input is not.

    Attributes:
        id: chosen by the client; None for one made by the service.
        input: as it came, by name.
        webhook: URL to be told, http or https.
        webhook_events_filter: of what; None for all.
        created_at: time as the client says it.
        output_file_prefix: where files of the output are put.
        context: traceparent, tracestate and what the client added.
        raw: the whole body.
    """

    id: str | None = None
    input: Mapping[str, Any] = field(default_factory=dict)
    webhook: str | None = None
    webhook_events_filter: tuple[str, ...] | None = None
    created_at: str | None = None
    output_file_prefix: str | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)


class Refused(Exception):
    """A request that is not done: what HTTP answers instead.

    Attributes:
        status: of HTTP.
        detail: a sentence, or a list of what is wrong with the input: `{"loc", "msg", "type"}` each.
        retry_after: seconds after which another try may go better; None if it will not.
        headers: more of them.
    """

    def __init__(self, status: int, detail: str | list[dict[str, Any]], retry_after: float | None = None,
                 headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(status, detail)
        self.status, self.detail, self.retry_after, self.headers = status, detail, retry_after, headers


class Prediction(Protocol):
    """One prediction or training, as those see it who wait for it."""

    @property
    def id(self) -> str: ...

    @property
    def kind(self) -> str:
        """prediction or training."""

    @property
    def version(self) -> str:
        """Of what is served."""

    @property
    def request(self) -> Request: ...

    context: Mapping[str, str]
    """What goes with it to its slot and its webhook: that of the request, as long as nobody traces it."""

    @property
    def status(self) -> str: ...

    @property
    def error(self) -> str:
        """Why it failed; empty if it did not."""

    @property
    def done(self) -> bool: ...

    @property
    def listeners(self) -> list[Callable[[str], None]]:
        """Each is told the kind of every event, here and now: start, output, log, metric, completed or error. Let go of after the end."""

    def as_dict(self) -> dict[str, Any]:
        """Cog's PredictionResponse."""

    async def wait(self) -> None:
        """Until it has ended."""

    def events(self) -> AsyncIterator[tuple[str, Any]]:
        """What it says, kind and data, from the beginning (as far as that is kept) to its end.

        Raises:
            Refused: 429, it has too many readers.
        """

    def abandoned(self) -> None:
        """The client that waited for the answer has gone."""


class Service(Protocol):
    """What makes predictions."""

    @property
    def signature(self) -> Any:
        """Of predictions; None as long as the setup runs."""

    @property
    def training(self) -> Any:
        """Of trainings; None if there are none."""

    def health(self) -> dict[str, Any]: ...

    async def check_health(self) -> dict[str, Any]:
        """The same, after the user's own check was asked, for 5 s at most."""

    def create(self, request: Request, kind: str = "prediction") -> Prediction:
        """`Refused` if it cannot be."""

    def find(self, id: str, kind: str = "prediction") -> Prediction | None: ...

    def cancel(self, id: str, kind: str = "prediction") -> bool:
        """False if there is no such prediction."""

    async def shutdown(self, patience: float | None = None) -> None:
        """Take nothing more, let what runs end (for so many seconds at most), and end all slots."""

    def metrics_text(self) -> str:
        """For Prometheus."""
