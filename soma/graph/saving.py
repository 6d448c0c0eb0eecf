"""What a graph has learnt, collected from its processes, given back to them, and written to a file.

The file is safetensors: arrays and tensors as they are, everything else as JSON in its metadata. Reading one executes no code, and other
tools can open it. What neither can hold is pickled only if the caller says so, when writing and when reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soma import cluster
from soma.errors import GraphError
from soma.graph.processes import Held, Processes
from soma.store import Cache, digest
from soma.store.checkpoint import read_states, write_states


def states(processes: Processes) -> dict[str, Any]:
    """{node: state} of every filter that learns; arms of branches that were never fitted are left out."""
    found: dict[str, Any] = {}
    for first in processes.learning_units():
        held = processes.states.get(first)
        if held is None and processes.is_optional(first):
            continue
        found.update(processes.fetch(first))
    return found


def load_states(processes: Processes, state: Mapping[str, Any], cache: Cache | None) -> None:
    """Give every filter that learns its state.

    Raises:
        GraphError: one is missing, or unknown.
    """
    units = processes.learning_units()
    wanted = {id: processes.is_optional(first) for first in units for id in processes.learners_of(first)}
    missing, unknown = [id for id, optional in wanted.items() if id not in state and not optional], sorted(set(state) - set(wanted))
    said = [f"no state for {', '.join(map(repr, missing))}"] if missing else []
    said += [f"state for {', '.join(map(repr, unknown))}, which no node learns"] if unknown else []
    if said:
        raise GraphError("load_state: " + "; ".join(said))
    for first in units:
        members = processes.learners_of(first)
        if all(id in state for id in members):
            many = len(processes.unit(first)) > 1 or processes.plan_of(first).is_composite(first)
            value: Any = {id: state[id] for id in members} if many else state[first]
            ref = cluster.put(value)
            processes.learnt(first, Held(digest(value, f"the state of {first!r}") if cache is not None else "", None, ref))


def save(state: Mapping[str, Any], path: Path, *, allow_pickle: bool) -> Path:
    write_states(state, path, allow_pickle=allow_pickle)
    return path


def load(path: Path, *, allow_pickle: bool) -> dict[str, Any]:
    return read_states(path, allow_pickle=allow_pickle)


__all__ = ["load", "load_states", "save", "states"]
