"""`python -m soma.daemon.node_process FD`: the agent of one machine in a cluster of several, started by `soma join`.

As the daemon of a local cluster, it imports what actors need and forks the zygote before anything is opened. When it is gone, however
it went, the zygote ends every process it made and removes its directory.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any

from soma.daemon.told import answer, read_told


def main() -> None:
    channel, told = read_told(int(sys.argv[1]))
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("OPENBLAS_NUM_THREADS", "1")  # threads do not survive the fork anyway
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    for name in ("numpy", "zmq", "cloudpickle", "soma.actors.process", "soma.actors.pool", "soma.transport.network", "soma.transport.place",
                 *told["preload"]):
        __import__(name)
    from soma.daemon.spawner import Spawner

    directory = Path(told["directory"])
    spawner = Spawner(directory.name, str(directory))
    from soma.errors import SomaError

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(told, directory, spawner, lambda ready: answer(channel, ready))
    except (SomaError, OSError, ValueError) as e:
        logging.getLogger("soma.daemon").exception("the node could not start")
        answer(channel, {"error": f"{type(e).__name__}: {e}"})
        raise SystemExit(1) from None


def serve(told: dict[str, Any], directory: Path, spawner: Any, ready: Any) -> None:
    """Join, and be this machine's agent until it has left."""
    from soma.config import Settings
    from soma.daemon.agent import About, Agent
    from soma.daemon.capabilities import detect
    from soma.daemon.coordination.nodesession import NodeSession
    from soma.daemon.joining import data_pair, join, own_host
    from soma.daemon.loop import Loop
    from soma.daemon.machine import LocalMachine
    from soma.daemon.stopping import Stopping, asked
    from soma.transport.keys import text_of
    from soma.transport.network import NetworkWire
    from soma.transport.place import Place, network
    from soma.transport.security import write_owner

    node, address = told["node"], told["address"]
    capabilities = detect(told["num_cpus"], told["num_gpus"], tags=tuple(told["tags"]))
    write_owner(directory, daemon=os.getpid(), driver=os.getpid())  # who started it may end
    joined = join(address, "node", node, told["token"])
    welcome, host = joined.welcome, told["host"] or own_host(address)
    data = data_pair(welcome)
    ram = capabilities.ram_bytes
    settings = Settings(
        num_cpus=float(capabilities.cpu_cores), num_gpus=float(capabilities.num_gpus), memory=int(told["memory"] or ram * 0.7),
        object_store_memory=int(told["object_store_memory"] or ram * 0.3), namespace=str(welcome.settings["namespace"]),
        resources=dict(told["resources"]), tags=capabilities.tags, log_to_driver=bool(welcome.settings["log_to_driver"]),
        start_method=str(welcome.settings["start_method"]), preload=tuple(told["preload"]))
    Place(welcome.cluster, node, host, welcome.head, address, text_of(joined.head_key), text_of(data.public),
          text_of(data.secret)).write(directory)
    wire = NetworkWire(directory, network(host, directory, data, welcome.head))
    base = f"n-{secrets.token_hex(8)}"
    name = wire.claim(base)
    outlet, mailbox, side = wire.outlet(name), wire.mailbox(name), wire.mailbox(name + ".s")
    loop = Loop(mailbox, lambda frames: agent.on_message(frames))
    session = NodeSession(node, int(time.time()), heartbeat=welcome.heartbeat, welcomed=True)
    about = {"pid": os.getpid(), "forkserver_pid": spawner.pid, "directory": str(directory), "host": host,
             **({} if told["max_concurrent"] is None else {"max_concurrent": int(told["max_concurrent"])})}
    agent = Agent(loop, outlet, joined.client, session, About(node, name, {**capabilities.as_dict(), "about": about}, told["labels"]),
                  float(told["patience"]))
    machine = LocalMachine(loop, directory, node, settings, capabilities, spawner, agent)
    signal.signal(signal.SIGTERM, lambda *_: agent.stop(lambda: asked(directory, float(told["stop_grace"]))))
    signal.signal(signal.SIGINT, lambda *_: agent.stop(lambda: Stopping(0.0, "it was interrupted")))
    agent.on_accepted = lambda: ready({"node": node, "pid": os.getpid(), "host": host, "capabilities": capabilities.as_dict(),
                                       "totals": machine.totals, "cluster": welcome.cluster})
    try:
        agent.begin(machine)
        loop.run()
    finally:
        mailbox.close()
        side.close()
        machine.close()
        loop.close()
        outlet.close(0.2)
        joined.client.close()
        wire.close()


if __name__ == "__main__":
    main()
