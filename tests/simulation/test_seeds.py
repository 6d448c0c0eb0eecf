"""Seeded histories of a cluster in which everything goes wrong; afterwards everything must be in order."""

from __future__ import annotations

import os
from typing import Any

import pytest
import world as w
from virtual_network import Message

from soma.daemon.coordination.nodesession import NodeSession


def test_many_seeds(seeds: range) -> None:
    for seed in seeds:
        w.play(seed)


@pytest.mark.skipif("SOMA_TEST_SEED" not in os.environ, reason="SOMA_TEST_SEED does not say which")
def test_one_seed() -> None:
    w.play(int(os.environ["SOMA_TEST_SEED"]))


def test_a_seed_is_one_history() -> None:
    one, other = w.World(3), w.World(3)
    one.run(), other.run()
    assert list(one.network.trace) == list(other.network.trace)
    assert one.journal == other.journal


def test_a_failing_seed_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that ignores that it was fenced is caught; so the histories can fail, and this is how they do."""

    def deaf(self: NodeSession, incarnation: int, seen: int, now: float) -> list[Any]:
        if incarnation == self.incarnation:
            self.incarnation = max(incarnation, seen) + 1
        return []

    monkeypatch.setattr(NodeSession, "fenced", deaf)
    with pytest.raises(AssertionError) as caught:
        for seed in range(100):
            w.play(seed)
    said = str(caught.value)
    assert "Violation" in said and "SOMA_TEST_SEED=" in said and "the last that happened" in said
    assert 50 < len(said.splitlines()) < 70


KINDS = ("join", "welcome", "register", "registered", "heartbeat", "beat_echo", "launch", "started", "kill", "exited", "confirmed",
         "fenced", "leave", "hello", "driver_beat", "want", "actor_is", "unwant", "call", "reply")
"""Requests and their answers: an answer that is lost is a request that was carried out and not answered."""


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_of_message_goes_wrong(kind: str) -> None:
    """The first three are lost, come late, or come twice, in a history in which every kind is sent; also if the head restarts."""
    for fate in ("lost", "late", "doubled"):
        for kill_head in (False, True):
            for seed in (11, 12):
                play_kind(seed, kind, fate, kill_head)


def play_kind(seed: int, kind: str, fate: str, kill_head: bool) -> None:
    met: list[Message] = []

    def meddle(sender: str, to: str, message: Message) -> str | None:
        if message[0] != kind or len(met) == 3:
            return None
        met.append(message)
        return fate

    world = w.World(seed, faults=False, meddle=meddle)
    a, b = world.drivers.values()
    try:
        for driver in (a, b, a, b):
            driver.want(restarts=5)
        world.pass_time(6.0)
        a.call(), b.call()
        world.pass_time(1.0)
        node = next(node for node in world.nodes.values() if node.processes)
        node.exited(next(iter(node.processes)), "crashed")
        a.kill(), a.call()
        world.pass_time(1.0)
        if kill_head:
            world.crash_head()
        world.network.partition([("n1", w.HEAD), (w.HEAD, "n1")], 22.0)  # it is lost, whenever the head comes back
        world.pass_time(30.0)
        world.nodes["n2"].leave()
        world.pass_time(6.0)
        assert met, f"no {kind} was sent"
        world.heal()
        world.pass_time(w.QUIET)
        world.check_quiet()
    except AssertionError as error:
        raise AssertionError(f"{kind} {fate}, head restarts: {kill_head}\n{w.explain(world, error)}") from error
