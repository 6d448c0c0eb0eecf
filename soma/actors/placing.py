"""What an actor or task needs of a machine, as the daemon reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soma.actors.admission import explain_infeasible
from soma.actors.options import Options
from soma.errors import PlacementError


def placing(options: Options, default_cpus: float) -> dict[str, Any]:
    """The part of the options that the daemon places by, as plain data."""
    return {"num_cpus": float(default_cpus if options.num_cpus is None else options.num_cpus), "num_gpus": float(options.num_gpus or 0),
            "memory": int(options.memory or 0), "resources": {str(k): float(v) for k, v in options.resources.items()},
            "env": dict((options.runtime_env or {}).get("env_vars") or {})}


def amounts(needs: Mapping[str, Any]) -> dict[str, float]:
    """`placing` as one mapping of resource names to amounts."""
    wanted = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"], "memory": float(needs["memory"]), **needs["resources"]}
    return {k: v for k, v in wanted.items() if v}


def check_feasible(who: str, needs: Mapping[str, Any], totals: Mapping[str, float]) -> None:
    """PlacementError at once when no machine could ever satisfy the request."""
    wanted = amounts(needs)
    if any(v > totals.get(k, 0.0) for k, v in wanted.items()):
        raise PlacementError(f"{who} {explain_infeasible(wanted, totals)}")
