"""Amounts of resources, exactly: whole ten-thousandths, so ten times 0.1 CPU is one CPU.

Refuses: amounts that are negative, infinite or no number; 1.5 GPUs. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

PARTS = 10_000
"""Smallest amount of anything: 1/10000."""

CPU, GPU, MEMORY = "CPU", "GPU", "memory"

Parts = dict[str, int]


def parts_of(request: Mapping[str, float]) -> Parts:
    """A request in parts, without zeros. What is asked for is never rounded down to nothing.

    Raises:
        ValueError: an amount that nothing could mean; names it.
    """
    parts = {}
    for name, amount in request.items():
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not math.isfinite(amount) or amount < 0:
            raise ValueError(f"{name}={amount!r}: a number of at least 0")
        n = amount * PARTS if isinstance(amount, int) else round(amount * PARTS)
        if name == GPU and n > PARTS and n % PARTS:
            raise ValueError(f"{name}={amount!r}: a share below 1, or whole GPUs")
        if amount:
            parts[name] = max(1, n)
    return parts


def explain_infeasible(request: Mapping[str, float], total: Mapping[str, float]) -> str:
    """"asked for 64 CPU; the cluster has 2", for everything of which there is too little. Empty when there is enough."""
    have = parts_of(total)
    short = [name for name, n in parts_of(request).items() if n > have.get(name, 0)]
    if not short:
        return ""
    asked = " and ".join(amount_of(name, request[name]) for name in short)
    return f"asked for {asked}; the cluster has {' and '.join(quantity(name, total.get(name, 0)) for name in short)}"


def amount_of(name: str, amount: float) -> str:
    """For people: "2 GPU", "3 GiB of memory"."""
    return f"{quantity(name, amount)} {'of ' * (name == MEMORY)}{name}"


def quantity(name: str, amount: float) -> str:
    """The number alone, with the unit of memory: "2", "3 GiB"."""
    if name != MEMORY:
        return f"{amount:.10g}"
    size, unit = next(((s, u) for s, u in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")) if amount >= s), (1, "bytes"))
    return f"{amount / size:.4g} {unit}"
