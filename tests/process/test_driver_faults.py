"""A driver that is killed, interrupted, forks, exits without a word or ends twice: nothing stays behind, nothing is printed."""

import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest
from fleets import in_cluster

import soma
from soma.errors import ClusterLostError, NotInitializedError

pytestmark = pytest.mark.crash

PRELUDE = """
import os, signal, sys, threading, time
import soma

@soma.remote
class Worker:
    def pid(self):
        return os.getpid()
    def nap(self):
        time.sleep(60)
    def nap_aloud(self):
        print("napping")
        time.sleep(60)
    def busy(self):
        while True:
            pass
    def family(self):
        import subprocess
        first = subprocess.Popen(["sleep", "99"])
        r, w = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 3)
                os.write(w, str(os.getpid()).encode())
                while True:
                    signal.pause()
            os._exit(0)
        return [os.getpid(), first.pid, int(os.read(r, 20))]
"""


def run(script, *, timeout=20, check=True):
    """A driver's whole life; its result with the seconds it took."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", PRELUDE + textwrap.dedent(script)], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL)
    if check:
        assert done.returncode == 0, done.stderr
    return done, time.monotonic() - began


def start(script, **kwargs):
    """A driver that printed "ready …" and goes on; (process, the words behind "ready")."""
    driver = subprocess.Popen([sys.executable, "-uc", PRELUDE + textwrap.dedent(script)], stdout=subprocess.PIPE, **kwargs)
    return driver, driver.stdout.readline().decode().split()[1:]


def runs(pid):
    """A zombie does not: its parent, perhaps the machine's init, takes its time."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_all_gone(name, pids, directory, within):
    until = time.monotonic() + within
    while (left := list(filter(runs, pids))) or (left := in_cluster(name)) or (left := os.path.exists(directory)):
        assert time.monotonic() < until, left


SERVES = """
soma.init(num_cpus=4)
workers = [Worker.remote() for _ in range(3)]
family = soma.get(workers[0].family.remote())
busy = [workers[1].nap.remote(), workers[2].busy.remote()]
status = soma.status()
print("ready", status["directory"], status["pid"], status["forkserver_pid"], *family, *[a["pid"] for a in status["actors"]], flush=True)
"""


@pytest.mark.parametrize("victim", ["driver", "group"])
def test_driver_killed(victim):
    """Two seconds, for everything: daemon, forkserver, actors, their children and their children's daemons, the directory."""
    driver, (directory, *pids) = start(SERVES + "soma.get(busy)", start_new_session=True)
    assert all(psutil.pid_exists(int(p)) for p in pids)
    if victim == "group":
        os.killpg(driver.pid, signal.SIGKILL)
    else:
        driver.kill()
    driver.wait()
    assert_all_gone(os.path.basename(directory), list(map(int, pids)), directory, within=2.0)
    driver.stdout.close()


def test_driver_stopped_and_killed_with_its_daemon_busy():
    """A stopped actor cannot keep anything alive."""
    driver, (directory, *pids) = start(SERVES + "os.kill(family[0], signal.SIGSTOP)\nprint('stopped', flush=True)\nsoma.get(busy)")
    driver.stdout.readline()
    driver.kill()
    driver.wait()
    assert_all_gone(os.path.basename(directory), list(map(int, pids)), directory, within=2.0)
    driver.stdout.close()


