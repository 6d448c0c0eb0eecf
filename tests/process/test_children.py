"""Actors that start processes, fork, print without end, are stopped, or wait for each other: nobody else is held up."""

import multiprocessing
import os
import resource
import select
import signal
import subprocess
import sys
import time

import pytest

import soma
from soma.errors import ActorDiedError, ActorInitError, DeadlockError, ForkedClientError, GetTimeoutError

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("shared_cluster")]


@soma.remote
class Worker:
    def pid(self):
        return os.getpid()

    def children(self):
        """A child, one in a session of its own, and a daemon without parents and without an environment."""
        first = subprocess.Popen(["sleep", "99"])
        second = subprocess.Popen(["sleep", "99"], start_new_session=True, env={})
        r, w = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 3)
                os.write(w, str(os.getpid()).encode())
                signal.pause()
            os._exit(0)
        return [first.pid, second.pid, int(os.read(r, 20))]

    def fork_and(self, how):
        """The child leaves in some way; what the parent saw of it."""
        child = os.fork()
        if child == 0:
            if how == "exit":
                sys.exit(9)
            if how == "raise":
                raise ValueError("the child's own")
            if how == "return":
                return "from the child"
            try:
                soma.put(1)
            except ForkedClientError:
                os._exit(11)
            os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def pool(self):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2, -3])

    def shout(self, megabytes):
        line = f"{os.getpid():<1023}"  # no other actor says the same
        for _ in range(megabytes * 1024):
            print(line)
        sys.stdout.flush()

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


@pytest.mark.parametrize("how", ["kill", "crash", "last handle"])
def test_what_an_actor_started_ends_with_it(how):
    worker = Worker.remote()
    pid = soma.get(worker.pid.remote(), timeout=10)
    children = soma.get(worker.children.remote(), timeout=10)
    assert all(map(alive, children))
    if how == "kill":
        soma.kill(worker)
    elif how == "crash":
        os.kill(pid, signal.SIGSEGV)
    else:
        del worker
    assert_gone([pid, *children], within=1.0)


def test_children_of_a_living_actor_are_left_alone():
    worker, other = Worker.remote(), Worker.remote()
    children = soma.get(worker.children.remote(), timeout=10)
    with pytest.raises(ActorDiedError):
        soma.kill(other)
        soma.get(other.pid.remote(), timeout=5)
    assert all(map(alive, children))
    soma.kill(worker)
    assert_gone(children, within=1.0)


@pytest.mark.parametrize(("how", "code"), [("exit", 9), ("raise", 1), ("return", 1), ("use", 11)])
def test_a_child_forked_in_a_method_ends_alone(how, code):
    worker = Worker.remote()
    assert soma.get(worker.fork_and.remote(how), timeout=10) == code
    assert soma.get(worker.fork_and.remote(how), timeout=10) == code

    @soma.remote
    def ask(handle):  # a process that has no connection to the actor yet
        return soma.get(handle.pid.remote())

    assert soma.get(ask.remote(worker), timeout=10) == soma.get(worker.pid.remote(), timeout=5)


def test_multiprocessing_in_an_actor():
    assert soma.get(Worker.remote().pool.remote(), timeout=20) == [1, 2, 3]


def test_a_hundred_megabytes_of_prints_block_nobody(capsys):
    worker, other = Worker.remote(), Worker.remote()
    soma.get(other.pid.remote(), timeout=10)
    shouting = worker.shout.remote(100)
    for _ in range(20):
        began = time.monotonic()
        soma.get(other.pid.remote(), timeout=10)
        assert time.monotonic() - began < 1.0
    soma.get(shouting, timeout=25)
    out = capsys.readouterr().out
    assert len(out) < 50 * 2**20 and "are only in its log file" in out


def test_last_words_reach_the_driver():
    @soma.remote
    class Talker:
        def last(self):
            print("so it ends", file=sys.stderr)
            os._exit(1)

    with pytest.raises(ActorDiedError, match="so it ends"):
        soma.get(Talker.remote().last.remote(), timeout=10)


def test_a_start_that_is_not_possible_is_that_actors_error():
    with pytest.raises(ValueError, match="env_vars: 200003 characters"):
        Worker.options(runtime_env={"env_vars": {"BIG": "x" * 200_000}})
    daemon = soma.status()["pid"]
    limit = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (8, limit[1]))
    try:
        starved = Worker.remote()
        with pytest.raises(ActorInitError, match="no process could be made: OSError"):
            soma.get(starved.pid.remote(), timeout=10)
    finally:
        resource.prlimit(daemon, resource.RLIMIT_NOFILE, limit)
    assert soma.get(Worker.remote().pid.remote(), timeout=10)


@soma.remote
class Knot:
    def __init__(self, name=""):
        self.name = name

    def itself(self):
        return soma.get(soma.get_runtime_context().current_actor.leaf.remote())

    def through(self, others):
        return soma.get(others[0].through.remote(others[1:])) if others else "end"

    def leaf(self):
        return "leaf"


def test_waiting_for_oneself_is_named():
    knot = Knot.options(name="ouroboros").remote()
    began = time.monotonic()
    with pytest.raises(DeadlockError, match="ouroboros waits for itself"):
        soma.get(knot.itself.remote(), timeout=10)
    assert time.monotonic() - began < 2.0
    assert soma.get(knot.leaf.remote(), timeout=5) == "leaf"


def test_a_cycle_of_waits_is_named():
    names = [f"{n}-{time.monotonic_ns()}" for n in ("anna", "bert", "carl")]
    a, b, c = (Knot.options(name=n).remote() for n in names)
    began = time.monotonic()
    with pytest.raises(DeadlockError) as caught:
        soma.get(a.through.remote([b, c, a]), timeout=10)
    assert time.monotonic() - began < 2.0
    assert all(name in str(caught.value) for name in names)
    assert soma.get([h.leaf.remote() for h in (a, b, c)], timeout=5) == ["leaf"] * 3


def test_a_stopped_actor_holds_up_nobody_else():
    worker, other = Worker.remote(), Worker.remote()
    pid = soma.get(worker.pid.remote(), timeout=10)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(GetTimeoutError):
        soma.get(worker.pid.remote(), timeout=0.3)
    assert time.monotonic() - began < 0.8
    assert soma.get(other.pid.remote(), timeout=5)
    os.kill(pid, signal.SIGCONT)
    assert soma.get(worker.pid.remote(), timeout=5) == pid
    fd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGSTOP)
    soma.kill(worker)
    assert select.select([fd], [], [], 1.0)[0]
    os.close(fd)
