"""When actors end and come again: handles, names, creators, restarts and their budget, retries, leaving by themselves."""

import os
import signal
import sys
import threading
import time

import pytest

import soma
from soma.errors import ActorDiedError, ActorInitError, PlacementError

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("shared_cluster")]


class Plain:
    def __init__(self, *args):
        self.args = args
        self.count = 0

    def pid(self):
        return os.getpid()

    def add(self, n=1):
        self.count += n
        return self.count

    def end(self, how="kill"):
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "leave":
            soma.exit_actor()
        sys.exit(5)

    def die_unless(self, path):
        """Dies the first time, and answers when it is called once more."""
        attempt = soma.get_runtime_context().attempt
        with open(path, "a") as f:
            f.write(f"{attempt} ")
        if attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return attempt

    def child(self):
        """An actor whose creator is this one; and its pid."""
        self.inner = Actor.remote()
        return soma.get(self.inner.pid.remote())

    def detached_child(self, name):
        soma.get(Actor.options(name=name, lifetime="detached").remote().pid.remote())


Actor = soma.remote(Plain)


def gone(pid, within=2.0):
    """Whether a process that is not our child ends in time."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        import select

        return bool(select.select([fd], [], [], within)[0])
    finally:
        os.close(fd)


def error_of(ref, within=5.0):
    with pytest.raises(ActorDiedError) as caught:
        soma.get(ref, timeout=within)
    error = caught.value
    del caught  # it keeps the frames of its callers, and so their handles, until the collector comes
    return error.with_traceback(None)


def test_the_last_handle_ends_the_actor_after_its_calls():
    actor = Actor.remote()
    pid = soma.get(actor.pid.remote(), timeout=10)
    refs = [actor.add.remote() for _ in range(500)]
    del actor
    assert soma.get(refs, timeout=10) == list(range(1, 501))
    assert gone(pid)


def test_a_handle_that_is_dropped_at_once_leaves_nothing():
    before = {a["actor_id"] for a in soma.status()["actors"]}
    for _ in range(20):
        Actor.remote()
    until = time.monotonic() + 10
    while {a["actor_id"] for a in soma.status()["actors"]} - before:
        assert time.monotonic() < until, soma.status()["actors"]


def test_calls_of_a_handle_that_is_dropped_at_once_run():
    assert soma.get(Actor.remote().add.remote(3), timeout=10) == 3


def test_a_name_is_free_as_soon_as_its_actor_was_killed():
    for _ in range(5):
        actor = Actor.options(name="phoenix").remote()
        assert soma.get(soma.get_actor("phoenix").add.remote(), timeout=10) == 1
        soma.kill(actor)
    with pytest.raises(ValueError, match="phoenix"):
        soma.get_actor("phoenix")


def test_a_name_is_free_after_a_death():
    actor = Actor.options(name="mayfly").remote()
    error_of(actor.end.remote())
    again = Actor.options(name="mayfly").remote()
    assert soma.get(again.add.remote(), timeout=10) == 1


def test_kill_settles_all_calls():
    actor = Actor.remote()
    soma.get(actor.pid.remote(), timeout=10)
    refs = [actor.add.remote() for _ in range(3000)]
    soma.kill(actor)
    ready, rest = soma.wait(refs, num_returns=len(refs), timeout=5)
    assert not rest
    with pytest.raises(ActorDiedError) as caught:
        while True:  # a kill takes a moment: until then it answers
            soma.get(actor.add.remote(), timeout=5)
    assert caught.value.reason == "killed"


def test_kill_with_restart():
    actor = Actor.options(max_restarts=1).remote()
    first = soma.get(actor.pid.remote(), timeout=10)
    soma.kill(actor, no_restart=False)
    assert gone(first)
    assert soma.get(actor.pid.remote(), timeout=10) != first


def test_kill_before_the_process_exists():
    actors = [Actor.remote() for _ in range(5)]
    for actor in actors:
        soma.kill(actor)
    assert {error_of(a.pid.remote()).reason for a in actors} == {"killed"}


@pytest.mark.parametrize(("how", "reason", "code"), [("leave", "exit_actor", 0), ("exit", "exited", 5)])
def test_leaving_by_itself(how, reason, code):
    actor = Actor.remote()
    last, queued = actor.end.remote(how), actor.add.remote()
    error = error_of(last)
    assert (error.reason, error.exit_code, error.executed) == (reason, code, "maybe")
    assert error_of(queued).executed == "no"


def test_exit_actor_is_final_whatever_max_restarts():
    actor = Actor.options(max_restarts=-1).remote()
    assert error_of(actor.end.remote("leave")).reason == "exit_actor"
    assert error_of(actor.add.remote()).reason == "exit_actor"


def test_restart_forgets_the_state_and_repeats_calls_that_never_began():
    actor = Actor.options(max_restarts=1).remote()
    assert soma.get(actor.add.remote(), timeout=10) == 1
    doomed, queued = actor.end.remote(), [actor.add.remote() for _ in range(50)]
    assert error_of(doomed).executed == "maybe"
    assert soma.get(queued, timeout=10) == list(range(1, 51))
    error = error_of(actor.end.remote())
    assert error.signal == "SIGKILL" and len(error.history) == 1


def test_the_budget_ends_a_crash_loop():
    actor = Actor.options(max_restarts=-1, max_task_retries=-1).remote()
    error = error_of(actor.end.remote(), within=15)
    assert "no more restarts" in str(error) and len(error.history) == 3
    assert error_of(actor.add.remote()).executed == "no"


def test_a_constructor_that_raises_is_not_repeated(tmp_path):
    @soma.remote(max_restarts=-1)
    class Broken:
        def __init__(self, path):
            with open(path, "a") as f:
                f.write("x")
            raise LookupError("never works")

        def run(self):
            pass

    error = error_of(Broken.remote(tmp_path / "tries").run.remote())
    assert isinstance(error, ActorInitError) and isinstance(error.__cause__, LookupError)
    assert (tmp_path / "tries").read_text() == "x"


@pytest.mark.parametrize(("retries", "attempts"), [(0, "0 "), (1, "0 1 ")])
def test_retries_only_where_they_were_asked_for(tmp_path, retries, attempts):
    actor = Actor.options(max_restarts=1, max_task_retries=retries).remote()
    ref = actor.die_unless.remote(tmp_path / "log")
    if retries:
        assert soma.get(ref, timeout=10) == 1
    else:
        assert error_of(ref).executed == "maybe"
        assert soma.get(actor.add.remote(), timeout=10) == 1
    assert (tmp_path / "log").read_text() == attempts


def test_an_actor_ends_with_its_creator():
    parent = Actor.remote()
    child = soma.get(parent.child.remote(), timeout=10)
    error_of(parent.end.remote())
    assert gone(child)


def test_a_detached_actor_outlives_its_creator_and_all_handles():
    parent = Actor.remote()
    soma.get(parent.detached_child.remote("orphan"), timeout=10)
    error_of(parent.end.remote())
    for n in (1, 2):
        assert soma.get(soma.get_actor("orphan").add.remote(), timeout=10) == n
    soma.kill(soma.get_actor("orphan"))


def test_handles_inside_of_other_actors_keep_an_actor():
    @soma.remote
    class Keeper:
        def keep(self, handle):
            self.handle = handle

        def use(self):
            return soma.get(self.handle.add.remote())

    actor, keeper = Actor.remote(), Keeper.remote()
    pid = soma.get(actor.pid.remote(), timeout=10)
    soma.get(keeper.keep.remote(actor), timeout=10)
    del actor
    assert [soma.get(keeper.use.remote(), timeout=10) for _ in range(3)] == [1, 2, 3]
    soma.kill(keeper)
    assert gone(pid)


def test_all_waiting_threads_have_the_error_at_once():
    actor = Actor.remote()
    pid = soma.get(actor.pid.remote(), timeout=10)

    @soma.remote
    class Sleeper:
        def nap(self):
            signal.pause()

        def pid(self):
            return os.getpid()

    sleeper = Sleeper.remote()
    pid = soma.get(sleeper.pid.remote(), timeout=10)
    refs = [sleeper.nap.remote() for _ in range(8)]
    settled = []

    def wait(ref):
        try:
            soma.get(ref)
        except ActorDiedError:
            settled.append(time.monotonic())

    threads = [threading.Thread(target=wait, args=(ref,)) for ref in refs]
    for t in threads:
        t.start()
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    for t in threads:
        t.join(5)
    assert len(settled) == 8
    assert max(settled) - killed < 5 * 0.05


def test_more_than_there_is_fails_at_once():
    began = time.monotonic()
    with pytest.raises(PlacementError, match="64 CPU"):
        Actor.options(num_cpus=64).remote()
    with pytest.raises(PlacementError, match="8 GPU"):
        soma.remote(time.sleep).options(num_gpus=8).remote(0)
    assert time.monotonic() - began < 0.2


def test_ten_thousand_calls_to_a_slow_actor():
    actor = Actor.remote()
    refs = [actor.add.remote() for _ in range(10_000)]
    assert soma.get(refs[-1], timeout=20) == 10_000
    assert soma.get(refs, timeout=20) == list(range(1, 10_001))
