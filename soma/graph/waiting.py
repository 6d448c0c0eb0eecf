"""The two ways to wait for what a run needs: in this thread, or as a coroutine."""

from __future__ import annotations

import asyncio
from typing import Any

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.graph.calls import Refs
from soma.graph.execution import Drive, Execution


def wait_for(execution: Execution, drive: Drive) -> None:
    """Run it to its end in this thread. Ctrl-C cancels what runs."""
    try:
        refs = next(drive)
        while True:
            settled, _ = cluster.wait(refs, num_returns=1, timeout=execution.patience)
            refs = drive.send(tuple(settled))
    except StopIteration:
        return
    except KeyboardInterrupt:
        execution.interrupted()
        raise


async def wait_async(execution: Execution, drive: Drive) -> None:
    """The same without holding up the event loop. Cancelling it cancels what runs."""
    futures: dict[ObjectRef[Any], asyncio.Future[Any]] = {}
    try:
        refs = next(drive)
        while True:
            futures = {r: futures.get(r) or asyncio.wrap_future(r.future()) for r in refs}
            await asyncio.wait(futures.values(), timeout=execution.patience, return_when=asyncio.FIRST_COMPLETED)
            refs = drive.send(_settled(futures))
    except StopIteration:
        return
    except asyncio.CancelledError:
        execution.interrupted()
        raise


def _settled(futures: dict[ObjectRef[Any], asyncio.Future[Any]]) -> Refs:
    done = tuple(ref for ref, future in futures.items() if future.done())
    for ref in done:
        if not futures[ref].cancelled():
            futures[ref].exception()  # looked at: the run raises it itself
    return done
