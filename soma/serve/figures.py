"""What Prometheus is told: requests by how they ended, how long they took, the queue, the slots, restarts.

Counted here, and made into metrics when somebody asks: a prediction ends far more often.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from soma.serve.predictions import Prediction

if TYPE_CHECKING:  # imported when somebody asks
    from prometheus_client import Metric

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds; what takes longer is in the last, without end."""


class Figures:
    """Of one server. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._ended = Counter({"succeeded": 0, "failed": 0, "canceled": 0})
        self._took = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0
        self.refused = 0
        """Requests for which there was no room."""

    def ended(self, prediction: Prediction) -> None:
        self._ended[prediction.status] += 1
        if prediction.took is not None:
            self._took[bisect_left(BUCKETS, prediction.took)] += 1
            self._seconds += prediction.took

    def text(self, counts: dict[str, int], restarts: int) -> str:
        """The page. `counts` are slots by state, and "queue"."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Page([*self._of_predictions(), *_of_slots(counts, restarts)]))
        return generate_latest(registry).decode()

    def _of_predictions(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        ended = CounterMetricFamily("soma_predictions", "Predictions that ended, by how.", labels=["status"])
        for status, count in self._ended.items():
            ended.add_metric([status], count)
        took = HistogramMetricFamily("soma_predict_seconds", "From a prediction's beginning in its slot to its end.")
        bounds = [*map(str, BUCKETS), "+Inf"]
        took.add_metric([], list(zip(bounds, accumulate(self._took), strict=True)), self._seconds)
        yield from (ended, took, CounterMetricFamily("soma_refused", "Requests for which there was no room.", self.refused))


def _of_slots(counts: dict[str, int], restarts: int) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    slots = GaugeMetricFamily("soma_slots", "Slots by state.", labels=["state"])
    for state, count in counts.items():
        if state != "queue":
            slots.add_metric([state], count)
    yield slots
    yield GaugeMetricFamily("soma_queue", "Predictions that wait for a slot.", counts["queue"])
    yield GaugeMetricFamily("soma_slot_restarts", "Processes of slots that were made again.", restarts)


class _Page:
    """A collector of metrics that are there."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics
