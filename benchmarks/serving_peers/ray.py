"""Ray Serve: `python -m benchmarks.serving_peers.ray PORT WHAT SLOTS` is the server."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from benchmarks.serving_work import STEPS as ALL
from benchmarks.serving_work import Server, free_port, started

NOTE = "one replica, or two; it has no logs of a prediction"


def serve(what: str, slots: int) -> AbstractContextManager[Server]:
    port = free_port()
    return started([sys.executable, "-m", __spec__.name, str(port), what, str(slots)], {}, port, "/-/routes",
                   lambda status, body: status == 200 and b'"/"' in body, path="/", ask=lambda inputs: json.dumps(inputs).encode(),
                   answer=dict)


def program(port: int, what: str, slots: int) -> None:
    import ray
    from ray import serve as ray_serve
    from starlette.requests import Request
    from starlette.responses import StreamingResponse

    from benchmarks.serving_peers.doing import do, words

    @ray_serve.deployment(num_replicas=slots, ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=64)
    class Deployed:
        async def __call__(self, request: Request) -> Any:
            x = await request.json()
            if what == "Words":
                return StreamingResponse(words(x["n"]), media_type="text/plain")
            return {"output": do(x.get("what", ""), x.get("n", 0), x.get("data", ""))}

    ray.init(num_cpus=2, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    ray_serve.run(Deployed.bind(), blocking=False)
    signal.sigwait({signal.SIGTERM})
    ray.shutdown()


def begin() -> None:
    return None


start = stop = begin
STEPS = {name: partial(step, serve) for name, step in ALL.items() if name != "logs"}

if __name__ == "__main__":
    program(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
