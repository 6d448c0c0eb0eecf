"""`python -m soma.daemon FD`: started by `soma.init()`, which holds the other end of the socket FD.

Imports what actors need, forks the zygote before anything is opened, then serves until its driver is gone or says so.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from pathlib import Path


def main() -> None:
    lifeline = socket.socket(fileno=int(sys.argv[1]))
    told = json.loads(lifeline.makefile("r").readline())
    sys.path[:] = told["path"]
    del os.environ["PYTHONPATH"]  # it made this interpreter find what its driver finds; others that actors start are not meant
    if told["pythonpath"] is not None:
        os.environ["PYTHONPATH"] = told["pythonpath"]
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("OPENBLAS_NUM_THREADS", "1")  # threads do not survive the fork anyway
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for name in ("numpy", "zmq", "cloudpickle", "soma.actors.process", "soma.actors.pool", *told["preload"]):
        __import__(name)
    from soma.daemon.spawner import Spawner

    spawner = Spawner(told["cluster"], told["directory"])
    from soma.daemon.serve import serve

    serve(lifeline, told, Path(told["directory"]), spawner)


if __name__ == "__main__":
    main()
