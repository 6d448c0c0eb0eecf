"""What is measured of actors, and what soma promises about them."""

from __future__ import annotations

from benchmarks.figures import Figure, Promise, Subject, against, of

FIGURES: tuple[Figure, ...] = (
    Figure("import", "import of the package", "ms", charted=False),
    Figure("init", "init to the first answered call, fresh process", "s"),
    Figure("first_actor", "first actor, to its first answer", "ms", charted=False),
    Figure("further_actor", "each further actor, to its first answer", "ms"),
    Figure("actor_pss", "memory of an idle actor process (PSS)", "MB"),
    Figure("helpers_pss", "memory of all helper processes (PSS)", "MB"),
    Figure("sync", "synchronous call (p50)", "µs"),
    Figure("raw_sync", "raw round trip in blocks that alternate with those calls (p50)", "µs", charted=False),
    Figure("sync_ratio", "synchronous call ÷ that raw round trip", "×", charted=False),
    Figure("pipelined", "pipelined calls to one actor", "calls/s", lower_is_better=False),
    Figure("four", "calls to 4 actors from 4 callers", "calls/s", lower_is_better=False),
    Figure("wait", "1,000 calls, then one wait for all", "ms"),
    Figure("argument_1", "argument of 1 MB", "GB/s", lower_is_better=False),
    Figure("argument_10", "argument of 10 MB", "GB/s", lower_is_better=False),
    Figure("argument_100", "argument of 100 MB", "GB/s", lower_is_better=False),
    Figure("result_1", "result of 1 MB", "GB/s", lower_is_better=False),
    Figure("result_10", "result of 10 MB", "GB/s", lower_is_better=False),
    Figure("result_100", "result of 100 MB", "GB/s", lower_is_better=False),
    Figure("death", "death of an actor to the error of 100 waiting calls", "ms"),
    Figure("driver_killed", "driver killed with SIGKILL to nothing left", "s"),
)

EXTRAS: tuple[Figure, ...] = (
    Figure("heavy_imports", "torch and sklearn loaded by the import", "packages"),
)

PEERS = ("ray", "dask", "xoscar")

PROMISES: tuple[Promise, ...] = (
    Promise("synchronous call ÷ raw round trip", True, 1.8, "×", of("sync_ratio")),
    Promise("synchronous call ÷ Ray's", True, 0.2, "×", against("sync", "ray")),
    Promise("pipelined calls to one actor", False, 25_000, "calls/s", of("pipelined")),
    Promise("pipelined calls ÷ Ray's", False, 10, "×", against("pipelined", "ray")),
    Promise("argument of 10 MB", False, 3, "GB/s", of("argument_10")),
    Promise("argument of 100 MB", False, 5, "GB/s", of("argument_100")),
    Promise("argument of 10 MB ÷ the best of Ray, Dask, xoscar", False, 1, "×", against("argument_10", *PEERS)),
    Promise("argument of 100 MB ÷ the best of Ray, Dask, xoscar", False, 1, "×", against("argument_100", *PEERS)),
    Promise("result of 10 MB", False, 2.5, "GB/s", of("result_10")),
    Promise("result of 100 MB", False, 4, "GB/s", of("result_100")),
    Promise("`import soma`", True, 150, "ms", of("import")),
    Promise("torch and sklearn loaded by `import soma`", True, 0, "packages", of("heavy_imports")),
    Promise("init to the first answered call", True, 0.6, "s", of("init")),
    Promise("each further actor, to its first answer", True, 25, "ms", of("further_actor")),
    Promise("memory of an idle actor process (PSS)", True, 15, "MB", of("actor_pss")),
    Promise("death of an actor to every waiting call's error", True, 50, "ms", of("death")),
    Promise("driver killed with SIGKILL to nothing left", True, 2, "s", of("driver_killed")),
)

ACTORS = Subject(
    "actors", "Actors on one machine", FIGURES, PROMISES, EXTRAS,
    {**dict.fromkeys(("argument_1", "argument_10", "argument_100"), "argument"),
     **dict.fromkeys(("result_1", "result_10", "result_100"), "result"),
     **dict.fromkeys(("further_actor", "actor_pss", "helpers_pss"), "further"), **dict.fromkeys(("init", "first_actor"), "start")},
    {"raw": "raw pyzmq", "multiprocessing": "multiproc."})
