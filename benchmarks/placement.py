"""How many tasks a second the head places: 10,000 of one CPU on 1,000 nodes of four, in memory, no process and no message.

`python -m benchmarks.placement` prints the median of some rounds for every strategy and two ways of coming: all tasks at once, in waves as
the nodes fill; and one by one, each admitted when it comes or when another ends. Promised: 20,000 a second, each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median

from soma.actors.admission import ClusterQueue, Pools, Where

PROMISED = 20_000
STRATEGIES = (Where(), Where(strategy="SPREAD", kind="f"), Where(strategy="PACK"))


def cluster(nodes: int) -> Pools:
    pools = Pools()
    for i in range(nodes):
        pools.add_node(f"n{i}", {"CPU": 4, "memory": 16 * 2**30})
    return pools


def in_waves(pools: Pools, tasks: int, where: Where) -> None:
    """All wait; whenever the nodes are full, all of them end."""
    queue, placed = ClusterQueue(), 0
    for i in range(tasks):
        queue.add(f"t{i}", {"CPU": 1}, where)
    while queue:
        admitted = queue.admit(pools)
        placed += len(admitted)
        for holder, _ in admitted:
            pools.release(holder)
    assert placed == tasks


def one_by_one(pools: Pools, tasks: int, where: Where) -> None:
    """Each is admitted if it can be when it comes; the others as one after the other ends."""
    queue, running = ClusterQueue(), []
    for i in range(tasks):
        queue.add(f"t{i}", {"CPU": 1}, where)
        running += queue.admit(pools)
    for holder, _ in running:  # it grows
        pools.release(holder)
        running += queue.admit(pools)
    assert len(running) == tasks


def placements_per_second(work: Callable[[Pools, int, Where], None], where: Where, tasks: int = 10_000, nodes: int = 1000,
                          rounds: int = 5) -> float:
    """The median of `rounds`."""
    found = []
    for _ in range(rounds):
        pools = cluster(nodes)
        begin = time.perf_counter()
        work(pools, tasks, where)
        found.append(tasks / (time.perf_counter() - begin))
    return median(found)


def main() -> int:
    figures = {f"{work.__name__}, {where.strategy}": round(placements_per_second(work, where))
               for work in (in_waves, one_by_one) for where in STRATEGIES}
    print(json.dumps({"placements per second": figures, "promised": PROMISED, "met": min(figures.values()) >= PROMISED}, indent=2))
    return 0 if min(figures.values()) >= PROMISED else 1


if __name__ == "__main__":
    raise SystemExit(main())
