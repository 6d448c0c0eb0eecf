"""Where the ranks of a training go, and how they reduce there: pure.

Ranks that share memory, or connections of torch's, which nobody encrypts, are all on one machine. Where none can hold them all, "auto"
takes "actors", whose ranks are wherever there is room; what was asked for by name is refused. A parameter server's ranks are wherever there
is room then, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soma.errors import PlacementError

ACTORS = "actors"
_OPEN = "would go between machines unencrypted"
_NEAR = {"shm": "shares one machine's memory", "gloo": _OPEN, "nccl": _OPEN}

Machines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Site:
    """`backend` is never "auto". `node` is the machine where all ranks are; None leaves each to the scheduler.

    `far`: they may be on several machines.
    """

    backend: str
    node: str | None = None
    far: bool = False


def site_of(backend: str, n: int, options: Mapping[str, Any], machines: Machines, nearest: Sequence[str | None] = ()) -> Site:
    """For `n` ranks, each with these actor options.

    Args:
        machines: as `cluster.machines()` tells of them.
        nearest: ids of those to be preferred, the best first; but one that is full only before others that are.

    Raises:
        PlacementError: `backend` needs all ranks on one machine, and none can hold them.
    """
    found = backend if backend != "auto" else "nccl" if options.get("num_gpus") else "shm"
    if found == ACTORS or len(machines) < 2:
        return Site(found, far=found == ACTORS)
    if can := [machine for machine in machines if _holds(machine, n, options)]:
        rank = {id: place for place, id in reversed(list(enumerate(nearest)))}
        best = min(can, key=lambda m: (not _holds(m, n, options, now=True), rank.get(m["node_id"], len(nearest)),
                                       -m["totals"].get("CPU", 0.0), m["node_id"]))
        return Site(found, best["node_id"])
    if backend == "auto" or backend not in _NEAR:
        return Site(ACTORS if backend == "auto" else backend, far=True)
    raise PlacementError(f"backend={backend!r} {_NEAR[backend]}, and none of the {len(machines)} machines can hold {n} ranks, each with "
                         f"{_said(options)}: backend='actors' trains across machines")


def room(options: Mapping[str, Any], machines: Machines, most: int) -> int:
    """How many ranks, up to `most`, all machines together could hold, were nobody else."""
    return min(most, sum(next(n for n in range(most, -1, -1) if _holds(machine, n, options)) for machine in machines))


def _holds(machine: Mapping[str, Any], n: int, options: Mapping[str, Any], *, now: bool = False) -> bool:
    """Whether `n` ranks could be there at once, were nobody else; or, `now`, beside those who are."""
    held = list(machine.get("reserved", {}).values()) if now else []
    each = {"CPU": options.get("num_cpus"), "GPU": options.get("num_gpus"), "memory": options.get("memory")}
    return n == 0 or (set(options.get("tags", ())) <= set(machine["capabilities"].get("tags", ())) and all(
        n * amount <= machine["totals"].get(name, 0.0) - sum(h.get(name, 0.0) for h in held) for name, amount in each.items() if amount))


def _said(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={options[name]!r}" for name in ("num_cpus", "num_gpus", "memory", "tags") if options.get(name)) or "nothing"
