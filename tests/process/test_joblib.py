"""The joblib backend on real processes: the same results as without it, whatever dies, and nothing left when it is over.

What large arguments cost is read off the driver's arena, not off the backend's books.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed
from joblib.parallel import ThreadingBackend

import soma
from soma.errors import ActorDiedError, NotSerializableError
from soma.util.joblib import SomaBackend, register_soma
from soma.util.joblib.jobs import Hired, bytes_of

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("shared_cluster")]

LIMITS = "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"
MB = 125_000
"""float64 in a megabyte."""


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Any]:
    with soma.init(num_cpus=3, log_to_driver=False) as context:
        yield context


@pytest.fixture
def backend() -> Iterator[None]:
    """In force, with two jobs."""
    register_soma()
    with joblib.parallel_config("soma", n_jobs=2):
        yield


def workers() -> list[dict[str, Any]]:
    return [a for a in soma.status()["actors"] if a["class_name"] == "JoblibWorker"]


def workers_gone() -> None:
    """Those that are idle leave by themselves."""
    until, looks = time.monotonic() + 5, 0
    while workers() or soma.available_resources()["CPU"] != 3:
        looks += 1
        assert time.monotonic() < until, (looks, workers(), kept_by())


def kept_by() -> list[str]:
    """What of this process still holds a worker: to be read when one has not gone."""
    hired = [o for o in gc.get_objects() if type(o) is Hired]
    return [f"{type(r).__name__}: {r!r:.300}" for o in hired for r in gc.get_referrers(o) if r is not hired]


def pid_of(_: Any = None) -> int:
    return os.getpid()


def fails_at(n: int, bad: int) -> int:
    if n == bad:
        raise KeyError("mine", n)
    return n


def dies_at(n: int, bad: int) -> int:
    if n == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def waits_for(path: str) -> int:
    """Until the file is there; says first that it runs."""
    with open(path + ".begun", "a") as f:
        f.write(f"{os.getpid()}\n")
    moment = threading.Event()
    while not os.path.exists(path):
        moment.wait(0.005)
    return os.getpid()


def begun(path: str, n: int) -> list[int]:
    """The processes of `n` tasks that have begun."""
    until = time.monotonic() + 10
    while True:
        assert time.monotonic() < until
        if os.path.exists(path + ".begun"):
            with open(path + ".begun") as f:
                if len(pids := f.read().split()) == n:
                    return [int(pid) for pid in pids]


# -- the same results ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("backend")
def test_results_come_in_order_from_other_processes() -> None:
    assert Parallel()(delayed(math.sqrt)(i) for i in range(300)) == [math.sqrt(i) for i in range(300)]
    pids = set(Parallel(batch_size=1)(delayed(pid_of)(i) for i in range(30)))
    assert len(pids) == 2 and os.getpid() not in pids
    assert set(Parallel()(delayed(pid_of)(i) for i in range(8))) <= pids, "the same workers"
    assert Parallel()(delayed(lambda x: x + 1)(i) for i in range(3)) == [1, 2, 3]
    assert Parallel()([]) == []


@pytest.mark.usefixtures("backend")
def test_short_tasks_are_sent_in_batches() -> None:
    parallel = Parallel()
    parallel(delayed(abs)(i) for i in range(2000))
    assert parallel.n_completed_tasks == 2000 and parallel.n_dispatched_batches < 100


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("how", [{"pre_dispatch": "all"}, {"pre_dispatch": 1}, {"batch_size": 7}, {"timeout": 20}, {"mmap_mode": None}])
def test_every_way_of_dispatching(how: dict[str, Any]) -> None:
    assert Parallel(**how)(delayed(abs)(-i) for i in range(50)) == list(range(50))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("order", ["generator", "generator_unordered"])
def test_generators(order: str, tmp_path: Any) -> None:
    gate = str(tmp_path / "gate")
    out = Parallel(return_as=order, pre_dispatch="all", batch_size=1)([delayed(waits_for)(gate), *(delayed(abs)(-i) for i in range(20))])
    if order == "generator_unordered":
        assert sorted(next(out) for _ in range(20)) == list(range(20)), "while the first one still runs"
    open(gate, "w").close()
    rest = list(out)
    assert rest[1:] == (list(range(20)) if order == "generator" else [])
    assert [t for t in threading.enumerate() if t.name == "soma-joblib"] == []


@pytest.mark.usefixtures("backend")
def test_a_generator_that_is_dropped_ends_what_runs(tmp_path: Any) -> None:
    gate = str(tmp_path / "gate")
    out = Parallel(return_as="generator", batch_size=1)(delayed(waits_for)(gate) for _ in range(10))
    pids = begun(gate, 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tasks which were still being processed.*")
        del out
    until = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < until
    assert Parallel()(delayed(abs)(i) for i in range(3)) == [0, 1, 2]


@pytest.mark.usefixtures("backend")
def test_a_managed_parallel() -> None:
    with Parallel() as parallel:
        assert [parallel(delayed(abs)(i) for i in range(n)) for n in (3, 4)] == [[0, 1, 2], [0, 1, 2, 3]]
        with pytest.raises(KeyError):
            parallel(delayed(fails_at)(i, 0) for i in range(1))
        assert parallel(delayed(abs)(i) for i in range(3)) == [0, 1, 2]  # of a longer one joblib would still have tasks


@pytest.mark.usefixtures("backend")
def test_a_call_inside_of_another_one_does_not_wait_for_its_workers() -> None:
    out = Parallel(return_as="generator")(delayed(pid_of)(i) for i in range(4))
    assert set(Parallel()(delayed(pid_of)(i) for i in range(4))) == {os.getpid()}
    assert os.getpid() not in set(out)


@pytest.mark.usefixtures("backend")
def test_scikit_learns_grid_search_gives_the_same_scores() -> None:
    from sklearn.datasets import load_iris
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    x, y = load_iris(return_X_y=True)
    search = GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [1, 2, 3], "criterion": ["gini", "entropy"]}, n_jobs=-1)
    here = search.fit(x, y).cv_results_
    with joblib.parallel_config("threading", n_jobs=1):
        there = search.set_params(n_jobs=1).fit(x, y).cv_results_
    scores = [key for key in here if "score" in key and "time" not in key]
    assert len(scores) > 7 and all(np.array_equal(here[key], there[key]) for key in scores)


# -- errors and deaths -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("how", [{}, {"timeout": 20}])
def test_exceptions_arrive_as_themselves(how: dict[str, Any]) -> None:
    with pytest.raises(KeyError) as caught:
        Parallel(**how)(delayed(fails_at)(i, 5) for i in range(20))
    assert caught.value.args == ("mine", 5) and "fails_at" in str(caught.value.__cause__)
    assert Parallel(**how)(delayed(fails_at)(i, -1) for i in range(5)) == list(range(5))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("how", [{}, {"timeout": 20}])
def test_what_cannot_be_sent_is_said(how: dict[str, Any]) -> None:
    with pytest.raises(NotSerializableError, match="lock"):
        Parallel(**how)(delayed(abs)(threading.Lock() if i == 7 else i) for i in range(20))
    assert Parallel(**how)(delayed(abs)(i) for i in range(5)) == list(range(5))


@pytest.mark.usefixtures("backend")
def test_an_error_of_the_iterable_is_raised() -> None:
    def tasks() -> Iterator[Any]:
        yield from (delayed(abs)(i) for i in range(9))
        raise KeyError("of the iterable")

    with pytest.raises(KeyError, match="of the iterable"):
        Parallel(batch_size=1)(tasks())


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("how", [{}, {"timeout": 20}])
def test_a_killed_worker_is_said_and_replaced(how: dict[str, Any]) -> None:
    with pytest.raises(ActorDiedError) as caught:
        Parallel(batch_size=1, **how)(delayed(dies_at)(i, 5) for i in range(20))
    assert caught.value.signal == "SIGKILL"
    assert Parallel(**how)(delayed(dies_at)(i, -1) for i in range(20)) == list(range(20))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("how", [{}, {"timeout": 20}])
def test_a_worker_that_died_between_two_calls_costs_nothing(how: dict[str, Any]) -> None:
    for pid in set(Parallel(batch_size=1)(delayed(pid_of)(i) for i in range(20))):
        os.kill(pid, signal.SIGKILL)
    assert Parallel(batch_size=1, **how)(delayed(abs)(i) for i in range(20)) == list(range(20))


@pytest.mark.usefixtures("backend")
def test_other_calls_are_unharmed_by_a_killed_worker(tmp_path: Any) -> None:
    gate, found = str(tmp_path / "gate"), list[int]()
    other = threading.Thread(target=lambda: found.extend(Parallel(n_jobs=2, backend=SomaBackend(num_cpus=0.5))(
        delayed(waits_for)(gate) for _ in range(2))))
    other.start()
    begun(gate, 2)
    with pytest.raises(ActorDiedError):
        Parallel(batch_size=1)(delayed(dies_at)(i, 1) for i in range(4))
    open(gate, "w").close()
    other.join()
    assert len(set(found)) == 2


@pytest.mark.usefixtures("backend")
def test_ctrl_c_ends_what_runs(tmp_path: Any) -> None:
    gate, pids = str(tmp_path / "gate"), list[int]()

    def interrupt() -> None:
        pids.extend(begun(gate, 2))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        Parallel(batch_size=1)(delayed(waits_for)(gate) for _ in range(6))
    other.join()
    until = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < until
    assert Parallel()(delayed(abs)(i) for i in range(3)) == [0, 1, 2]


@pytest.mark.usefixtures("backend")
def test_a_timeout_ends_what_runs(tmp_path: Any) -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.2)(delayed(waits_for)(str(tmp_path / "never")) for _ in range(4))
    assert Parallel()(delayed(abs)(i) for i in range(3)) == [0, 1, 2]


def test_workers_that_do_not_start_are_an_error_and_not_a_hang() -> None:
    for how in ({}, {"timeout": 20}):
        bad = SomaBackend(runtime_env={"working_dir": "/nowhere"})
        with pytest.raises(Exception, match="nowhere"):
            Parallel(n_jobs=2, backend=bad, **how)(delayed(abs)(i) for i in range(5))


@pytest.mark.usefixtures("backend")
def test_idle_workers_leave_their_cpus_to_others() -> None:
    assert Parallel(n_jobs=3)(delayed(abs)(i) for i in range(3)) == [0, 1, 2]
    assert soma.get(soma.remote(abs).remote(-1), timeout=10) == 1, "they stay for a moment only"
    out = Parallel(n_jobs=3, return_as="generator", batch_size=1)(delayed(abs)(i) for i in range(5))
    assert [soma.get(soma.remote(abs).remote(i), timeout=10) for i in out] == [0, 1, 2, 3, 4], "also between results"
    gc.collect()
    gc.disable()  # a large program looks for cycles once in a long while: nothing may hang by one
    try:
        with pytest.raises(KeyError):
            Parallel(n_jobs=3)(delayed(fails_at)(i, 1) for i in range(5))
        workers_gone()
    finally:
        gc.enable()


# -- how many, on what -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("backend")
def test_jobs_are_the_clusters_cpus() -> None:
    assert [joblib.effective_n_jobs(n) for n in (-1, -2, 2, 64)] == [3, 2, 2, 3]
    assert SomaBackend(num_cpus=0.5).effective_n_jobs(-1) == 6 and SomaBackend(num_cpus=2).effective_n_jobs(-1) == 1
    assert SomaBackend(num_cpus=0).effective_n_jobs(64) == 64
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)([delayed(abs)(1)])
    with pytest.raises(TypeError, match="unknown option 'cpus'"):
        joblib.parallel_config("soma", cpus=2)
    with pytest.raises(ValueError, match="mmap_mode='w"):
        Parallel(mmap_mode="w+")(delayed(abs)(1) for _ in range(3))


def inner() -> tuple[int, str, set[int], dict[str, str | None]]:
    parallel = Parallel(n_jobs=-1)
    pids = set(parallel(delayed(pid_of)(i) for i in range(4)))
    return joblib.cpu_count(), type(parallel._backend).__name__, pids, {n: os.environ.get(n) for n in LIMITS}


@pytest.mark.usefixtures("backend")
def test_joblib_inside_of_a_task_has_the_workers_cores() -> None:
    from threadpoolctl import threadpool_info

    here = {os.getpid()}
    for cpus, name, pids, _ in Parallel()(delayed(inner)() for _ in range(2)):
        assert (cpus, name) == (1, "SequentialBackend") and len(pids) == 1 and pids != here
    wide = SomaBackend(num_cpus=1.5, inner_max_num_threads=3)
    assert isinstance(SomaBackend(nesting_level=0, num_cpus=2).get_nested_backend()[0], ThreadingBackend)
    with joblib.parallel_config(wide, n_jobs=2):
        for _, _, pids, limits in Parallel()(delayed(inner)() for _ in range(2)):
            assert len(pids) == 1 and pids != here and set(limits.values()) == {"3"}
        for pools in Parallel()(delayed(threadpool_info)() for _ in range(2)):
            assert {p["num_threads"] for p in pools} <= {3}


def test_on_one_process_it_is_a_loop() -> None:
    """`init(local=True)` is for debuggers, in a process of its own here."""
    import subprocess
    import sys

    code = """
