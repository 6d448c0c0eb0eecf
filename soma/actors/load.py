"""How busy this machine is, by its own count: nothing here waits for a measurement."""

from __future__ import annotations

import os


def load() -> dict[str, float]:
    """"load_1m": processes that ran or wanted to, on average over a minute; "memory_available": bytes that could be had at once."""
    import psutil  # 15 ms that `init` need not spend

    return {"load_1m": os.getloadavg()[0], "memory_available": int(psutil.virtual_memory().available)}
