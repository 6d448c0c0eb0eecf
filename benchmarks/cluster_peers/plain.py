"""pyzmq alone over TCP without encryption: what CURVE costs is the difference."""

from __future__ import annotations

from benchmarks.cluster_peers.raw import Plain
from benchmarks.cluster_work import Measured

NOTE = "as raw, without encryption: who can reach the port can read and send"

MEASURED = Measured(Plain())
STEPS, start, stop = MEASURED.steps, MEASURED.start, MEASURED.stop
