"""The daemon or the forkserver is killed, a constructor takes too long, few CPUs and many waits: each with a cluster of its own."""

import os
import signal
import sys
import threading
import time

import pytest

import soma
from soma.daemon import launch
from soma.errors import ActorInitError, ClusterLostError

pytestmark = pytest.mark.crash


@soma.remote
class Worker:
    def pid(self):
        return os.getpid()

    def nap(self):
        time.sleep(60)  # workload

    def child(self):
        """A daemon without parents, in a session of its own."""
        r, w = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 3)
                os.write(w, str(os.getpid()).encode())
                signal.pause()
            os._exit(0)
        return int(os.read(r, 20))

    def say(self, text):
        print(text)
        print(text + " again", file=sys.stderr)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_gone(pids, within):
    until = time.monotonic() + within
    while left := list(filter(alive, pids)):
        assert time.monotonic() < until, left


@pytest.mark.parametrize("victim", ["pid", "forkserver_pid"])
def test_supervisor_killed(victim, cluster):
    """Everybody who waits hears of it within a second, nothing is left within two, and a new cluster starts."""
    workers = [Worker.remote() for _ in range(3)]
    pids = soma.get([w.pid.remote() for w in workers], timeout=10)
    pids.append(soma.get(workers[0].child.remote(), timeout=10))
    refs = [w.nap.remote() for w in workers]
    heard = []

    def wait(ref):
        try:
            soma.get(ref)
        except ClusterLostError as e:
            heard.append((time.monotonic(), str(e)))

    threads = [threading.Thread(target=wait, args=(r,)) for r in refs]
    for t in threads:
        t.start()
    status = soma.status()
    killed = time.monotonic()
    os.kill(status[victim], signal.SIGKILL)
    for t in threads:
        t.join(10)
    assert len(heard) == 3 and max(at for at, _ in heard) - killed < 1.0
    assert_gone([*pids, status["pid"], status["forkserver_pid"]], within=2.0)
    with pytest.raises(ClusterLostError):
        workers[0].pid.remote()
    with pytest.raises(ClusterLostError):
        soma.get(refs[0])
    soma.shutdown()
    assert not os.path.exists(status["directory"])
    with soma.init(num_cpus=1):
        assert soma.get(Worker.remote().pid.remote(), timeout=10)


def test_what_actors_print_reaches_the_driver(cluster, capfd):
    worker = Worker.options(name="parrot").remote()
    pid = soma.get(worker.pid.remote(), timeout=10)
    soma.get(worker.say.remote("hello"), timeout=10)
    soma.shutdown()
    out, err = capfd.readouterr()
    assert f"(parrot pid={pid}) hello\n" in out and f"(parrot pid={pid}) hello again\n" in err


def test_a_constructor_that_takes_too_long(monkeypatch):
    @soma.remote
    class Slow:
        def __init__(self):
            time.sleep(60)  # workload

        def run(self):
            pass

    real = launch._start_daemon
    monkeypatch.setattr(launch, "_start_daemon", lambda directory, asked: real(directory, {**asked, "init_timeout": 0.3}))
    with soma.init(num_cpus=1):
        slow = Slow.remote()
        with pytest.raises(ActorInitError, match="did not return within 0.3 s"):
            soma.get(slow.run.remote(), timeout=5)


@soma.remote
class Knot:
    def __init__(self, name=""):
        self.name = name

    def through(self, others):
        return soma.get(others[0].through.remote(others[1:])) if others else "end"


def test_waits_without_a_cycle_go_on_with_few_cpus():
    with soma.init(num_cpus=1):
        chain = [Knot.remote() for _ in range(6)]
        assert soma.get(chain[0].through.remote(chain[1:]), timeout=10) == "end"

        @soma.remote
        def fib(n):
            return n if n < 2 else sum(soma.get([fib.remote(n - 1), fib.remote(n - 2)]))

        assert soma.get(fib.remote(5), timeout=20) == 5


def test_a_hundred_large_values_through_a_small_store():
    """100 × 50 MB through 512 MB, as arguments and results, refs dropped: all arrive, and the store is empty afterwards."""
    import numpy as np

    @soma.remote
    class Echo:
        def total(self, x):
            return float(x[0] + x[-1])

        def make(self, n):
            return np.full(50_000_000 // 8, n, float)

    with soma.init(num_cpus=2, object_store_memory=512 * 2**20):
        echo = Echo.remote()
        for n in range(50):
            assert soma.get(echo.total.remote(np.full(50_000_000 // 8, n, float)), timeout=10) == 2 * n
            assert soma.get(echo.make.remote(n), timeout=10)[1] == n
        held = [soma.put(np.full(50_000_000 // 8, n, float)) for n in range(12)]  # more than fit: the rest is in plain memory
        assert [soma.get(r)[5] for r in held] == list(range(12))
        del held
        soma.get(echo.total.remote(np.zeros(1)), timeout=10)
        until = time.monotonic() + 5
        while soma.status()["driver"]["arena_used"]:
            assert time.monotonic() < until, soma.status()["driver"]