import os, joblib, soma
from soma.util.joblib import register_soma
register_soma()
with soma.init(local=True, num_cpus=4), joblib.parallel_config("soma"):
    assert set(joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(3))) == {os.getpid()}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


# -- large values ----------------------------------------------------------------------------------------------------------------


def looked_at(x: Any, n: int) -> tuple[int, int, float, bool]:
    return os.getpid(), x.__array_interface__["data"][0], float(x[n]), x.flags.writeable


def lent() -> float:
    """Megabytes that lie in this process's arena for others."""
    return float(soma.status()["driver"]["arena_used"] / 1e6)


def lent_while(tasks: Iterator[Any], seen: list[float]) -> Iterator[Any]:
    for task in tasks:
        yield task
        seen.append(lent())


def all_given_back() -> None:
    until = time.monotonic() + 5
    while lent() > 0.1:
        assert time.monotonic() < until


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("mode", ["r", "c", None])
def test_an_array_of_many_tasks_is_sent_once(mode: str | None) -> None:
    all_given_back()
    x, used = np.arange(2 * MB, dtype=np.float64), list[float]()
    seen = Parallel(batch_size=1, mmap_mode=mode)(lent_while((delayed(looked_at)(x, n) for n in range(20)), used))
    assert [value for _, _, value, _ in seen] == list(range(20))
    assert {writeable for *_, writeable in seen} == {mode != "r"}
    if mode is not None:
        assert max(used) < 2.2 and used[-1] > 1.9, "one copy for all"
    if mode == "r":
        assert len({seen[:2] for seen in seen}) == len({pid for pid, *_ in seen}), "one mapping in each worker"
    all_given_back()


