"""`python -m soma.daemon.head_process FD`: the head of a cluster of several machines, started by `soma start --head`.

Runs no actors itself; its machine has a node agent for that, as every other. It ends when it is told to, by a driver or a signal.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from soma.config import Settings
from soma.daemon.coordination.membership import Membership
from soma.daemon.fleet import Fleet
from soma.daemon.gate import Gate, state_dir
from soma.daemon.head import Head
from soma.daemon.told import answer, read_told
from soma.errors import SomaError
from soma.ids import DAEMON
from soma.transport import messages as m
from soma.transport.control import ControlServer
from soma.transport.keys import KeyPair, own_key, text_of
from soma.transport.network import NetworkWire
from soma.transport.place import Place, network
from soma.transport.security import write_owner
from soma.transport.visitors import Inbox

log = logging.getLogger("soma.daemon")

CLOSED = 1.5
"""Seconds after which a member whose connection closed, and did not come back, is lost."""


def main() -> None:
    channel, told = read_told(int(sys.argv[1]))
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(told, lambda ready: answer(channel, ready))
    except (SomaError, OSError) as e:
        log.exception("the head could not start")
        answer(channel, {"error": f"{type(e).__name__}: {e}"})
        raise SystemExit(1) from None
    finally:
        shutil.rmtree(told["directory"], ignore_errors=True)


def serve(told: dict[str, Any], ready: Any) -> None:
    """Be the head until it is over."""
    directory, bind = Path(told["directory"]), str(told["bind"])
    host = bind.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    settings = Settings(**{**told["settings"], "preload": tuple(told["settings"]["preload"]), "tags": ()})
    pair, data = own_key("head"), KeyPair.new()
    gate = Gate(state_dir())
    gate.allow(own_key("driver").public, "driver", note="drivers of the head's user")
    write_owner(directory, daemon=os.getpid(), driver=os.getpid())  # who started it may end
    cluster = secrets.token_hex(8)
    wire = NetworkWire(directory, network(host, directory, data, ""))
    name = wire.claim(DAEMON)
    head = Head(wire, name, cluster, settings)
    inbox = Inbox()
    server = ControlServer(bind, pair, gate, inbox)
    heartbeat, grace = float(told["heartbeat"]), float(told["grace"])
    shared = {"namespace": settings.namespace, "object_store_memory": settings.object_store_memory,
              "log_to_driver": settings.log_to_driver, "start_method": settings.start_method}

    def welcome(msg: m.Join) -> m.Welcome:
        return m.Welcome(msg.request, cluster, data.public, data.secret, name, heartbeat, grace, shared)

    fleet = Fleet(head, server, gate, inbox, Membership(heartbeat, 3, grace, CLOSED), welcome)
    Place(cluster, "", host, name, server.address, text_of(pair.public), text_of(data.public), text_of(data.secret)).write(directory)
    signal.signal(signal.SIGTERM, lambda *_: head.finish())
    ready({"address": server.address, "public": text_of(pair.public), "cluster": cluster, "pid": os.getpid()})
    try:
        head.loop.run()
        fleet.close("the cluster was stopped")
    except Exception:
        log.exception("the head failed")
        raise
    finally:
        server.close()
        head.close()
        inbox.close()


if __name__ == "__main__":
    main()
