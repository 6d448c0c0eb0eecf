"""Real processes that do not want to be found or ended: all are, and what ended them is told apart."""

import contextlib
import errno
import os
import resource
import secrets
import select
import signal
import subprocess
import sys
import time

import pytest

from soma.daemon import processes, reaping, sentinel
from soma.daemon.processes import MARK, descendants, members
from soma.daemon.reaping import become_subreaper, death_cause, die_with, kill_all, reap_pid, signal_name
from soma.daemon.sentinel import Sentinel, wait_all

pytestmark = pytest.mark.crash
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux")


@pytest.fixture
def cluster():
    name = secrets.token_hex(8)
    yield name
    assert kill_all(name, deadline=soon()) == set()


@contextlib.contextmanager
def started(program, *, cluster=None, env=None, own_session=False):
    """A child that runs `program` and said "ready …"; yields (process, what it said behind "ready")."""
    environment = dict(os.environ) if env is None else env
    if cluster is not None:
        environment[MARK] = cluster
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment,
                             start_new_session=own_session)
    try:
        yield child, child.stdout.readline().decode().split()[1:]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def soon(seconds=10.0):
    return time.monotonic() + seconds


WAITS = "import os, signal, sys\nprint('ready', flush=True)\nsignal.pause()"
DOUBLE_FORK = """if True:
    import os, signal
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            os.write(w, str(os.getpid()).encode())
            signal.pause()
        os._exit(0)
    os.wait()
    print("ready", os.read(r, 20).decode(), flush=True)
"""
STOPPED = """if True:
    import os, signal
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    os.kill(child, signal.SIGSTOP)
    os.waitid(os.P_PID, child, os.WSTOPPED)
    print("ready", child, flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""
# Each hop forks and leaves, so no pid lives long; 4 of them at once.
HOPS = """if True:
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            break
    print("ready", flush=True)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if os.fork():
            os._exit(0)
"""
# Makes a new one as soon as one is killed.
RAISES_CHILDREN = """if True:
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    def child():
        if os.fork() == 0:
            signal.pause()
            os._exit(0)
    for _ in range(5):
        child()
    print("ready", flush=True)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        os.wait()
        child()
"""


def test_members_are_those_with_the_mark(cluster):
    with started(WAITS, cluster=cluster) as (child, _), started(WAITS, cluster=cluster + "0"), started(WAITS):
        assert members(cluster) == {child.pid}
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert members(cluster) == set()  # a zombie is gone
    assert members("") == set()


def test_daemonised_grandchild_whose_parents_are_gone(cluster):
    with started(DOUBLE_FORK, cluster=cluster) as (child, [orphan]):
        child.wait()
        assert members(cluster) == {int(orphan)}
        assert kill_all(cluster, deadline=soon()) == set()
        assert members(cluster) == set()


def test_stopped_processes(cluster):
    with started(STOPPED, cluster=cluster) as (child, [grandchild]):
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        assert members(cluster) == {child.pid, int(grandchild)}
        assert kill_all(cluster, deadline=soon()) == set()
        assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("program", [HOPS, RAISES_CHILDREN], ids=["hops", "raises children"])
def test_processes_that_fork_while_they_are_killed(cluster, program):
    with started(program, cluster=cluster, own_session=True):
        assert kill_all(cluster, deadline=soon(15)) == set()
        assert members(cluster) == set()


def test_a_group_with_a_stranger_or_a_spared_one_is_not_killed_as_a_group(cluster):
    """All of these are in this test's own group."""
    with started(WAITS) as (stranger, _), started(RAISES_CHILDREN, cluster=cluster):
        assert os.getpgid(stranger.pid) == os.getpgrp()
        assert kill_all(cluster, deadline=soon(15)) == set()
        assert members(cluster) == set()
        assert stranger.poll() is None
    spared_leader = RAISES_CHILDREN.replace("print(", "os.setpgid(0, 0); print(")
    with started(spared_leader, cluster=cluster) as (spared, _):
        kill_all(cluster, spare={spared.pid}, deadline=soon(0.2))  # it never ends: the spared one makes new ones
        assert spared.poll() is None


