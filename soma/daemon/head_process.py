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
from dataclasses import replace
from pathlib import Path
from typing import Any

from soma.config import Settings
from soma.daemon.coordination.coordinator import Coordinator
from soma.daemon.coordination.membership import Membership
from soma.daemon.estate import Estate, begin, forget, identity_of, take_over
from soma.daemon.fleet import Fleet
from soma.daemon.gate import Gate, state_dir
from soma.daemon.head import Head
from soma.daemon.recorded import entries, unstarted
from soma.daemon.restoring import restore
from soma.daemon.stopping import asked
from soma.daemon.told import answer, read_told
from soma.errors import SomaError
from soma.ids import DAEMON
from soma.transport import messages as m
from soma.transport.control import ControlServer
from soma.transport.keys import KeyPair, own_key, text_of
from soma.transport.lasting import Lasting
from soma.transport.naming import SIDE, parse
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
    if told["fresh"]:
        forget(state_dir(), bind)
    estate = take_over(state_dir(), bind) or begin(state_dir(), secrets.token_hex(8))
    try:
        over = _lead(told, directory, host, bind, settings, estate, ready)
    except BaseException:
        if estate.identity is None:
            estate.remove()
        else:
            estate.close()
        raise
    if over:
        estate.remove()


def _lead(told: dict[str, Any], directory: Path, host: str, bind: str, settings: Settings, estate: Estate, ready: Any) -> bool:
    """True once the cluster is over."""
    before, cluster = estate.identity, estate.path.name
    pair, data = own_key("head"), KeyPair.new() if before is None else before.data
    gate = Gate(state_dir())
    gate.allow(own_key("driver").public, "driver", note="drivers of the head's user")
    write_owner(directory, daemon=os.getpid(), driver=os.getpid())  # who started it may end
    told_network, ports = network(host, directory, data, ""), (0, 0)
    if before is not None:
        main, side = parse(before.name), parse(before.name + SIDE)
        assert main is not None and side is not None
        told_network, ports = replace(told_network, tag=main.tag), (main.port, side.port)
    wire = NetworkWire(directory, told_network)
    name = wire.claim(DAEMON, ports, Lasting)
    ledger = estate.open()
    coordinator = Coordinator.restore(entries(ledger.tables), again=unstarted(ledger.tables))
    head = Head(wire, name, cluster, settings, ledger)
    inbox = Inbox()
    server = ControlServer(bind if before is None else before.address, pair, gate, inbox)
    if before is None:
        estate.write(identity_of(cluster, bind, server.address, name, data))
    heartbeat, grace = float(told["heartbeat"]), float(told["grace"])
    shared = {"namespace": settings.namespace, "object_store_memory": settings.object_store_memory,
              "log_to_driver": settings.log_to_driver, "start_method": settings.start_method}

    def welcome(msg: m.Join) -> m.Welcome:
        if msg.node_id is not None:
            head.joined.add(msg.node_id)
            head.book.put("joined", msg.node_id, True)
        return m.Welcome(msg.request, cluster, data.public, data.secret, name, heartbeat, grace, shared)

    received = wire.received(name)
    assert isinstance(received, Lasting)
    fleet = Fleet(head, server, gate, inbox, Membership(heartbeat, 3, grace, CLOSED), welcome, coordinator)
    restore(head, fleet, ledger.tables, received)
    head.settle()
    Place(cluster, "", host, name, server.address, text_of(pair.public), text_of(data.public), text_of(data.secret)).write(directory)
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        stopped.append(number)
        head.finish()

    signal.signal(signal.SIGTERM, stop)
    ready({"address": server.address, "public": text_of(pair.public), "cluster": cluster, "pid": os.getpid(),
           "continued": before is not None})
    try:
        head.loop.run()
        head.settle()
        fleet.close(asked(directory, 0.0).reason if stopped else "the cluster was stopped")
        return True
    except Exception:
        log.exception("the head failed")
        raise
    finally:
        server.close()
        head.close()
        inbox.close()


if __name__ == "__main__":
    main()
