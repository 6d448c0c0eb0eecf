"""joblib: two branches on loky's processes."""

from __future__ import annotations

from joblib import Parallel, delayed

from benchmarks.graph_work import Scale, Values, speedup, spin

NOTE = "functions on a pool of two processes; it has no graphs"


def branches(scale: Scale) -> Values:
    pool = Parallel(n_jobs=2)
    return speedup(lambda: pool([delayed(spin)(scale.spin)] * 2), lambda: (spin(scale.spin), spin(scale.spin)), scale.spins)


def start() -> None:
    return None


STEPS = {"branches": branches}
stop = start
