"""soma over three hosts: what is seen and left when processes and cables die.

Bounds are the promised times with room for a busy machine. An outage or a workload is slept through; nothing else is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import hosts as network
import pytest
from console import Console
from faultpipe import Faults
from faultproxy import FaultProxy
from machines import PORT, Machines, assert_gone, kill, machines

pytestmark = pytest.mark.crash


def until(true: Callable[[], object], within: float, what: str) -> float:
    """Ask again and again (each question takes its time at the other end); the seconds that it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within, f"not within {within} s: {what}"
    return time.monotonic() - began


def moved(driver: Console) -> int:
    """The pid of the wandering actor once it is on the other machine. A call sent before the driver heard of the death may have run."""
    until(lambda: driver.ask("outcome(moves.node.remote())") == {"value": "h2"}, 10, "the actor goes on elsewhere")
    return int(driver.ask("soma.get(moves.pid.remote(), timeout=5)"))


# -- processes die ------------------------------------------------------------------------------------------------------

MOMENTS = {
    "idle": ("", ""),
    "in a call": ("victim.nap.remote(30)", "soma.get(victim.call.remote(1), timeout=10)"),
    "while a large value comes": ("victim.give.remote()", "soma.get(victim.call.remote(1), timeout=10)"),
}
"""What the victim is doing: the call that will be in progress, and what makes sure that the victim is there."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_actor_is_killed(moment: str, well: Machines, tmp_path: Path) -> None:
    """Its callers hear why; a restartable one comes back; others do not notice."""
    call, _ = MOMENTS[moment]
    sign = tmp_path / "begun"  # hosts share the files; a call that has not begun would be made again
    call = call.replace("nap.remote(30)", f"nap.remote(30, {str(sign)!r})")
    with well.driver() as driver:
        driver.ask("victim, other = on('h1', max_restarts=1).remote(50_000_000), on('h1').remote()")
        pid = driver.ask("soma.get(victim.pid.remote(), timeout=10)")
        driver.ask(f"ref = {call or None}; again = other.nap.remote(1)")
        if "nap" in call:
            until(sign.exists, 5, "the call has begun")
        killed = kill(pid)
        if call:
            found = driver.ask("outcome(ref)")
            assert time.monotonic() - killed < 3
            assert found.get("signal") == "SIGKILL" or (moment.startswith("while") and "value" in found) or found.get("executed") == "no"
        until(lambda: driver.ask("outcome(victim.pid.remote())").get("value", pid) != pid, 10, "the second incarnation answers")
        assert driver.ask("soma.get(again, timeout=5)") == "rested"


@pytest.mark.parametrize("moment", ["in a call", *(pytest.param(m, marks=pytest.mark.slow) for m in MOMENTS if m != "in a call")])
def test_a_driver_is_killed(moment: str, well: Machines) -> None:
    """All that it made is gone, on every machine; the actors of another driver are not."""
    call, sure = MOMENTS[moment]
    victim, other = well.start_driver(0), well.start_driver(1)
    victim.ask("made = [on(f'h{n}').remote(50_000_000) for n in range(3)]")
    pids = victim.ask("soma.get([a.pid.remote() for a in made], timeout=15)")
    pids.append(victim.ask("soma.get(made[1].spawn_sleeper.remote(), timeout=10)"))
    other.ask("mine = on('h2').remote()")
    kept = other.ask("soma.get(mine.pid.remote(), timeout=10)")
    if call:
        victim.ask("victim = made[1]; " + sure)
        victim.send(f"refs = [{call} for victim in made]; soma.get(refs)")
    kill(victim.pid)
    assert_gone(pids, within=5)
    victim.close()
    assert other.ask("soma.get(mine.pid.remote(), timeout=5)") == kept
    other.close()  # it ends without a word
    assert_gone([kept], within=5)


@pytest.mark.slow
def test_a_node_is_killed(hosts: network.Hosts) -> None:
    """Its actors die with a reason within 3 s, a restartable one goes on elsewhere, and the machine can join again: at each moment."""
    with machines(hosts) as made, made.driver() as driver:
        driver.ask("away = on('h2').remote()")
        for moment, (call, sure) in MOMENTS.items():
            driver.ask("victim, moves = on('h1').remote(50_000_000), wandering('h1')")
            pids = driver.ask("soma.get([w.pid.remote() for w in (victim, moves)] + [victim.spawn_sleeper.remote()], timeout=15)")
            assert driver.ask("soma.get(moves.node.remote(), timeout=5)") == "h1"
            if sure:
                driver.ask(sure)
            driver.ask(f"ref = {call or None}; again = away.nap.remote(2)")
            killed = kill(made.agent_pids[1])
            if call:
                found = driver.ask("outcome(ref)")
                assert time.monotonic() - killed < 3, moment
                assert found.get("reason") == "node" or (moment.startswith("while") and "value" in found), found
            until(lambda: driver.ask("outcome(victim.pid.remote())").get("reason") == "node", killed + 3 - time.monotonic(), moment)
            later = driver.ask("outcome(victim.pid.remote())")
            assert later["executed"] == "no" and "node h1" in later["died"], later
            assert_gone(pids, within=3)
            assert moved(driver) not in pids
            assert driver.ask("soma.get(again, timeout=5)") == "rested", "others do not notice"
            assert driver.ask("nodes()") == ["h0", "h2"]
            made.join(1)
        assert driver.ask("soma.get(on('h1').remote().call.remote(5), timeout=15)", 20) == 5


# -- cables -------------------------------------------------------------------------------------------------------------


def pulled(hosts: network.Hosts) -> Callable[[], None]:
    host: network.Host = hosts[1]
    host.link_down()
    return host.link_up


def cut(hosts: network.Hosts, a: int, b: int) -> Callable[[], None]:
    hosts.partition(hosts[a], hosts[b], one_way=True)

    def heal() -> None:
        hosts.heal(hosts[a], hosts[b])

    return heal


OUTAGES: dict[str, Callable[[network.Hosts], Callable[[], None]]] = {
    "cable": pulled, "to the node": lambda hosts: cut(hosts, 0, 1), "from the node": lambda hosts: cut(hosts, 1, 0)}
"""Each begins one and returns what ends it."""


@pytest.mark.slow
def test_a_short_outage_is_not_seen(hosts: network.Hosts) -> None:
    """Two seconds in the middle of calls: all answered, in order, each run once, no node lost, no process replaced."""
    with machines(hosts, joined=2) as made, made.driver() as driver:
        for begin in OUTAGES.values():
            driver.ask("a = on('h1').remote()")
            pid = driver.ask("soma.get(a.pid.remote(), timeout=15)")
            driver.send("refs = [(a.call.remote(n), time.sleep(0.003))[0] for n in range(1000)]; found = soma.get(refs, timeout=25)")
            time.sleep(0.5)  # workload: calls before the outage
            end = begin(hosts)
            time.sleep(2)  # workload: the outage
            end()
            driver.hear(30)
            assert driver.ask("found == list(range(1000)) == soma.get(a.seen.remote(), timeout=10)")
            assert driver.ask("soma.get(a.pid.remote(), timeout=5)") == pid
            assert driver.ask("nodes()") == ["h0", "h1"]


def test_a_long_outage_loses_the_node_and_fences_it(hosts: network.Hosts) -> None:
    """Lost after the grace; actors go on elsewhere; when the cable is back the old ones are gone before the node is alive again."""
    with machines(hosts, "--heartbeat", "0.5", "--grace", "3") as made, made.driver() as driver:
        driver.ask("stays, moves = on('h1').remote(), wandering('h1')")
        old = driver.ask("soma.get([w.pid.remote() for w in (stays, moves)], timeout=15)")
        child = driver.ask("soma.get(stays.spawn_sleeper.remote(), timeout=10)")
        driver.ask("ref = stays.nap.remote(60)")
        hosts[1].link_down()
        began = time.monotonic()
        found = driver.ask("outcome(ref, 15)", 20)
        assert found["reason"] == "node" and found["executed"] == "maybe"
        assert 1.0 < time.monotonic() - began < 3 + 3
        new = moved(driver)
        assert new not in old
        assert network.still_alive([*old, child], 0) == [*old, child], "nobody could tell them yet"
        hosts[1].link_up()
        until(lambda: driver.ask("'h1' in nodes()"), 15, "the node is back")
        assert network.still_alive(old, 0) == [], "alive before its old actors were gone"
        assert_gone([child], within=2)
        assert driver.ask("soma.get(moves.pid.remote(), timeout=5)") == new, "the old one does not come back"
        assert driver.ask("soma.get(on('h1').remote().call.remote(5), timeout=15)", 20) == 5


@pytest.mark.slow
def test_two_nodes_that_do_not_reach_each_other(hosts: network.Hosts) -> None:
    """The head reaches both, so both live; a call between them waits, and is answered once the cut is healed."""
    with machines(hosts) as made, made.driver() as driver:
        driver.ask("a, b = on('h1').remote(), on('h2').remote()")
        driver.ask("soma.get([w.pid.remote() for w in (a, b)], timeout=15)")
        hosts.partition(hosts[1], hosts[2])
        driver.ask("ref = a.through.remote(b, 1)")
        time.sleep(2)  # workload: the outage
        assert driver.ask("len(nodes())") == 3
        assert driver.ask("soma.get(b.call.remote(0), timeout=5)") == 0
        hosts.heal(hosts[1], hosts[2])
        assert driver.ask("soma.get(ref, timeout=15)", 20) == 1
        assert driver.ask("soma.get(b.seen.remote(), timeout=5)") == [0, 1]


BAD_LINES = {
    "late": (Faults(latency=0.05, jitter=0.05), 1.0), "in single bytes": (Faults(slices=1), 1.0), "stalled": (Faults(stalled=True), 1.0),
    "damaged": (Faults(flip=1e-3), 0.3),  # it breaks the connection, which has 1.5 s to come back
}
"""What is wrong, and for how many seconds."""


@pytest.mark.slow
def test_a_bad_line_to_the_head(hosts: network.Hosts) -> None:
    """Late, in single bytes, stalled, damaged, each ending with a reset: the node stays the same node with the same actors."""
    with machines(hosts, joined=1) as made:
        head = (hosts[0].address, PORT)
        with FaultProxy(head, host=hosts[1].address, port=PORT, namespace=hosts[1].namespace) as proxy, made.driver() as driver:
            proxy.set(BAD_LINES["late"][0])
            made.join(1, address=proxy.endpoint)
            proxy.set(Faults())
            driver.ask("a = on('h1').remote()")
            first = driver.ask("soma.get(a.pid.remote(), timeout=15)")
            for what, (faults, seconds) in BAD_LINES.items():
                proxy.set(faults)
                time.sleep(seconds)  # workload
                proxy.set(Faults())
                proxy.reset_all()
                until(lambda: proxy.connections() and driver.ask("nodes()") == ["h0", "h1"], 5, f"{what}: it connects again, and beats")
                assert driver.ask("outcome(a.pid.remote())") == {"value": first}, what
