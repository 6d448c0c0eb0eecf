"""Lives of actors: names, constructors that fail, ends, restarts, events."""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import soma
from soma.events import ActorDied, ActorEvent, ActorRestarted, ActorStarted

pytestmark = pytest.mark.usefixtures("engine")
get = partial(soma.get, timeout=20)


@soma.remote
class Server:
    def __init__(self, log: str | None = None) -> None:
        self.n = 0
        if log is not None:
            with open(log, "a") as f:
                f.write("init\n")

    def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    def leave(self, how: Any) -> None:
        self.n += 100
        if how == "exit_actor":
            soma.exit_actor()
        sys.exit(how)


@soma.remote
class Saved(Server._cls):  # type: ignore[name-defined,misc]
    def __soma_save__(self) -> int:
        return self.n

    def __soma_restore__(self, n: int) -> None:
        self.n = n


@soma.remote
class Broken:
    def __init__(self, how: str) -> None:
        if how == "exit":
            sys.exit(7)
        raise ValueError(f"not built: {how}")

    def ping(self) -> str:
        return "pong"


def test_named_actors() -> None:
    a = Server.options(name="a").remote()
    get(a.add.remote(5))
    again = soma.get_actor("a")
    assert again == a and get(again.add.remote(1)) == 6
    assert "'a'" in repr(again)
    with pytest.raises(ValueError, match="'a'"):
        Server.options(name="a").remote()
    same = Server.options(name="a", get_if_exists=True).remote()
    assert same == a and get(same.add.remote(1)) == 7
    fresh = Server.options(name="b", get_if_exists=True).remote()
    assert get(fresh.add.remote(1)) == 1


def test_names_live_in_namespaces() -> None:
    other = Server.options(name="n", namespace="elsewhere").remote()
    assert get(other.add.remote(1)) == 1
    with pytest.raises(ValueError, match="'n'"):
        soma.get_actor("n")
    here = Server.options(name="n").remote()
    assert get([here.add.remote(10), soma.get_actor("n", "elsewhere").add.remote(1)]) == [10, 2]


def test_a_name_is_free_again_after_a_death() -> None:
    a = Server.options(name="again").remote()
    get(a.add.remote())
    soma.kill(a)
    with pytest.raises(soma.ActorDiedError):
        while True:  # `kill` does not wait: a call may still be faster
            get(a.add.remote())
    b = Server.options(name="again", get_if_exists=True).remote()
    assert b != a and get(b.add.remote()) == 1


def test_a_constructor_that_raises() -> None:
    broken = Broken.remote("at all")
    for _ in range(2):
        with pytest.raises(soma.ActorInitError) as caught:
            get(broken.ping.remote())
        e = caught.value
        assert isinstance(e, soma.ActorDiedError) and e.executed == "no" and e.reason == "init"
        assert "not built: at all" in str(e) and "Broken" in str(e)
        assert isinstance(e.__cause__, ValueError) and e.__cause__.args == ("not built: at all",)


def test_a_constructor_that_exits() -> None:
    with pytest.raises(soma.ActorInitError, match="Broken"):
        get(Broken.remote("exit").ping.remote())


def test_a_constructor_that_raises_is_not_repeated(tmp_path: Path) -> None:
    @soma.remote(max_restarts=5)
    class Once:
        def __init__(self, log: str) -> None:
            with open(log, "a") as f:
                f.write("init\n")
            raise ValueError("no")

        def ping(self) -> None: ...

    log = tmp_path / "log"
    with pytest.raises(soma.ActorInitError):
        get(Once.remote(str(log)).ping.remote())
    assert log.read_text().split() == ["init"]


def test_a_constructors_failed_argument() -> None:
    @soma.remote
    def bad() -> None:
        raise KeyError("gone")

    with pytest.raises((soma.ActorInitError, KeyError), match="gone"):
        get(Server.remote(bad.remote()).add.remote())


@pytest.mark.parametrize(("how", "reason", "code"), [("exit_actor", "exit_actor", None), (0, "exited", 0), (3, "exited", 3)])
def test_ends(how: Any, reason: str, code: int | None) -> None:
    a = Server.remote()
    with pytest.raises(soma.ActorDiedError) as caught:
        get(a.leave.remote(how))
    assert caught.value.reason == reason and caught.value.executed == "maybe" and "Server" in str(caught.value)
    assert code is None or caught.value.exit_code == code
    with pytest.raises(soma.ActorDiedError) as caught:
        get(a.add.remote())
    assert caught.value.reason == reason and caught.value.executed == "no"


@pytest.mark.parametrize("how", ["exit_actor", "kill"])
def test_ends_that_override_max_restarts(tmp_path: Path, how: str) -> None:
    log = tmp_path / "log"
    a = Server.options(max_restarts=3).remote(str(log))
    get(a.add.remote())
    if how == "kill":
        soma.kill(a)
    else:
        with pytest.raises(soma.ActorDiedError):
            get(a.leave.remote(how))
    with pytest.raises(soma.ActorDiedError):
        while True:
            get(a.add.remote())
    assert log.read_text().split() == ["init"]


