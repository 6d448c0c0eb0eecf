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
from soma.daemon.head import Head
from soma.daemon.machine import LocalMachine
from soma.daemon.sentinel import Sentinel
from soma.daemon.spawner import Spawner
from soma.ids import DAEMON
from soma.transport.endpoint import ZmqWire
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
    head = Head(ZmqWire(directory), DAEMON, directory.name, settings)
    machine = LocalMachine(head.loop, directory, told["node"], settings, capabilities, spawner, head.residents)
    head.add(machine)
    signal.signal(signal.SIGTERM, lambda *_: head.finish())
    driver = Sentinel(told["driver"])
    # the socket closes when the driver and all its forks are gone; the sentinel tells of the driver alone
    head.loop.watch_fd(driver.fileno(), lambda _: head.finish())
    head.loop.watch_fd(lifeline.fileno(), lambda _: head.finish())
    lifeline.sendall(json.dumps({"totals": head.totals, "object_store_memory": settings.object_store_memory}).encode() + b"\n")
    try:
        head.loop.run()
    except Exception:
        log.exception("the daemon failed; the cluster ends")  # before anything is closed: the driver shows this
        raise
    finally:
        machine.close()
        head.close()
        with contextlib.suppress(OSError):
            lifeline.close()
