"""One slot is sent the next prediction while it is busy. Nobody can tell, but for how soon it begins."""

from __future__ import annotations

import os
import random
import signal
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_lives import LATE, Server, served, written

pytestmark = pytest.mark.crash

PREDICTOR = textwrap.dedent("""
    import os, time
    from soma.serve import CancelationException

    class Predictor:
        def predict(self, do: str, n: float = 1) -> str:
            with open(os.path.join(os.path.dirname(__file__), "ran"), "a") as f:
                f.write(f"{do}\\n")
            print("begun", flush=True)
            end = time.monotonic() + n
            while True:
                try:
                    time.sleep(max(0, end - time.monotonic()))  # workload
                    return f"{do} {os.getpid()}"
                except CancelationException:
                    if do != "stubborn":
                        raise
""")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ahead")


@pytest.fixture(scope="module")
def one(shared_cluster: Any, folder: Path) -> Iterator[Server]:
    with served(written(folder, PREDICTOR), grace=0.3) as server:
        yield server


@pytest.fixture(autouse=True)
def fresh(one: Server, folder: Path) -> None:
    one.until_free(1)
    one.serving.service._stable.desk._deaths.clear()
    (folder / "ran").write_text("")


def ahead(server: Server) -> Any:
    """What waits in the slot's process."""
    (life,) = server.serving.service._stable._lives.values()
    return None if life.ahead is None else life.ahead.prediction.id


def ran(folder: Path) -> list[str]:
    return (folder / "ran").read_text().split()


def test_what_waits_in_the_slot_is_canceled_at_once_and_never_runs(one: Server, folder: Path) -> None:
    first = one.start("first", 30)
    one.heard(first, "begun")
    second, third = one.start("second"), one.start("third", 0)
    assert ahead(one) == second and one.health()["slots"]["queue"] == 2 and one.get(second)["status"] == "starting"
    began, restarts = time.monotonic(), one.health()["restarts"]
    one.cancel(second)
    assert one.ended(second)["status"] == "canceled" and time.monotonic() - began < 5
    assert one.get(first)["status"] == "processing" and one.get(third)["status"] == "starting"
    one.cancel(first)
    assert one.ended(first)["status"] == "canceled"
    assert one.ended(third)["status"] == "succeeded"
    assert ran(folder) == ["first", "third"] and one.health()["restarts"] == restarts


def test_what_waits_in_a_slot_that_is_killed_runs_in_the_next_process(one: Server, folder: Path) -> None:
    before = one.predict("before", 0)["output"].split()[1]
    first = one.start("first", 30)
    one.heard(first, "begun")
    second, third = one.start("second", 0), one.start("third", 0)
    assert ahead(one) == second
    os.kill(int(before), signal.SIGKILL)
    assert "SIGKILL" in one.ended(first)["error"]
    ended = one.ended(second), one.ended(third)
    assert [e["status"] for e in ended] == ["succeeded", "succeeded"] and ended[0]["output"].split()[1] != before
    assert ran(folder) == ["before", "first", "second", "third"], "in their order, each once"


def test_the_next_one_outlives_a_cancel_that_has_to_kill(one: Server, folder: Path) -> None:
    first = one.start("stubborn", 30)
    one.heard(first, "begun")
    second = one.start("second", 0)
    assert ahead(one) == second
    restarts = one.health()["restarts"]
    one.cancel(first)
    assert one.ended(first)["status"] == "canceled" and one.ended(second)["status"] == "succeeded"
    assert one.health()["restarts"] == restarts + 1 and ran(folder) == ["stubborn", "second"]


def test_what_cannot_be_sent_fails_and_the_slot_goes_on(one: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = one.serving.service._stable
    kind = deployment._kind

    def job_of(prediction: Any) -> Any:
        if prediction.clean["do"] == "odd":
            raise TypeError("as the test wants")
        return kind.job_of(prediction)

    monkeypatch.setattr(deployment, "_kind", replace(kind, job_of=job_of))
    assert "cannot be sent to its slot: TypeError: as the test wants" in one.predict("odd")["error"]
    first = one.start("first", 30)
    one.heard(first, "begun")
    odd = one.start("odd")
    assert one.ended(odd)["status"] == "failed" and ahead(one) is None
    third = one.start("third", 0)
    assert ahead(one) == third
    one.cancel(first)
    assert one.ended(third)["status"] == "succeeded" and ran(folder) == ["first", "third"]


def test_how_long_it_took_is_measured_where_it_ran(one: Server) -> None:
    ids = [one.start("nap", 0.05) for _ in range(4)]
    took = [one.ended(id)["metrics"]["predict_time"] for id in ids]
    assert all(0.05 <= t < 5 for t in took), took


def test_any_order_of_cancels(one: Server, folder: Path) -> None:
    """Whoever is not canceled ends well, nobody runs twice, and the slot is free afterwards."""
    rng = random.Random(7)
    with httpx.Client(base_url=one.url, timeout=LATE) as client:
        for round in range(40):
            ids = [one.start(f"r{round}i{i}", 0.002) for i in range(5)]
            canceled = rng.sample(ids, 3)
            for id in canceled:
                assert client.post(f"/predictions/{id}/cancel").status_code == 200
            for id in ids:
                assert one.ended(id)["status"] in ("succeeded", *(["canceled"] if id in canceled else []))
            times = Counter(ran(folder))
            assert all(times[f"r{round}i{i}"] == 1 for i, id in enumerate(ids) if id not in canceled)
            assert max(times.values()) == 1
    one.until_free(1)
    assert ahead(one) is None and one.predict("after", 0)["status"] == "succeeded"