def test_spared_ones_live(cluster):
    with started(WAITS, cluster=cluster) as (spared, _), started(WAITS, cluster=cluster) as (other, _):
        assert kill_all(cluster, spare={spared.pid}, deadline=soon()) == set()
        assert other.wait() == -signal.SIGKILL
        assert spared.poll() is None


def test_one_without_the_mark_is_ended_as_a_descendant(cluster):
    wiped = f"""if True:
        import subprocess, sys
        p = subprocess.Popen([sys.executable, "-c", {WAITS!r}], env={{}}, stdout=subprocess.PIPE)
        p.stdout.readline()
        print("ready", p.pid, flush=True)
        p.wait()
    """
    with started(wiped, cluster=cluster) as (child, [hidden]):
        assert members(cluster) == {child.pid}
        assert descendants(child.pid) == {int(hidden)}
        assert {child.pid, int(hidden)} <= descendants(os.getpid())
        with Sentinel(int(hidden)) as end:
            assert kill_all(cluster, below=child.pid, deadline=soon()) == set()
            assert end.exited()


def test_more_processes_than_are_held_open_at_once(cluster, monkeypatch):
    monkeypatch.setattr(reaping, "_AT_ONCE", 3)
    eight = "import os, signal\nme = os.getpid()\nfor _ in '123': os.fork()\nif os.getpid() == me: print('ready', flush=True)\n"
    with started(eight + "signal.pause()", cluster=cluster):
        assert kill_all(cluster, deadline=soon()) == set()
        assert members(cluster) == set()


def test_deadline_in_the_past_ends_what_it_finds_and_returns(cluster):
    with started(WAITS, cluster=cluster) as (child, _):
        assert kill_all(cluster, deadline=time.monotonic() - 1) <= {child.pid}
        assert child.wait() == -signal.SIGKILL


def test_no_process_is_forgotten_by_psutil_either(cluster, monkeypatch):
    monkeypatch.setattr(processes, "_LINUX", False)
    with started(DOUBLE_FORK, cluster=cluster) as (child, [orphan]), started(WAITS, cluster=cluster) as (other, _):
        child.wait()
        assert members(cluster) == {int(orphan), other.pid}
        assert other.pid in descendants(os.getpid())
        assert kill_all(cluster, deadline=soon()) == set()


# -- sentinels ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["pidfd", "thread"])
def way(request, monkeypatch):
    if request.param == "thread":

        def refused(pid):
            raise OSError(errno.ENOSYS, "no pidfd")

        monkeypatch.setattr(sentinel.os, "pidfd_open", refused, raising=False)
    return request.param