@pytest.mark.usefixtures("backend")
def test_arrays_of_one_task_each_are_let_go_one_after_the_other() -> None:
    used = list[float]()
    xs = [np.full(2 * MB, float(n)) for n in range(15)]
    seen = Parallel(batch_size=1)(lent_while((delayed(looked_at)(x, -1) for x in xs), used))
    assert [value for _, _, value, _ in seen] == list(range(15)) and max(used) < 9
    all_given_back()


def changed(x: Any) -> float:
    x += 1
    return float(x[0])


@pytest.mark.usefixtures("backend")
def test_who_may_write_to_an_argument() -> None:
    x = np.zeros(2 * MB)
    with pytest.raises(ValueError, match="read-only"):
        Parallel()(delayed(changed)(x) for _ in range(4))
    assert Parallel(mmap_mode="c")(delayed(changed)(x) for _ in range(4)) == [1, 1, 1, 1]
    assert Parallel(max_nbytes=None, batch_size=1)(delayed(changed)(x) for _ in range(4)) == [1, 1, 1, 1]
    assert x[0] == 0


@pytest.mark.usefixtures("backend")
def test_large_results_are_writable() -> None:
    out = Parallel()(delayed(np.full)(2 * MB, n) for n in range(6))
    for n, x in enumerate(out):
        x += 1
        assert x[0] == x[-1] == n + 1


def test_what_counts_as_large() -> None:
    import scipy.sparse

    assert bytes_of(np.zeros(5)) == 40 and bytes_of(np.array([object()])) == 0 and bytes_of("x" * 9) == 0
    assert bytes_of(scipy.sparse.csr_matrix(np.eye(3))) == 24
