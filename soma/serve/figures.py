"""What Prometheus is told: requests by how they ended, how long they took, the queue, the slots, restarts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from soma.serve.predictions import Prediction

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Seconds."""


class Figures:
    """Of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ended = Counter("soma_predictions", "Predictions that ended, by how.", ["status"], registry=self._registry)
        self._ended = {status: ended.labels(status) for status in ("succeeded", "failed", "canceled")}
        self._took = Histogram("soma_predict_seconds", "From a prediction's beginning in its slot to its end.", buckets=BUCKETS,
                               registry=self._registry)
        self.refused = Counter("soma_refused", "Requests for which there was no room.", registry=self._registry)
        self._slots = Gauge("soma_slots", "Slots by state.", ["state"], registry=self._registry)
        self._queue = Gauge("soma_queue", "Predictions that wait for a slot.", registry=self._registry)
        self._restarts = Gauge("soma_slot_restarts", "Processes of slots that were made again.", registry=self._registry)

    def ended(self, prediction: Prediction) -> None:
        self._ended[prediction.status].inc()
        if prediction.took is not None:
            self._took.observe(prediction.took)

    def text(self, counts: dict[str, int], restarts: int) -> str:
        self._queue.set(counts.pop("queue"))
        for state, count in counts.items():
            self._slots.labels(state).set(count)
        self._restarts.set(restarts)
        return generate_latest(self._registry).decode()
