"""The states of a prediction and of a slot as tables, and what a server says of its health.

Pure. What is not in a table does not happen. `docs/serving_states.md` is generated: `python -m soma.serve.states` prints it.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from enum import Enum
from itertools import pairwise
from typing import TypeVar


class _State(Enum):
    """Members are one of a kind, so what they are is their hash: Enum's own, of the name, is Python code."""

    __hash__ = object.__hash__


class Status(_State):
    """Of a prediction; the values are what HTTP answers say."""

    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class SlotState(_State):
    """Of a slot."""

    UNUSED = "unused"
    """It has no process: there is not enough to do."""
    STARTING = "starting"
    """Its process is made, and sets the predictor up."""
    READY = "ready"
    BUSY = "busy"
    ENDING = "ending"
    """Its prediction was asked to end."""
    KILLED = "killed"
    """Its process was killed, and is not known to be gone yet."""
    FAILED = "failed"
    """It is not made again."""


class Health(_State):
    """Of a server."""

    STARTING = "STARTING"
    """No slot is set up."""
    READY = "READY"
    """A slot is free."""
    BUSY = "BUSY"
    """Slots are set up, and none is free."""
    SETUP_FAILED = "SETUP_FAILED"
    """The first setup failed; it stays so until a reload."""
    UNHEALTHY = "UNHEALTHY"
    """The user's own check says no, or nothing for 5 s. Predictions are taken all the same."""
    DEFUNCT = "DEFUNCT"
    """The slots' processes died too often; it stays so until a reload."""


PREDICTION: Mapping[tuple[Status, str], Status] = {
    (Status.STARTING, "begin"): Status.PROCESSING,
    (Status.STARTING, "fail"): Status.FAILED,
    (Status.STARTING, "cancel"): Status.CANCELED,
    (Status.PROCESSING, "requeue"): Status.STARTING,
    (Status.PROCESSING, "succeed"): Status.SUCCEEDED,
    (Status.PROCESSING, "fail"): Status.FAILED,
    (Status.PROCESSING, "cancel"): Status.CANCELED,
}
"""What becomes of a prediction; what is not here does not happen, so the first end stays."""

SLOT: Mapping[tuple[SlotState, str], SlotState] = {
    (SlotState.UNUSED, "want"): SlotState.STARTING,
    (SlotState.UNUSED, "give up"): SlotState.FAILED,
    (SlotState.STARTING, "set up"): SlotState.READY,
    (SlotState.STARTING, "setup failed"): SlotState.STARTING,
    (SlotState.STARTING, "died"): SlotState.STARTING,
    (SlotState.STARTING, "give up"): SlotState.FAILED,
    (SlotState.READY, "begin"): SlotState.BUSY,
    (SlotState.READY, "spare"): SlotState.UNUSED,
    (SlotState.READY, "died"): SlotState.STARTING,
    (SlotState.READY, "give up"): SlotState.FAILED,
    (SlotState.BUSY, "ended"): SlotState.READY,
    (SlotState.BUSY, "ask"): SlotState.ENDING,
    (SlotState.BUSY, "died"): SlotState.STARTING,
    (SlotState.BUSY, "give up"): SlotState.FAILED,
    (SlotState.ENDING, "ended"): SlotState.READY,
    (SlotState.ENDING, "kill"): SlotState.KILLED,
    (SlotState.ENDING, "died"): SlotState.STARTING,
    (SlotState.ENDING, "give up"): SlotState.FAILED,
    (SlotState.KILLED, "ended"): SlotState.KILLED,
    (SlotState.KILLED, "died"): SlotState.STARTING,
    (SlotState.KILLED, "give up"): SlotState.FAILED,
}
"""What becomes of a slot. "want": predictions wait; "spare": it had nothing to do for long; "give up": too many deaths, or a first setup
that failed."""

S = TypeVar("S", bound=Enum)


def after(table: Mapping[tuple[S, str], S], state: S, event: str) -> S:
    """The next state. KeyError if that cannot happen there."""
    return table[state, event]


def to_markdown() -> str:
    """The tables and their diagrams, as `docs/serving_states.md` holds them."""
    lines = ["# States of a server", "", "Generated: `python -m soma.serve.states` prints this page.", "",
             "What `GET /health-check` says as `status`:", "", "| status | when |", "|---|---|"]
    docs = _said(Health)
    lines += [f"| {health.value} | {docs[health.name]} |" for health in Health]
    return "\n".join([*lines, "", *_section("A prediction", PREDICTION, Status), *_section("A slot", SLOT, SlotState)])


def _section(title: str, table: Mapping[tuple[S, str], S], states: type[S]) -> list[str]:
    lines = [f"## {title}", "", "```mermaid", "stateDiagram-v2", "    [*] --> starting"]
    lines += [f"    {a.value} --> {b.value}: {event}" for (a, event), b in table.items() if a is not b]
    lines += [f"    {state.value} --> [*]" for state in states if not any(a is state for a, _ in table)]
    lines += ["```", "", "| state | what happens | next |", "|---|---|---|"]
    return [*lines, *(f"| {a.value} | {event} | {b.value} |" for (a, event), b in table.items()), ""]


def _said(kind: type[Enum]) -> dict[str, str]:
    """What is written under each member."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {ast.unparse(member.targets[0]): ast.literal_eval(said.value) for member, said in pairwise(body.body)
            if isinstance(member, ast.Assign) and isinstance(said, ast.Expr)}


if __name__ == "__main__":
    print(to_markdown(), end="")