ENDINGS = {
    "falls off the end": "ref = w.nap.remote()",
    "sys.exit": "ref = w.nap.remote(); sys.exit(0)",
    "unfinished queue": "refs = [w.pid.remote() for _ in range(5000)]",
    "sys.exit in a thread": "t = threading.Thread(target=lambda: sys.exit(1)); t.start(); t.join()",
    "stream": "s = w.pid.remote(); it = soma.put(b'x' * 10**6); keep = soma.get(it)",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_interpreter_exits_without_shutdown(ending):
    done, seconds = run(f"soma.init(num_cpus=2)\nw = Worker.remote()\nsoma.get(w.pid.remote())\n{ENDINGS[ending]}")
    assert done.stderr == ""
    assert seconds < 5


def test_a_thread_that_waits_at_exit_hears_of_it():
    done, _ = run("""
        soma.init(num_cpus=2)
        w = Worker.remote()
        def wait():
            try:
                soma.get(w.nap.remote())
            except soma.ClusterError as e:
                print(type(e).__name__, flush=True)
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        import atexit
        atexit._run_exitfuncs()
        thread.join()
    """)
    assert (done.stdout, done.stderr) == ("ClusterLostError\n", "")


def test_exception_at_top_level_is_all_that_is_printed():
    done, _ = run("soma.init(num_cpus=2)\nsoma.get(Worker.remote().pid.remote())\nraise LookupError('mine')", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and done.stderr.rstrip().endswith("LookupError: mine")


def test_driver_leaves_by_os_exit():
    driver, (directory, *pids) = start(SERVES + "os._exit(7)")
    assert driver.wait(10) == 7
    assert_all_gone(os.path.basename(directory), list(map(int, pids)), directory, within=2.0)
    driver.stdout.close()


def test_shutdown_twice_at_once_and_while_others_wait():
    soma.init(num_cpus=2)
    nap = soma.remote(time.sleep).remote(60)
    got = []

    def wait():
        try:
            soma.get(nap)
        except ClusterLostError as e:
            got.append(e)

    waiters = [threading.Thread(target=wait) for _ in range(3)]
    enders = [threading.Thread(target=soma.shutdown) for _ in range(20)]
    began = time.monotonic()
    for t in [*waiters, *enders]:
        t.start()
    for t in [*waiters, *enders]:
        t.join(10)
    soma.shutdown()
    assert time.monotonic() - began < 3
    assert len(got) == 3
    with pytest.raises((ClusterLostError, NotInitializedError)):
        nap.future().result(1)


def test_shutdown_inside_an_actor_is_an_error(cluster):
    @soma.remote
    class Rash:
        def run(self):
            soma.shutdown()

    with pytest.raises(RuntimeError, match="exit_actor"):
        soma.get(Rash.remote().run.remote(), timeout=10)


def test_shutdown_from_a_signal_handler_in_get():
    done, seconds = run("""
        soma.init(num_cpus=2)
        signal.signal(signal.SIGALRM, lambda *_: soma.shutdown())
        w = Worker.remote()
        soma.get(w.pid.remote())
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            soma.get(w.nap.remote())
        except soma.ClusterError as e:
            print("ended")
    """)
    assert done.stdout == "ended\n"
    assert seconds < 4


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_in_get(presses):
    """The first cancels what was waited for, and the actor is free at once; actors themselves never see it."""
    script = PRELUDE + textwrap.dedent("""
        soma.init(num_cpus=2)
        w = Worker.remote()
        pid = soma.get(w.pid.remote())
        for n in range(int(sys.argv[1])):
            try:
                soma.get(w.nap_aloud.remote())
            except KeyboardInterrupt:
                began = time.monotonic()
                assert soma.get(w.pid.remote(), timeout=5) == pid
                print(f"free {time.monotonic() - began < 1.0}", flush=True)
        soma.shutdown()
        print("bye", flush=True)
    """)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", script, str(presses)])
    heard, status = b"", None
    try:
        for _ in range(presses):
            heard = read_until(terminal, heard, b"napping")  # it has begun, so the driver waits
            os.write(terminal, b"\x03")
            heard = read_until(terminal, heard, b"free True")
        read_until(terminal, heard, b"bye")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)
    assert status == 0


@pytest.mark.parametrize("where", ["gc callback", "__del__", "finalizer"])
def test_ctrl_c_where_python_forgets_exceptions(where):
    """What a finalizer or a callback of the collector raises is only printed; the interrupt comes right after it instead."""
    done, _ = run(f"""
        import gc, weakref
        soma.init(num_cpus=1)

        def press(*_):
            os.kill(os.getpid(), signal.SIGINT)
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                pass

        class Thing:
            def __del__(self):
                if {where!r} == "__del__":
                    press()

        thing = Thing()
        if {where!r} == "finalizer":
            weakref.finalize(thing, press)
        elif {where!r} == "gc callback":
            gc.callbacks.append(press)
        try:
            del thing
            gc.collect()
            until = time.monotonic() + 10
            while time.monotonic() < until:
                pass
        except KeyboardInterrupt:
            gc.callbacks.clear()
            print("interrupted")
    """)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def read_until(terminal, heard, word, within=10):
    """What follows `word` in what the terminal shows."""
    until = time.monotonic() + within
    while word not in heard:
        assert select.select([terminal], [], [], max(0, until - time.monotonic()))[0], heard
        heard += os.read(terminal, 4096)
    return heard.split(word, 1)[1]
