"""What every test stands on: nothing may be left behind, and clusters to test with.

After each test the autouse fixture `leaves_nothing` compares what this process holds with what it held when the test began:
processes it started (also those whose parent died), threads, file descriptors, shared memory, runtime directories. What needs
a moment to end is waited for with a limit; a test that already failed is cleaned up after, but not blamed twice.

`cluster` is a cluster for one test. `shared_cluster` is one for all tests of a file; it may keep idle workers, threads and
connections between tests, so what belongs to it is checked once, when the file is done.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

PATIENCE = 5.0
"""Seconds that processes and threads of a finished test have to end."""

MARK = "SOMA_TEST_SESSION"
"""Environment variable that every descendant inherits: finds those that were orphaned."""

UNREADABLE = {
    "joblib": ["process/test_joblib*.py"], "sklearn": ["unit/study/test_search_cv.py"], "optuna": ["unit/study/test_search_cv.py"],
    "prometheus_client": ["unit/serve/test_service.py"], "httpx": ["process/test_serve*.py", "unit/serve/http"],
}
"""Tests that cannot even be imported without an optional package; the others say so themselves, and are skipped."""

_absent = [name for name in UNREADABLE if importlib.util.find_spec(name) is None]
collect_ignore_glob = [pattern for name in _absent for pattern in UNREADABLE[name]]

_failed = pytest.StashKey[bool]()

# No deadline: on two cores, shared with real processes, any would be flaky.
_common: dict[str, Any] = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", max_examples=120, **_common)
settings.register_profile("nightly", max_examples=10_000, **_common)
PROFILE = os.environ.get("SOMA_TEST_PROFILE", "default")
settings.load_profile(PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """One printed seed for all of Hypothesis; sockets and directories of this run apart from everybody else's."""
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(secrets.randbelow(2**32))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
    os.environ[MARK] = secrets.token_hex(8)
    private = tempfile.mkdtemp(prefix="st-", dir="/tmp")  # short: the path of a socket has 108 bytes at most
    os.environ["XDG_RUNTIME_DIR"] = private
    os.environ["SOMA_RUNS"] = os.path.join(private, "runs")
    os.environ["SOMA_CACHE"] = os.path.join(private, "cache")
    for name in ("jobs", "environments", "keys", "state"):
        os.environ[f"SOMA_{name.upper()}"] = os.path.join(private, name)
    config.add_cleanup(lambda: shutil.rmtree(private))


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"soma: hypothesis profile {PROFILE}, --hypothesis-seed={config.option.hypothesis_seed}",
            *(f"soma: not collected without {name}: {', '.join(UNREADABLE[name])}" for name in _absent)]


UNHURRIED = frozenset(f"test_{name}.py" for name in (
    "bad_values", "cache_crash", "data_parallel", "far_training", "graph_cache_crash", "graph_placement", "graph_study", "pipeline_faults",
    "population_faults", "stream_faults", "study_faults", "torch_group"))
"""Tests of real processes that keep no times: they may run beside others. The rest of tests/process, and tests/net, is `timed`."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in ("process", "net") and item.path.name not in UNHURRIED:
            item.add_marker(pytest.mark.timed)
    if importlib.util.find_spec("torch") is None:
        for item in items:
            if item.get_closest_marker("torch"):
                item.add_marker(pytest.mark.skip(reason="PyTorch is not installed"))


def pytest_collection_finish() -> None:
    """Thousands of tests and their modules stay to the end: the collector need not look at them again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[misc]
    if report.failed:
        item.stash[_failed] = True
    return report  # type: ignore[return-value]


@dataclass(frozen=True)
class Held:
    """What this process holds at one moment."""

    processes: frozenset[psutil.Process]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    files: frozenset[str]

    @staticmethod
    def now() -> Held:
        return Held(frozenset(started_here()), frozenset(threading.enumerate()), frozenset(descriptors()), frozenset(traces()))

    def __le__(self, other: Held) -> bool:
        return (self.processes <= other.processes and self.threads <= other.threads
                and self.descriptors <= other.descriptors and self.files <= other.files)


_seen: dict[tuple[int, bytes], bool] = {}
"""Whether a process, by pid and start time, inherited this session's mark: looked at once, for this runs twice for each test."""


