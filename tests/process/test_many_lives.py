"""One process, many clusters: one after the other without growth, in forked children, and refs that outlived theirs."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import soma

pytestmark = pytest.mark.crash

PRELUDE = """
import os, sys, threading
import soma

@soma.remote
class Worker:
    def pid(self):
        return os.getpid()
"""


def run(script, *, timeout=20, check=True):
    """A driver's whole life; its result with the seconds it took."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", PRELUDE + textwrap.dedent(script)], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL)
    if check:
        assert done.returncode == 0, done.stderr
    return done, time.monotonic() - began


def test_a_forked_child_that_leaves_by_sys_exit_harms_nobody():
    """And may not use the cluster: each verb says why."""
    run("""
        from soma.errors import ForkedClientError
        soma.init(num_cpus=2)
        w = Worker.remote()
        before = soma.get(w.pid.remote())
        ref, value = w.pid.remote(), soma.put(b"x" * 10**6)
        held = soma.get(value)
        child = os.fork()
        if child == 0:
            uses = [lambda: soma.get(ref), lambda: w.pid.remote(), lambda: soma.put(1), lambda: soma.wait([ref]), lambda: soma.kill(w),
                    lambda: Worker.remote(), lambda: ref.future().result(1), lambda: soma.cancel(ref)]
            for n, use in enumerate(uses):
                try:
                    use()
                except ForkedClientError:
                    continue
                except BaseException as e:
                    print(n, repr(e), file=sys.stderr)
                    os._exit(2)
                os._exit(3)
            soma.shutdown()
            del w, ref, value
            sys.exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
        assert soma.get(w.pid.remote(), timeout=5) == before == soma.get(ref, timeout=5)
        assert soma.get(value) == held == b"x" * 10**6
        other = Worker.remote()
        assert soma.get(other.pid.remote(), timeout=5)
        import multiprocessing
        p = multiprocessing.get_context("fork").Process(target=sys.exit, args=(0,))
        p.start(); p.join(10)
        assert p.exitcode == 0 and soma.get(w.pid.remote(), timeout=5) == before
    """)


def test_a_forked_child_may_have_a_cluster_of_its_own():
    run("""
        soma.init(num_cpus=2)
        w = Worker.remote()
        soma.get(w.pid.remote())
        child = os.fork()
        if child == 0:
            soma.init(num_cpus=1)
            soma.get(Worker.remote().pid.remote(), timeout=10)
            soma.shutdown()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        soma.get(w.pid.remote(), timeout=5)
    """)


def test_refs_and_handles_of_an_earlier_cluster_say_so(leaves_nothing):
    """None of them waits for ever."""
    @soma.remote
    def same(x):
        return x

    with soma.init(num_cpus=1):
        ref, handle, pending = soma.put(1), soma.remote(Plain).remote(), same.remote(2)
    with soma.init(num_cpus=1):
        for use in (lambda: soma.get(ref, timeout=5), lambda: soma.wait([pending], timeout=5), lambda: same.remote(ref),
                    lambda: same.remote([handle]), lambda: handle.run.remote(), lambda: pending.future()):
            with pytest.raises((soma.SomaError), match="shut down"):
                use()


class Plain:
    def run(self):
        pass


def test_twenty_lives_do_not_grow():
    run("""
        import gc
        def life():
            soma.init(num_cpus=2)
            w = Worker.remote()
            soma.get(w.pid.remote())
            soma.get(soma.put(b"x" * 10**6))
            soma.shutdown()
        def held():
            gc.collect()
            with open("/proc/self/statm") as f:
                rss = int(f.read().split()[1]) * 4096
            return len(os.listdir("/proc/self/fd")), threading.active_count(), len(os.listdir("/proc/self/task")), rss
        life(); life(); life()
        before = held()
        for _ in range(17):
            life()
        after = held()
        assert after[:3] == before[:3], (before, after)
        assert after[3] - before[3] < 4 * 2**20, (before, after)
    """, timeout=28)


def test_a_shutdown_by_another_thread_gives_signals_back():
    for _ in range(3):
        soma.init(num_cpus=1)
        thread = threading.Thread(target=soma.shutdown)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.set_wakeup_fd(-1) == -1


def test_actors_find_the_soma_of_their_driver(tmp_path):
    """Also where the working directory holds another package of that name, and they leave PYTHONPATH as it was."""
    decoy = tmp_path / "soma"
    decoy.mkdir()
    (decoy / "__init__.py").write_text("raise ImportError('the wrong soma')")
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(textwrap.dedent("""
        import os, soma
        @soma.remote
        class Where:
            def it_is(self): return soma.__file__, os.environ.get("PYTHONPATH")
            def fails(self): raise KeyError("mine")
        for method in ("forkserver", "spawn"):
            with soma.init(num_cpus=1, start_method=method):
                where = Where.remote()
                assert soma.get(where.it_is.remote()) == (soma.__file__, os.environ.get("PYTHONPATH"))
                try:
                    soma.get(where.fails.remote())
                except KeyError:
                    print("well")
    """))
    home = os.path.dirname(os.path.dirname(soma.__file__))
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": home}, capture_output=True,
                          text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("well\nwell\n", "")


def test_who_keeps_a_ref_keeps_no_memory_of_its_cluster():
    """A value that was sent but never looked at lies in the sender's memory: mapped here, as long as the cluster is."""
    run("""
        @soma.remote
        class Maker:
            def make(self):
                import numpy as np
                return np.ones(10**6)

        def shared():
            links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
            return [link for link in links if os.path.lexists(link) and "memfd" in os.readlink(link)]

        soma.init(num_cpus=2)
        maker = Maker.remote()
        ref = maker.make.remote()
        soma.wait([ref])
        before = shared()
        soma.shutdown()
        assert before and not shared(), (before, shared())
        try:
            soma.get(ref)
        except soma.NotInitializedError as e:
            assert "was shut down" in str(e)
        else:
            raise AssertionError("it was still there")
    """)
