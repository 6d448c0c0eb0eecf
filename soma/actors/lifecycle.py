"""The life of an actor as a table: (phase, event) → phase. `docs/states.md` is generated from it.

Refuses: an event that a phase does not know is a bug and raises.
"""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    WAITING = "waiting"
    """Asked for; the resources it needs are in use."""
    STARTING = "starting"
    """Its process is being made, or runs the constructor."""
    READY = "ready"
    RESTARTING = "restarting"
    """Its process died and another will be made after a pause."""
    STOPPING = "stopping"
    """Told to finish what is queued and leave, or killed; its process still exists."""
    DEAD = "dead"


class Happening(Enum):
    ADMITTED = "admitted"
    CONSTRUCTED = "constructed"
    DIED_RESTARTABLE = "died, may restart"
    DIED_FINALLY = "died for good"
    PAUSE_OVER = "pause over"
    STOP = "stop or kill asked"


TABLE: dict[tuple[Phase, Happening], Phase] = {
    (Phase.WAITING, Happening.ADMITTED): Phase.STARTING,
    (Phase.WAITING, Happening.STOP): Phase.DEAD,
    (Phase.STARTING, Happening.CONSTRUCTED): Phase.READY,
    (Phase.STARTING, Happening.DIED_RESTARTABLE): Phase.RESTARTING,
    (Phase.STARTING, Happening.DIED_FINALLY): Phase.DEAD,
    (Phase.STARTING, Happening.STOP): Phase.STOPPING,
    (Phase.READY, Happening.DIED_RESTARTABLE): Phase.RESTARTING,
    (Phase.READY, Happening.DIED_FINALLY): Phase.DEAD,
    (Phase.READY, Happening.STOP): Phase.STOPPING,
    (Phase.RESTARTING, Happening.PAUSE_OVER): Phase.STARTING,
    (Phase.RESTARTING, Happening.STOP): Phase.DEAD,
    (Phase.STOPPING, Happening.CONSTRUCTED): Phase.STOPPING,
    (Phase.STOPPING, Happening.STOP): Phase.STOPPING,
    (Phase.STOPPING, Happening.DIED_FINALLY): Phase.DEAD,
    (Phase.DEAD, Happening.STOP): Phase.DEAD,
}


def advance(phase: Phase, happening: Happening) -> Phase:
    """The next phase; a pair that is not in the table raises."""
    try:
        return TABLE[phase, happening]
    except KeyError:
        raise AssertionError(f"an actor that is {phase.value} cannot have {happening.value!r} happen") from None


def to_markdown() -> str:
    """The table and its diagram, as `docs/states.md` holds them."""
    lines = ["# States of an actor", "", "Generated: `python -m soma.actors.lifecycle` prints this page.", "",
             "```mermaid", "stateDiagram-v2", "    [*] --> waiting"]
    lines += [f"    {a.value} --> {b.value}: {h.value}" for (a, h), b in TABLE.items() if a is not b]
    lines += ["    dead --> [*]", "```", "", "| phase | what happens | next |", "|---|---|---|"]
    lines += [f"| {a.value} | {h.value} | {b.value} |" for (a, h), b in TABLE.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(to_markdown(), end="")