def started_here() -> list[psutil.Process]:
    """Our descendants, and processes that inherited this session's mark and lost their parent."""
    if not os.path.isdir("/proc/self"):
        return psutil.Process().children(recursive=True)  # type: ignore[no-any-return]
    mark = f"{MARK}={os.environ[MARK]}".encode()
    parents: dict[int, int] = {}
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as f:
                fields = f.read().rpartition(b")")[2].split()
            pid, key = int(name), (int(name), fields[19])
            parents[pid] = int(fields[1])
            if key not in _seen:
                with open(f"/proc/{name}/environ", "rb") as f:
                    _seen[key] = mark in f.read().split(b"\0")
            if _seen[key]:
                found.add(pid)
        except (OSError, IndexError):
            continue  # gone meanwhile, or not ours to look at: then it is none of our descendants either
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    processes = []
    for pid in sorted((found | ours) - {os.getpid()}):
        try:
            processes.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue  # it ended
    return processes


def children_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)  # type: ignore[no-any-return]
    except psutil.NoSuchProcess:
        return []  # it ended


def descriptors() -> Iterator[tuple[int, str]]:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return  # macOS: not counted there
    for entry in os.listdir(folder):
        try:
            target = os.readlink(folder / entry)
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        yield int(entry), target


def traces() -> Iterator[str]:
    """Runtime directories and shared memory with soma's name."""
    for folder in {os.environ["XDG_RUNTIME_DIR"], "/dev/shm"}:
        if os.path.isdir(folder):
            yield from (os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("soma"))


def describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({process.status()}): {' '.join(process.cmdline())[:120] or process.name()}"
    except psutil.NoSuchProcess:
        return f"{process.pid} (just ended)"


def leaks(before: Held, *, shared: bool = False) -> list[str]:
    """What is held now and was not `before`, in words; waits for what is about to end, and ends what does not.

    `shared` says that a cluster was running before already, and goes on: its processes may come and go, and so may what it keeps
    in this process.
    """
    now = Held.now()
    if shared:
        below = {child for p in before.processes for child in children_of(p)}
        now = replace(now, processes=now.processes - below, threads=before.threads, descriptors=before.descriptors)
    if now <= before:
        return []
    gc.collect()  # what only a cycle of references keeps open is slow, but not lost
    said = [f"child never waited for: {describe(p)}" for p in now.processes - before.processes if unreaped(p)]
    _, alive = psutil.wait_procs(now.processes - before.processes, timeout=PATIENCE)
    for process in alive:
        said.append(f"process {describe(process)}")
        process.kill()
    psutil.wait_procs(alive, timeout=PATIENCE)
    until = time.monotonic() + PATIENCE
    for thread in now.threads - before.threads:
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            said.append(f"thread {thread.name}")
    if not shared:
        said += [f"descriptor {n} -> {target}" for n, target in sorted(set(descriptors()) - before.descriptors)]
    said += [f"file {path}" for path in sorted(set(traces()) - before.files)]
    return said


def unreaped(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() == os.getpid()
    except psutil.NoSuchProcess:
        return False


def cluster_running() -> bool:
    soma = sys.modules.get("soma")
    return soma is not None and "soma.cluster" in sys.modules and soma.is_initialized()


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves something behind."""
    if "shared_cluster" in request.fixturenames:
        request.getfixturevalue("shared_cluster")  # what it holds belongs to the state before the test
    shared = cluster_running()
    before = Held.now()
    yield
    said = []
    if cluster_running() and not shared:
        said.append("a running cluster")
        sys.modules["soma"].shutdown()  # so that the tests which follow are not failed as well
    said += leaks(before, shared=shared)
    if said and not request.node.stash.get(_failed, False):
        pytest.fail("left behind:\n  " + "\n  ".join(said), pytrace=False)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of four CPUs for this test."""
    import soma

    with soma.init(num_cpus=4) as context:
        yield context


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Any]:
    """A cluster of four CPUs for all tests of a file. A test that kills the daemon takes `cluster`."""
    import soma

    before = Held.now()
    with soma.init(num_cpus=4) as context:
        yield context
    if said := leaks(before):
        pytest.fail("the tests of this file left behind:\n  " + "\n  ".join(said), pytrace=False)
