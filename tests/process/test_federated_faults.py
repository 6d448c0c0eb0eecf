"""Federated training whose clients die, hang, raise or send what cannot be used, and whose aggregator dies: no hang, nothing left."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import soma
from soma.errors import GroupBrokenError, NonFiniteError, QuorumError, StateMismatchError
from soma.events import Event, RoundCompleted
from soma.train.federated import Federated

pytestmark = pytest.mark.crash
ZERO = {"w": np.zeros(200_000)}
"""Large enough to travel through shared memory."""


def good(state: Any, round: int) -> Any:
    return {"w": state["w"] + 1}, 1


def bad_in_round_1(act: Callable[[Any], Any]) -> Callable[[Any, int], Any]:
    def client(state: Any, round: int) -> Any:
        given = act(state) if round == 1 else None
        return good(state, round) if given is None else (given, 1)

    return client


def killed(state: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raises(state: Any) -> None:
    raise ValueError("no such column")


def hangs(state: Any) -> None:
    time.sleep(60)  # workload: a client that does not answer


def hangs_in_c(state: Any) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGURG})
    time.sleep(60)  # workload: and cannot be interrupted


def leaves(state: Any) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize(("act", "deadline", "why"), [
    (killed, None, "was ended by SIGKILL"), (raises, None, "ValueError: no such column"), (leaves, None, "exited with code 3"),
    (hangs, 0.5, "not done at the deadline of 0.5 s"), (hangs_in_c, 0.5, "not done at the deadline of 0.5 s")])
def test_a_client_that_fails_is_left_out_and_named_and_takes_part_again(shared_cluster: Any, act: Any, deadline: float | None,
                                                                        why: str) -> None:
    heard: list[Event] = []
    began = time.monotonic()
    got = Federated(None, {"a": good, "b": bad_in_round_1(act), "c": good}, rounds=4, initial=ZERO, deadline=deadline).fit(
        record=False, listeners=[heard.append])
    assert time.monotonic() - began < 8
    assert [h.clients for h in got.history] == [("a", "b", "c"), ("a", "c"), ("a", "b", "c"), ("a", "b", "c")]
    assert why in got.history[1].left_out["b"] and list(got.history[1].left_out) == ["b"]
    assert [dict(e.left_out) for e in heard if isinstance(e, RoundCompleted)] == [h.left_out for h in got.history]
    assert got.state["w"].min() == got.state["w"].max() == 4


def test_clients_that_share_a_process_with_one_that_fails_still_get_their_turn(shared_cluster: Any) -> None:
    clients = {"a": bad_in_round_1(killed), "b": good, "c": bad_in_round_1(raises), "d": good}
    got = Federated(None, clients, rounds=3, initial=ZERO, max_processes=1).fit(record=False)
    assert [h.clients for h in got.history] == [tuple("abcd"), ("b", "d"), tuple("abcd")]


def test_who_waits_behind_one_that_hangs_is_named_too(shared_cluster: Any) -> None:
    clients = {"a": good, "b": bad_in_round_1(hangs), "c": good}
    got = Federated(None, clients, rounds=2, initial=ZERO, max_processes=1, deadline=1.0, quorum=1).fit(record=False)
    assert got.history[1].clients == ("a",) and got.history[1].left_out == {
        "b": "not done at the deadline of 1 s", "c": "not begun at the deadline of 1 s"}


def test_answers_that_come_just_at_the_deadline(shared_cluster: Any) -> None:
    """Each counts or is left out, and no round waits for what does not come."""
    def edge(state: Any, round: int) -> Any:
        time.sleep(0.038 + 0.001 * (round % 5))  # workload
        return good(state, round)

    began = time.monotonic()
    for _ in range(3):
        try:
            got = Federated(None, {"a": edge, "b": edge}, rounds=10, initial=ZERO, deadline=0.042, quorum=1).fit(record=False)
        except QuorumError as e:
            assert "not done at the deadline" in str(e)
        else:
            assert all(sorted((*h.clients, *h.left_out)) == ["a", "b"] for h in got.history) and got.state["w"].max() == 10
    assert time.monotonic() - began < 20


def test_too_few_names_everyone_who_is_missing(shared_cluster: Any) -> None:
    clients = {"a": good, "b": bad_in_round_1(killed), "c": bad_in_round_1(raises), "d": bad_in_round_1(hangs)}
    with pytest.raises(QuorumError) as caught:
        Federated(None, clients, rounds=3, initial=ZERO, deadline=0.5).fit(record=False)
    said = str(caught.value)
    assert "round 1: 1 of 4 clients gave an update, 2 are needed" in said
    assert "'b': actor ClientHost" in said and "SIGKILL" in said and "'c': ValueError" in said and "'d': not done" in said


@pytest.mark.parametrize(("given", "error", "complaint"), [
    ({"v": np.zeros(3)}, StateMismatchError, r"client 'b': state\['w'\] is missing"),
    ({"w": np.zeros(3)}, StateMismatchError, r"client 'b': state\['w'\] is float64\[3\], but of the global state it is float64\[200000\]"),
    ({"w": np.full(200_000, np.nan)}, NonFiniteError, r"client 'b', round 1: state\['w'\] holds NaN or infinity"),
])
def test_updates_that_cannot_be_used(shared_cluster: Any, given: Any, error: type[Exception], complaint: str) -> None:
    clients = {"a": good, "b": bad_in_round_1(lambda state: given), "c": good}
    with pytest.raises(error, match=complaint):
        Federated(None, clients, rounds=3, initial=ZERO).fit(record=False)


def test_nan_can_be_skipped(shared_cluster: Any) -> None:
    clients = {"a": good, "b": bad_in_round_1(lambda state: {"w": state["w"] * np.nan}), "c": good}
    got = Federated(None, clients, rounds=3, initial=ZERO, on_nonfinite="skip").fit(record=False)
    assert got.history[1].left_out == {"b": "state['w'] holds NaN or infinity"} and got.state["w"].max() == 3


def aggregator() -> int:
    (found,) = [a["pid"] for a in soma.status()["actors"] if a["class_name"].endswith("Aggregator")]
    return int(found)


@pytest.mark.parametrize("waiting", [True, False])
def test_the_aggregators_death_is_heard_of_at_once(shared_cluster: Any, tmp_path: Path, waiting: bool) -> None:
    """Also while all clients are at work for long, and nothing is asked of it."""
    def client(state: Any, round: int) -> Any:
        (tmp_path / "here").touch()
        time.sleep(60 if waiting else 0.005)  # workload
        return good(state, round)

    died: list[float] = []

    def kill() -> None:
        until = time.monotonic() + 10
        while not (tmp_path / "here").exists() and time.monotonic() < until:
            os.sched_yield()
        os.kill(aggregator(), signal.SIGKILL)
        died.append(time.monotonic())

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(GroupBrokenError, match="aggregator is gone.*SIGKILL"):
        Federated(None, {"a": client, "b": client}, rounds=100_000, initial=ZERO).fit(record=False)
    heard = time.monotonic()
    thread.join()
    assert heard - died[0] < 2.5, "100 ms on an idle machine, and the time to end the clients"


def test_ctrl_c_ends_the_run_and_its_processes(shared_cluster: Any, tmp_path: Path) -> None:
    def client(state: Any, round: int) -> Any:
        (tmp_path / f"here-{os.getpid()}").touch()
        time.sleep(60)  # workload: ended by the interrupt
        return good(state, round)

    def interrupt() -> None:
        until = time.monotonic() + 10
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
            os.sched_yield()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Federated(None, {"a": client, "b": client}, rounds=2, initial=ZERO).fit(record=False)
    thread.join()
    assert time.monotonic() - began < 10
    pids = [int(p.name.removeprefix("here-")) for p in tmp_path.iterdir()]
    assert len(pids) == 2
    gone, alive = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=3)
    assert alive == []
    assert Federated(None, {"a": good}, rounds=1, initial=ZERO).fit(record=False).state["w"][0] == 1, "the cluster goes on"


def test_an_idle_process_that_died_is_replaced_without_anybody_noticing(shared_cluster: Any) -> None:
    """Its client's call was never begun, so it is sent to another process."""
    def kill_hosts(state: Any) -> dict[str, float]:
        for actor in soma.status()["actors"]:
            if actor["class_name"] == "ClientHost":
                os.kill(actor["pid"], signal.SIGKILL)
        return {}

    got = Federated(None, {"a": good, "b": good}, rounds=3, initial=ZERO).fit(evaluate=kill_hosts, record=False)
    assert [h.clients for h in got.history] == [("a", "b")] * 3 and got.state["w"][0] == 3


def test_random_kills_never_hang(shared_cluster: Any) -> None:
    """Any process of the training, at any moment: it ends with a result, or an error that says why."""
    rng = np.random.default_rng(0)
    stop = threading.Event()

    def killer() -> None:
        while not stop.wait(0.02 + 0.05 * rng.random()):
            actors = [a for a in soma.status()["actors"] if a["class_name"] == "ClientHost" and a["pid"]]
            if actors:
                try:
                    os.kill(actors[rng.integers(len(actors))]["pid"], signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def client(state: Any, round: int) -> Any:
        time.sleep(0.02)  # workload
        return good(state, round)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        ended = 0
        for _ in range(4):
            try:
                got = Federated(None, dict.fromkeys("abc", client), rounds=8, initial=ZERO, quorum=1).fit(record=False)
                assert [h.round for h in got.history] == list(range(8)) and got.state["w"].max() == 8
            except QuorumError as e:
                assert "SIGKILL" in str(e)
            ended += 1
    finally:
        stop.set()
        thread.join()
    assert ended == 4
