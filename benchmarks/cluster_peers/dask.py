"""Dask's actors on worker processes, with TLS between all."""

from __future__ import annotations

import os
import sys
from typing import Any

from distributed import Client, LocalCluster
from distributed.security import Security

from benchmarks.cluster_work import Measured, join_time, on_the_far_node
from benchmarks.peers.dask import Actor
from benchmarks.peers.dask import Dask as OneMachine
from benchmarks.steps import Scale, Values

NOTE = "TLS, with certificates made for the run; a node is a worker process"


class Dask(OneMachine):
    def start(self) -> None:
        self.security = Security.temporary()
        with on_the_far_node():
            self._cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, security=self.security)
        self._client = Client(self._cluster)
        self._made = 0

    def actor(self) -> Any:
        return self._client.submit(Actor, actor=True, pure=False).result()

    @property
    def address(self) -> str:
        return str(self._cluster.scheduler_address)

    def workers(self) -> int:
        return len(self._client.scheduler_info(n_workers=-1)["workers"])


def join(scale: Scale) -> Values:
    """Its certificates are given as files, where a user would have them."""
    before = SYSTEM.workers()
    flags = []
    for flag, key in (("ca-file", "tls_ca_file"), ("cert", "tls_worker_cert"), ("key", "tls_worker_key")):
        path = os.path.join(os.environ["TMPDIR"], flag)
        with open(path, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as f:
            f.write(getattr(SYSTEM.security, key))
        flags += [f"--tls-{flag}", path]
    command = [sys.executable, "-m", "dask", "worker", SYSTEM.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", *flags]
    return {"join": join_time(command, dict(os.environ), lambda: SYSTEM.workers() > before, stays=True)}


SYSTEM = Dask()
MEASURED = Measured(SYSTEM, join=join)
STEPS, start, stop = MEASURED.steps, MEASURED.start, MEASURED.stop
