"""Messages of the control plane: between the head's one TCP port and the machines and programs that want to belong.

Every field is bounded, for these are the only messages that come from outside a cluster: amounts that no machine has, numbers that
are none, and endless texts are refused before anybody looks at them. Who sent a message is never in it (see `transport.control`);
a `node_id` is a claim that `daemon.access` compares with the sender's key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from soma.transport.frames import Name, Natural, message
from soma.transport.messages.node import Number

MOST = {"CPU": 65_536.0, "cpu_cores": 65_536.0, "GPU": 4096.0, "num_gpus": 4096.0}
"""What no machine exceeds, by the name of the amount."""

_BYTES = 2.0**50
_NUMBER = 2.0**62
_TEXT, _LINE, _PLAIN_ITEMS = 16_384, 256, 2048

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _is_request(value: bytes, left: int) -> bool:
    return len(value) <= 32


def _is_node_id(value: str, left: int) -> bool:
    return _NODE_ID.fullmatch(value) is not None


def _is_key(value: bytes, left: int) -> bool:
    return len(value) == 32


def _is_line(value: str, left: int) -> bool:
    return len(value) <= _LINE and value.isprintable()


def _is_text(value: str, left: int) -> bool:
    return len(value) <= _TEXT


def _is_seconds(value: float, left: int) -> bool:
    return _is_amount(value, 1e9)


def _is_amount(value: Any, most: float) -> bool:
    """A finite number from 0 to `most`; -0.0 is none."""
    return type(value) in (int, float) and 0 <= value <= most and (value != 0 or math.copysign(1, value) > 0)


def _most(name: str) -> float:
    return MOST.get(name) or (_BYTES if "memory" in name or name.endswith("_bytes") else 1e12)


def _is_totals(value: Mapping[str, Any], left: int) -> bool:
    return len(value) <= 64 and all(_is_line(key, 0) and _is_amount(n, _most(key)) for key, n in value.items())


def _is_facts(value: Mapping[str, Any], left: int) -> bool:
    """Plain data of a machine: short texts, and numbers as bounded as totals where they have a name that tells."""
    budget = [_PLAIN_ITEMS]

    def good(name: str, item: Any, depth: int) -> bool:
        budget[0] -= 1
        if budget[0] < 0 or depth < 0:
            return False
        if isinstance(item, dict):
            return all(_is_line(key, 0) and good(key, inner, depth - 1) for key, inner in item.items())
        if isinstance(item, tuple):
            return all(good(name, inner, depth - 1) for inner in item)
        if isinstance(item, str):
            return len(item) <= 1024
        return item is None or type(item) is bool or _is_amount(item, _most(name))

    return good("", value, 4)


def _is_plain_dict(value: Mapping[str, Any], left: int) -> bool:
    """Plain data without NaN, infinity and endless numbers; what it means, the reader checks."""
    budget = [_PLAIN_ITEMS]

    def good(item: Any, depth: int) -> bool:
        budget[0] -= 1
        if budget[0] < 0 or depth < 0:
            return False
        if isinstance(item, dict):
            return all(len(key) <= _LINE and good(inner, depth - 1) for key, inner in item.items())
        if isinstance(item, tuple):
            return all(good(inner, depth - 1) for inner in item)
        if isinstance(item, str | bytes):
            return len(item) <= _TEXT
        return item is None or type(item) is bool or abs(item) <= _NUMBER  # a NaN is not

    return good(value, left)


def _is_versions(value: Mapping[str, Any], left: int) -> bool:
    return (set(value) == {"protocol", "soma", "python"} and type(value["protocol"]) is int
            and all(type(value[key]) is str and _is_line(value[key], 0) for key in ("soma", "python")))


Request = Annotated[bytes, _is_request]
"""What an answer is found by: up to 32 bytes that the asker chose."""
NodeName = Annotated[str, _is_node_id]
PublicKey = Annotated[bytes, _is_key]
Line = Annotated[str, _is_line]
Text = Annotated[str, _is_text]
Seconds = Annotated[float, _is_seconds]
Totals = Annotated[dict[str, float], _is_totals]
Facts = Annotated[dict[str, Any], _is_facts]
Plain = Annotated[dict[str, Any], _is_plain_dict]
Versions = Annotated[dict[str, Any], _is_versions]


@message(60)
@dataclass(frozen=True, slots=True)
class Join:
    """Let me in: `public_key` is mine from now on. `role` is "node", which names itself in `node_id`, or "driver"."""

    request: Request
    role: Line
    node_id: NodeName | None
    public_key: PublicKey
    versions: Versions


@message(61)
@dataclass(frozen=True, slots=True)
class Welcome:
    """You are in: the key pair that all members share, the head's name on the data plane, and how often to be heard from."""

    request: Request
    cluster: Line
    data_public: PublicKey
    data_secret: PublicKey = field(repr=False)
    head: Name
    heartbeat: Seconds
    grace: Seconds
    settings: Plain


@message(62)
@dataclass(frozen=True, slots=True)
class Register:
    """A machine is there, with what it offers, and with the processes of its actors that still live: (peer, pid) each."""

    request: Request
    node_id: NodeName
    incarnation: Natural
    peer: Name
    capabilities: Facts
    totals: Totals
    labels: Facts
    actors: tuple[tuple[Name, Natural], ...]
    registration: Natural
    """Counts the attempts of this incarnation: only the answer to the latest one counts."""


@message(63)
@dataclass(frozen=True, slots=True)
class Registered:
    """The machine belongs to the cluster. `epoch` is the head's; orders up to `number` are older than this."""

    request: Request
    node_id: NodeName
    incarnation: Natural
    registration: Natural
    epoch: Natural
    number: Number


@message(64)
@dataclass(frozen=True, slots=True)
class Fenced:
    """The machine was given up: it must end its actors before it may register again, as an incarnation higher than `seen`."""

    request: Request
    node_id: NodeName
    reason: Text
    incarnation: Natural
    """The one that is refused."""
    seen: Natural


@message(65)
@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A machine lives; `load` says how busy it is."""

    node_id: NodeName
    incarnation: Natural
    seq: Natural
    load: Facts
    draining: bool


@message(66)
@dataclass(frozen=True, slots=True)
class Beat:
    """The head lives: it had the heartbeat of this number. Another `epoch` than before: it does not know the machine yet."""

    seq: Natural
    epoch: Natural


@message(67)
@dataclass(frozen=True, slots=True)
class Leave:
    """A machine goes, by its own will; its actors are gone already."""

    node_id: NodeName
    incarnation: Natural
    reason: Text


@message(68)
@dataclass(frozen=True, slots=True)
class Query:
    """A question that changes nothing; answered by Report."""

    request: Request
    what: Line
    args: Plain


@message(69)
@dataclass(frozen=True, slots=True)
class Report:
    """Answer to a question. `error` is "" or an exception's name, with its `text`; JSON follows, in one frame or several."""

    request: Request
    error: Line
    text: Text


@message(70)
@dataclass(frozen=True, slots=True)
class Refused:
    """What you asked is not for you, or not like this. `error` is an exception's name. `request` is empty where nobody could tell."""

    request: Request
    error: Line
    text: Text


@message(71)
@dataclass(frozen=True, slots=True)
class Shutdown:
    """From the head: end, with all that you run. To the head: end the cluster."""

    reason: Text


@message(72)
@dataclass(frozen=True, slots=True)
class Drain:
    """That machine gets nothing new, and leaves when its work is done or `grace` seconds are over. An empty `request` wants no answer."""

    request: Request
    node_id: NodeName
    grace: Seconds
    reason: Text
