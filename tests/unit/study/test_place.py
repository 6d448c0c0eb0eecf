"""The directory of a study: who works on it, whether somebody is gone, and what it was made to be."""

from __future__ import annotations

import gc
import json
import os
import socket
import threading
from pathlib import Path

import pytest

from soma.errors import StudyError
from soma.study.place import Alone, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("s", tmp_path).make()


def test_a_driver_lives_until_it_leaves_or_is_forgotten(place: Place) -> None:
    a, b = place.enter(), place.enter()
    assert place.drivers() == sorted([a.identity, b.identity]) and place.lives(a.identity) and place.lives(b.identity)
    with a:
        pass
    assert not place.lives(a.identity) and place.drivers() == [b.identity]
    gone = b.identity
    del b
    gc.collect()
    assert not place.lives(gone) and place.drivers() == [] and list((place.path / "drivers").iterdir()) == []


def test_a_driver_that_was_killed_is_gone_though_a_process_it_forked_lives(place: Place) -> None:
    told, tell = os.pipe()
    wait, go_on = os.pipe()
    pid = os.fork()
    if pid == 0:
        driver = place.enter()
        if os.fork() == 0:
            os.write(tell, f"{driver.identity}\n".encode())
            os.close(go_on)
            os.read(wait, 1)
            os._exit(0)
        os._exit(0)  # leaves no word
    os.waitpid(pid, 0)
    identity = os.read(told, 200).decode().strip()
    assert (place.path / "drivers" / identity.rpartition("/")[2]).exists() and not place.lives(identity)
    with place.enter() as fresh:
        assert [p.name for p in (place.path / "drivers").iterdir()] == [fresh.identity.rpartition("/")[2]]
    for end in (told, tell, wait, go_on):
        os.close(end)


def test_a_forked_process_does_not_end_its_parents_driver(place: Place) -> None:
    driver = place.enter()
    pid = os.fork()
    if pid == 0:
        driver.leave()
        os._exit(0)
    os.waitpid(pid, 0)
    assert place.lives(driver.identity)
    driver.leave()


def test_of_another_machine_nothing_is_known(place: Place) -> None:
    assert place.lives("elsewhere/12-ab") and not place.lives(f"{socket.gethostname()}/12-ab")


def test_one_at_a_time(place: Place) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with place.locked():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert most == 1


def test_stopping_and_going_on(place: Place) -> None:
    for it in (place, Alone("s")):
        assert not it.stopping
        it.stop()
        assert it.stopping
        it.go_on()
        it.go_on()
        assert not it.stopping


def test_a_description_is_replaced_whole_and_a_damaged_one_is_named(place: Place) -> None:
    assert place.description() is None
    place.describe({"name": "s", "seed": 1})
    place.describe({"name": "s", "seed": 2})
    told = place.description()
    assert told is not None and told["seed"] == 2 and told["cwd"] == os.getcwd()
    assert sorted(p.name for p in place.path.iterdir()) == ["description.json", "drivers"]
    (place.path / "description.json").write_text(json.dumps(told)[:10])
    with pytest.raises(StudyError, match=r"description\.json is damaged"):
        place.description()


def test_in_memory_there_are_drivers_too() -> None:
    place = Alone("s")
    with place.enter() as a, place.enter() as b:
        assert place.lives(a.identity) and place.lives(b.identity) and a.identity != b.identity
    assert not place.lives(a.identity) and place.path is None and place.description() is None
