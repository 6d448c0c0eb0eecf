"""Prints `docs/node_states.md`, which is generated from the tables: `python -m soma.daemon.coordination`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from soma.daemon.coordination import nodestates, presence

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def section(title: str, table: Mapping[tuple[S, E], S], first: S) -> list[str]:
    """A table of states and its diagram."""
    lines = [f"## {title}", "", "```mermaid", "stateDiagram-v2", f"    [*] --> {first.name}"]
    lines += [f"    {state.name}: {state.value}" for state in type(first) if state.name != state.value]
    lines += [f"    {a.name} --> {b.name}: {event.value}" for (a, event), b in table.items() if a is not b]
    lines += ["```", "", "| state | what happens | next |", "|---|---|---|"]
    return [*lines, *(f"| {a.value} | {event.value} | {b.value} |" for (a, event), b in table.items()), ""]


def to_markdown() -> str:
    lines = ["# States of a node", "", "Generated: `python -m soma.daemon.coordination` prints this page.", "",
             "What the two sides conclude from silence is in [failures.md](failures.md#nodes).", ""]
    lines += section("As the head sees it, or a driver", presence.TABLE, presence.Presence.JOINED)
    lines += section("As the node sees itself", nodestates.TABLE, nodestates.State.JOINING)
    return "\n".join(lines)


if __name__ == "__main__":
    print(to_markdown(), end="")
