"""Ray with two nodes on this machine, the second with a tag of its own. Not encrypted (its TLS is off by default)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from benchmarks.cluster_work import Measured, join_time, on_the_far_node
from benchmarks.peers.ray import Ray as OneMachine
from benchmarks.steps import Scale, Values

NOTE = "two raylets of one machine; not encrypted"


class Ray(OneMachine):
    def start(self) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        with on_the_far_node():
            self._cluster.add_node(num_cpus=2, resources={"far": 1000})
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level=40)
        from benchmarks.peers.ray import Actor

        self._remote = ray.remote(Actor).options(resources={"far": 1})

    def stop(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()

    def actor(self) -> Any:
        return self._remote.remote()

    @property
    def address(self) -> str:
        return str(self._cluster.address)


def join(scale: Scale) -> Values:
    """`--block`, because otherwise the command takes a second longer to see that all is well."""
    before = alive()
    command = [str(Path(sys.executable).with_name("ray")), "start", f"--address={SYSTEM.address}", "--num-cpus=1", "--block"]
    return {"join": join_time(command, dict(os.environ), lambda: alive() > before, stays=True)}


def alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())


SYSTEM = Ray()
MEASURED = Measured(SYSTEM, join=join)
STEPS, start, stop = MEASURED.steps, MEASURED.start, MEASURED.stop