def test_sentinel_fires_when_the_process_is_gone_and_not_before(way):
    with started(WAITS) as (child, _), Sentinel(child.pid) as end:
        assert not end.exited()
        assert not end.wait(0.01)
        assert wait_all([end], time.monotonic()) == {child.pid}
        assert end.send(signal.SIGKILL)
        poller = select.poll()
        poller.register(end, select.POLLIN)
        assert poller.poll(5000)
        assert end.exited() and end.exited()
        assert wait_all([end], None) == set()
        assert not end.send(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def test_sentinel_of_a_zombie_and_of_nobody_has_fired(way):
    with started("print('ready')") as (child, _):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with Sentinel(child.pid) as end:
            assert end.wait(5)
        child.wait()
        with Sentinel(child.pid) as end:
            assert end.wait(5)
            assert not end.send(signal.SIGTERM)
            end.close()


def test_closing_a_sentinel_leaves_the_process(way):
    with started(WAITS) as (child, _):
        Sentinel(child.pid).close()
        assert child.poll() is None


# -- family -------------------------------------------------------------------------------------------------------------


@linux_only
def test_orphans_come_to_a_subreaper_which_can_end_and_reap_them(cluster):
    program = f"""if True:
        import os, signal, time
        from soma.daemon.reaping import become_subreaper, kill_all, reap_all
        from soma.daemon.processes import descendants
        assert become_subreaper()
        r, w = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
                os.write(w, str(os.getpid()).encode())
                signal.pause()
            os._exit(3)
        orphan = int(os.read(r, 20))
        os.wait()
        assert descendants(os.getpid()) == {{orphan}}, descendants(os.getpid())
        assert kill_all("{cluster}", below=os.getpid(), deadline=time.monotonic() + 10) == set()
        assert reap_all() == [(orphan, 9)]
        assert reap_all() == []
        print("ready", "fine")
    """
    with started(program) as (_, said):
        assert said == ["fine"]


@linux_only
@pytest.mark.parametrize("early", [False, True], ids=["while it lives", "dead before it was asked"])
def test_a_child_dies_with_its_parent(early):
    program = f"""if True:
        import os, signal
        from soma.daemon.reaping import die_with
        me, (r, w), (told, tell) = os.getpid(), os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            if {early}:
                os.close(w)
                os.read(r, 1)  # until the parent is gone
            assert die_with(me)
            os.write(tell, b"!")
            signal.pause()
        if not {early}:
            os.read(told, 1)
        print("ready", child, flush=True)
        import sys
        sys.stdin.readline()
    """
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    with parent.stdout, parent.stdin:
        child = int(parent.stdout.readline().split()[1])
        with Sentinel(child) as end:
            assert not end.exited()
            parent.kill()
            assert end.wait(5)
        parent.wait()


def test_elsewhere_the_kernel_does_not_help(monkeypatch):
    monkeypatch.setattr(reaping, "_LINUX", False)
    assert become_subreaper() is False
    assert die_with(os.getppid()) is False


# -- statuses -----------------------------------------------------------------------------------------------------------


def ended_by(action):
    """The pid and the wait status of a child that did `action`."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        action()
        os._exit(77)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid, reap_pid(pid)


@pytest.mark.parametrize(("action", "reason", "code", "name"), [
    (lambda: os._exit(0), "exited", 0, None),
    (lambda: os._exit(3), "exited", 3, None),
    (lambda: os._exit(255), "exited", 255, None),
    (lambda: os.kill(os.getpid(), signal.SIGSEGV), "signal", None, "SIGSEGV"),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), "signal", None, "SIGKILL"),
    (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 3), "signal", None, "SIGRTMIN+3"),
])
def test_a_death_is_told_from_others(action, reason, code, name):
    pid, status = ended_by(action)
    cause = death_cause(pid, status, stderr_tail="last words")
    assert (cause.reason, cause.exit_code, cause.signal, cause.pid, cause.stderr_tail) == (reason, code, name, pid, "last words")
    assert str(pid) in cause.describe() and "last words" in cause.describe()


def test_only_sigkill_under_high_memory_is_suspected_to_be_the_kernels():
    pid, killed = ended_by(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert death_cause(pid, killed, memory_was_high=True, rss=2**30).reason == "oom?"
    assert death_cause(pid, killed, reason="killed", memory_was_high=True).reason == "killed"
    _, crashed = ended_by(lambda: os.kill(os.getpid(), signal.SIGSEGV))
    assert death_cause(pid, crashed, memory_was_high=True).reason == "signal"
    over = death_cause(pid, killed, reason="oom", rss=3 * 2**20, limit=2**20)
    assert (over.reason, over.signal, over.rss, over.limit) == ("oom", "SIGKILL", 3 * 2**20, 2**20)


def test_signal_names():
    assert [signal_name(n) for n in (9, 11, 15, 99)] == ["SIGKILL", "SIGSEGV", "SIGTERM", "signal 99"]


def test_reaping_does_not_wait_and_says_whose_child_it_is_not():
    with started(WAITS) as (child, _):
        assert reap_pid(child.pid) is None
    with pytest.raises(ChildProcessError):
        reap_pid(child.pid)
    with pytest.raises(ChildProcessError):
        reap_pid(1)