def test_a_restart_repeats_the_constructor_but_not_the_call(tmp_path: Path) -> None:
    log = tmp_path / "log"
    a = Server.options(max_restarts=1).remote(str(log))
    get(a.add.remote(5))
    with pytest.raises(soma.ActorDiedError) as caught:
        get(a.leave.remote(3))
    assert caught.value.exit_code == 3
    assert get(a.add.remote(1)) == 1
    assert log.read_text().split() == ["init", "init"]
    with pytest.raises(soma.ActorDiedError):
        get(a.leave.remote(4))
    with pytest.raises(soma.ActorDiedError) as caught:
        get(a.add.remote())
    assert caught.value.exit_code == 4
    assert log.read_text().split() == ["init", "init"]


def test_kill_that_leaves_restarts_in_force(tmp_path: Path) -> None:
    log = tmp_path / "log"
    a = Server.options(max_restarts=1, max_task_retries=1).remote(str(log))
    get(a.add.remote(5))
    soma.kill(a, no_restart=False)
    assert get(a.add.remote(1)) in (1, 6)  # 6: the call was faster than the kill, which then came
    assert get(a.add.remote(0)) in (0, 1, 6)


def test_a_call_is_repeated_after_a_death_where_asked(tmp_path: Path) -> None:
    @soma.remote(max_restarts=2, max_task_retries=2)
    class Mortal:
        def work(self, log: str) -> int:
            with open(log, "a+") as f:
                f.write("x")
                f.seek(0)
                tries = len(f.read())
            if tries < 3:
                sys.exit(1)
            return tries

    assert get(Mortal.remote().work.remote(str(tmp_path / "log"))) == 3


def test_state_is_restored_after_a_restart() -> None:
    a = Saved.options(max_restarts=1).remote()
    assert get([a.add.remote(5), a.add.remote(1)]) == [5, 6]
    with pytest.raises(soma.ActorDiedError):
        get(a.leave.remote(1))
    assert get(a.add.remote(1)) == 7


def test_kill_settles_everything() -> None:
    a = Server.remote()
    refs = [a.add.remote() for _ in range(10)]
    soma.kill(a)
    soma.kill(a)
    refs += [a.add.remote() for _ in range(10)]
    for ref in refs:
        try:
            assert get(ref) <= 20
        except soma.ActorDiedError as e:
            assert e.reason == "killed"
    with pytest.raises(soma.ActorDiedError):
        while True:
            get(a.add.remote())


def test_kill_and_get_actor_refuse() -> None:
    with pytest.raises(TypeError, match="handle"):
        soma.kill("a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nobody"):
        soma.get_actor("nobody")


def test_exit_actor_outside_an_actor() -> None:
    with pytest.raises(RuntimeError, match="outside"):
        soma.exit_actor()


def test_the_last_handle_ends_the_actor_and_detached_ones_stay() -> None:
    a = Server.options(name="fleeting").remote()
    b = Server.options(name="lasting", lifetime="detached").remote()
    assert get([a.add.remote(3), b.add.remote(3)]) == [3, 3]
    died: list[str] = []
    stop = soma.on_event(lambda e: died.append(e.actor_id) if isinstance(e, ActorDied) else None)
    id_a = a.actor_id
    del a, b
    gc.collect()
    lasting = soma.get_actor("lasting")
    assert get(lasting.add.remote()) == 4
    while id_a not in died:  # the test's own time limit ends this
        get(lasting.add.remote(0))
    with pytest.raises(ValueError, match="fleeting"):
        soma.get_actor("fleeting")
    stop()
    soma.kill(lasting)


def test_a_call_in_flight_outlives_its_handle() -> None:
    assert get(Server.remote().add.remote(9)) == 9


def test_events_tell_of_lives() -> None:
    events: list[ActorEvent] = []
    stop = soma.on_event(lambda e: events.append(e) if isinstance(e, ActorEvent) else None)
    a = Server.options(max_restarts=1).remote()
    get(a.add.remote())
    with pytest.raises(soma.ActorDiedError):
        get(a.leave.remote(3))
    get(a.add.remote())
    soma.kill(a)
    with pytest.raises(soma.ActorDiedError):
        while True:
            get(a.add.remote())
    while [type(e) for e in events if e.actor_id == a.actor_id].count(ActorDied) < 2:
        assert soma.is_initialized()  # events come by another thread than errors; the test's own time limit ends this
    mine = [type(e) for e in events if e.actor_id == a.actor_id]
    assert mine[0] is ActorStarted
    assert all(e.pid for e in events if isinstance(e, (ActorStarted, ActorDied)))
    assert [k for k in mine if k is not ActorStarted] == [ActorDied, ActorRestarted, ActorDied]
    assert [e.seq for e in events] == sorted({e.seq for e in events})
    assert len({e.run_id for e in events}) == 1 and events[0].run_id
    stop()
    stop()


def test_status_lists_actors(engine: str) -> None:
    a = Server.options(name="seen").remote()
    get(a.add.remote())
    found = soma.status()
    [mine] = [x for x in found["actors"] if x["actor_id"] == a.actor_id]
    assert mine["class_name"] == "Server" and mine["name"] == "seen" and mine["state"] == "ready"
    assert (mine["pid"] == os.getpid()) == (engine == "local")
    assert found["node_id"] and found["resources"]["CPU"] == 4


def test_a_second_init_says_so_and_one_may_ask_for_the_running_one() -> None:
    with pytest.raises(soma.AlreadyInitializedError, match="running"):
        soma.init(num_cpus=1)
    soma.init(ignore_reinit_error=True)
    assert soma.is_initialized()
