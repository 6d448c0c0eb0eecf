"""What the front end and a slot say to each other: `Source`, `Job`, `Limits`, and, as plain data, `Ended` and `SetUp`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from soma.config import MIB

Ended = dict[str, Any]
"""How a prediction ended: `state` ("succeeded", "failed", "canceled"), `output` (None where it was told item by item), `is_list`, `error`,
`metrics`, how many items were told, `streamed`, and the seconds that it took."""

SetUp = dict[str, Any]
"""What came of a set-up: `ok`, `logs`, `error`, `signature`, `training`, `has_healthcheck`, `is_async`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Attributes:
        input_bytes: of one file that is fetched for a prediction.
        fetch_seconds: for all of one file.
        upload_seconds: for one file, all tries together.
    """

    input_bytes: int = 512 * MIB
    fetch_seconds: float = 120.0
    upload_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where a predictor comes from: a file and a name in it, or a value.

    Attributes:
        file: a Python file; loaded under a name of its own, with its directory on `sys.path`.
        name: of a class with `setup` and `predict` (or `run`), or of a function. Empty: the only one that the file defines.
        value: instead of a file: an instance or class of such a kind, a function, a filter with what it has learnt, a handle of an actor
            with `forward`; or a ref to one of these: then one that cannot be unpickled is a failed set-up with its traceback.
        state: of a filter: what its `fit` gave.
        train: name of a function in the file that trains.
        directory: the working directory of the process; empty: the file's.
        upload_url: where output files are PUT; empty: they become data URIs.
        limits: of files.
    """

    file: str = ""
    name: str = ""
    value: Any = None
    state: Any = None
    train: str = ""
    directory: str = ""
    upload_url: str = ""
    limits: Limits = field(default_factory=Limits)


class Job(NamedTuple):
    """One prediction for a slot, which is sent its parts: plain data travels for a quarter of what an object costs.

    `id` never becomes a path; `context` is what `current_scope().context` gives.
    """

    id: str
    input: Mapping[str, Any]
    kind: Literal["prediction", "training"] = "prediction"
    context: Mapping[str, Any] = {}
    output_file_prefix: str = ""
