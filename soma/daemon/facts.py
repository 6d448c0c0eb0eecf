"""What the head tells of its machines before every placement: totals, who holds what, load. Cheap: no process is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soma.actors.lifecycle import Phase

if TYPE_CHECKING:
    from soma.daemon.head import Head
    from soma.daemon.orders import Machine
    from soma.daemon.resident import Resident


def facts(d: Head) -> list[dict[str, Any]]:
    """Every machine for `Engine.machines`.

    An actor that waits in the queue holds nothing yet; one that is blocked holds its CPU all the same, for it will take it back.
    """
    return [_facts(d, machine) for machine in d.machines.values()]


def _facts(d: Head, machine: Machine) -> dict[str, Any]:
    holders, shares = d.pools.holders(machine.node), d.pools.gpu_shares(machine.node)
    reserved: dict[str, dict[str, float]] = {}
    lent: dict[str, dict[str, float]] = {}
    on_gpus: dict[str, dict[str, float]] = {}
    for r in d.residents.by_id.values():
        if r.holder not in holders:
            continue
        name = _key(r, reserved)
        if r.is_worker:
            lent[name] = holders[r.holder]
        elif r.life.phase is not Phase.WAITING:
            reserved[name] = r.amounts
        if r.holder in shares:
            on_gpus[name] = {str(i): share for i, share in shares[r.holder].items()}
    return {"node_id": machine.node, **machine.facts(), "labels": machine.labels, "totals": machine.totals,
            "max_concurrent": machine.max_concurrent, "reserved": reserved, "lent": lent, "gpu_shares": on_gpus}


def _key(r: Resident, taken: dict[str, dict[str, float]]) -> str:
    """Its name, or its id if it has none or the name is that of an actor in another namespace."""
    name = r.options.get("name")
    return name if name and name not in taken else r.actor
