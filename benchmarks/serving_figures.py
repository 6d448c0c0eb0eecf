"""What is measured of serving, and what soma promises about it."""

from __future__ import annotations

from benchmarks.figures import Figure, Promise, Subject, against, of
from benchmarks.serving_work import CONNECTIONS

_LOAD = [(f"{key}_{n}", title.format(n), unit, lower) for n in CONNECTIONS for key, title, unit, lower in (
    ("rps", "answered with 200, {} connection(s)", "requests/s", False), ("p50", "p50, {} connection(s)", "ms", True),
    ("p99", "p99, {} connection(s)", "ms", True), ("refused", "refused or broken, {} connection(s)", "%", True))]

FIGURES: tuple[Figure, ...] = (
    *(Figure(key, title, unit, lower_is_better=lower, charted=not key.startswith("refused")) for key, title, unit, lower in _LOAD),
    Figure("serial", "one client, 5 ms between requests", "ms"),
    Figure("serial_refused", "of these, refused", "%", charted=False),
    Figure("body_1", "a request of 1 MB", "ms"),
    Figure("body_10", "a request of 10 MB", "ms"),
    Figure("logs", "a prediction that prints 20,000 lines", "s"),
    Figure("stream", "a prediction that streams 10,000 chunks", "s"),
    Figure("killed", "kill -9 of a slot: until its prediction is answered", "ms"),
    Figure("again", "the same: until the next prediction is well", "s"),
    Figure("busy", "pure Python: one prediction after the other ÷ two at once", "×", lower_is_better=False),
    Figure("bound", "the same ÷ what two bare processes gain, in turns", "×", lower_is_better=False),
    Figure("start", "from the command to ready", "s"),
    Figure("beyond", "the same, beyond the import of the predictor", "s"),
    Figure("memory", "memory of the front end after the load", "MB"),
)

PROMISES: tuple[Promise, ...] = (
    Promise("answered at 16 connections", False, 2000, "requests/s", of("rps_16")),
    Promise("answered at 1 connection", False, 1300, "requests/s", of("rps_1")),
    Promise("refused at 1 connection", True, 0, "%", of("refused_1")),
    Promise("refused of a serial client with pauses", True, 0, "%", of("serial_refused")),
    Promise("p50 at 1 connection", True, 1.2, "ms", of("p50_1")),
    Promise("p99 at 1 connection", True, 5, "ms", of("p99_1")),
    Promise("20,000 lines", True, 0.5, "s", of("logs")),
    Promise("10,000 chunks", True, 0.5, "s", of("stream")),
    Promise("kill -9 of a slot: until its prediction is answered", True, 50, "ms", of("killed")),
    Promise("the same: until the next prediction is well", True, 0.3, "s", of("again")),
    Promise("two slots ÷ one, pure Python", False, 1.7, "×", of("busy")),
    Promise("the same ÷ what two bare processes gain", False, 0.85, "×", of("bound")),
    Promise("memory of the front end", True, 60, "MB", of("memory")),
    Promise("from the command to ready, beyond the import of the predictor", True, 0.8, "s", of("beyond")),
    Promise("answered at 16 connections ÷ coglet's", False, 1.12, "×", against("rps_16", "coglet")),
    Promise("answered at 1 connection ÷ coglet's", False, 1.18, "×", against("rps_1", "coglet")),
)

_STEP = {"body_1": "bodies", "body_10": "bodies", "serial_refused": "serial", "killed": "kill", "again": "kill", "memory": "load",
         "bound": "busy", "beyond": "start"}
SERVING = Subject("serving", "Serving", FIGURES, PROMISES, (), {
    f.key: "load" if f.key.rpartition("_")[0] in ("rps", "p50", "p99", "refused") else _STEP.get(f.key, f.key) for f in FIGURES})
