"""joblib on the cluster, as `ray.util.joblib`: what `with joblib.parallel_config("soma"): …` needs to have been registered."""

from __future__ import annotations

from joblib.parallel import register_parallel_backend

from soma.util.joblib.backend import SomaBackend as SomaBackend


def register_soma() -> None:
    """Make joblib know the backend "soma"; further arguments of `parallel_config("soma", num_cpus=2, …)` are those of `SomaBackend`."""
    register_parallel_backend("soma", SomaBackend)
