"""The daemon's start and end: what its machine has, the handshake with its driver, the watch on the driver's life."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
from pathlib import Path
from typing import Any

from soma.config import Settings
from soma.daemon.capabilities import detect
from soma.daemon.node import Daemon
from soma.daemon.sentinel import Sentinel
from soma.daemon.spawner import Spawner
from soma.transport.security import write_owner

log = logging.getLogger("soma.daemon")


def serve(lifeline: socket.socket, told: dict[str, Any], directory: Path, spawner: Spawner) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wanted = told["settings"]
    capabilities = detect(num_cpus=wanted["num_cpus"], num_gpus=wanted["num_gpus"], tags=tuple(wanted["tags"]))
    ram = capabilities.ram_bytes
    settings = Settings(**{
        **wanted, "num_cpus": float(capabilities.cpu_cores), "preload": tuple(wanted["preload"]),
        "tags": capabilities.tags,
        "num_gpus": float(wanted["num_gpus"] if wanted["num_gpus"] is not None else len(capabilities.gpus)),
        "memory": int(wanted["memory"] or ram * 0.7), "object_store_memory": int(wanted["object_store_memory"] or ram * 0.3)})
    write_owner(directory, daemon=os.getpid())
    daemon = Daemon(directory, told["node"], settings, capabilities, spawner)
    signal.signal(signal.SIGTERM, lambda *_: daemon.finish())
    driver = Sentinel(told["driver"])
    # the socket closes when the driver and all its forks are gone; the sentinel tells of the driver alone
    daemon.watch_fd(driver.fileno(), lambda _: daemon.finish())
    daemon.watch_fd(lifeline.fileno(), lambda _: daemon.finish())
    lifeline.sendall(json.dumps({"totals": daemon.totals, "object_store_memory": settings.object_store_memory}).encode() + b"\n")
    try:
        daemon.run()
    except Exception:
        log.exception("the daemon failed; the cluster ends")  # before anything is closed: the driver shows this
        raise
    finally:
        daemon.close()
        with contextlib.suppress(OSError):
            lifeline.close()
