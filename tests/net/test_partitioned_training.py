"""Training whose ranks are on several hosts, when a cable is pulled in the middle of an all-reduce."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import hosts as network
import pytest
from console import Console
from machines import machines

pytest.importorskip("torch")
pytestmark = [pytest.mark.crash, pytest.mark.slow]

HEARTBEAT, GRACE = 0.5, 3.0

TRAINING = """
import torch
from soma.events import GroupRestarted, StepCompleted
from soma.train import DataParallel

X = np.random.default_rng(0).normal(size=(64, 500))
Y = X @ np.random.default_rng(1).normal(size=(500, 2)) / 20

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(500, 2000), torch.nn.Tanh(), torch.nn.Linear(2000, 2)).double()

def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)

def alone(epochs):
    module = net()
    optimizer = sgd(module.parameters())
    for epoch in range(epochs):
        taken = np.random.default_rng([0, epoch]).permutation(len(X))
        for start in range(0, len(X), 16):
            which = taken[start:start + 16]
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(module(torch.from_numpy(X[which])), torch.from_numpy(Y[which])).backward()
            optimizer.step()
    return module

def fitted(epochs, sign, **how):
    "Trains with a whole machine for each rank; makes the file `sign` at the sixth step, which says where ranks are."
    events = []
    def hear(event):
        events.append(event)
        if isinstance(event, StepCompleted) and event.step == 5 and not os.path.exists(sign):
            with open(sign + ".new", "w") as f:
                f.write(" ".join(f"{a['node_id']}:{a['pid']}" for a in soma.status()["actors"]
                                 if a["class_name"] in ("Rank", "SectionReducer")))
            os.rename(sign + ".new", sign)
    trained = DataParallel(net(), 2, optimizer=sgd, num_cpus=4, tags=("work",), **how).fit(
        X, Y, epochs=epochs, batch_size=16, record=False, listeners=[hear])
    wanted = alone(epochs)
    right = all(torch.allclose(a, b, atol=1e-9) for a, b in zip(trained.model.parameters(), wanted.parameters()))
    return right, trained.generations, [(e.ranks, len(e.lost)) for e in events if isinstance(e, GroupRestarted)]

def error(*args, **kwargs):
    try:
        return fitted(*args, **kwargs)
    except soma.SomaError as e:
        return type(e).__name__, getattr(e, "reason", ""), str(e) + " ".join(getattr(e, "__notes__", ()))
"""


def begun(driver: Console, sign: Path, text: str) -> dict[str, list[int]]:
    """Train, and wait until it is under way: pids of ranks and reducers, by host."""
    driver.send(text)
    over, until = threading.Event(), time.monotonic() + 20
    while not sign.exists():
        assert time.monotonic() < until, driver.hear(0.1)
        over.wait(0.005)
    found: dict[str, list[int]] = {}
    for word in sign.read_text().split():
        node, _, pid = word.partition(":")
        found.setdefault(node, []).append(int(pid))
    return found


@pytest.mark.timeout(150)
def test_a_cable_is_pulled_in_the_middle_of_an_all_reduce(hosts: network.Hosts, tmp_path: Path) -> None:
    """With fewer ranks allowed it goes on, else it ends with an error that says why; and what was cut off is ended, not met again."""
    with machines(hosts, "--heartbeat", str(HEARTBEAT), "--grace", str(GRACE)) as made, made.driver() as driver:
        driver.ask(TRAINING, 30)
        first = begun(driver, tmp_path / "1", f"fitted(8, {str(tmp_path / '1')!r}, min_ranks=1)")
        assert {node: len(pids) for node, pids in first.items()} == {"h1": 2, "h2": 2}
        hosts[1].link_down()
        assert driver.hear(GRACE + 20) == [True, 2, [[1, 1]]]
        assert network.still_alive(first["h1"], 0) == first["h1"], "nobody could tell them yet"
        hosts[1].link_up()
        back = time.monotonic() + 15
        while driver.ask("nodes()") != ["h0", "h1", "h2"]:
            assert time.monotonic() < back, "h1 comes back"
        assert network.still_alive([pid for pids in first.values() for pid in pids], 2) == [], "alive before its old ranks were gone"
        second = begun(driver, tmp_path / "2", f"error(400, {str(tmp_path / '2')!r})")
        cut = time.monotonic()
        hosts[2].link_down()
        name, reason, said = driver.hear(GRACE + 10)
        assert time.monotonic() - cut < GRACE + 4
        assert (name, reason) == ("ActorDiedError", "node"), said
        assert "node h2" in said and "1 of 2 ranks are left" in said and "the machines that are left can hold 1" in said
        assert network.still_alive(second["h1"], 2) == [], "what was made for the training"
        hosts[2].link_up()
        assert network.still_alive(second["h2"], 15) == [], "fenced"
