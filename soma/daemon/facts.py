"""What the daemon tells of its machine before every placement: totals, who holds what, load. Cheap: no process is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soma.actors.lifecycle import Phase
from soma.actors.load import load

if TYPE_CHECKING:
    from soma.daemon.node import Daemon
    from soma.daemon.residents import Resident


def facts(d: Daemon) -> dict[str, Any]:
    """This machine for `Engine.machines`.

    An actor that waits in the queue holds nothing yet; one that is blocked holds its CPU all the same, for it will take it back.
    """
    holders, shares = d.pool.holders(), d.pool.gpu_shares()
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
    return {"node_id": d.node, "capabilities": d.capabilities.as_dict(), "totals": d.totals, "reserved": reserved, "lent": lent,
            "gpu_shares": on_gpus, "load": load()}


def _key(r: Resident, taken: dict[str, dict[str, float]]) -> str:
    """Its name, or its id if it has none or the name is that of an actor in another namespace."""
    name = r.options.get("name")
    return name if name and name not in taken else r.actor
