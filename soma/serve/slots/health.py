"""`HealthBoard`: where the front end asks a slot that is busy for its health, and where a thread of the slot waits for being asked.

A serial slot answers nothing while it predicts, so its user's `healthcheck` runs in a thread of its own, which long-polls this async
actor. One that is slow delays nobody but who asked.
"""

from __future__ import annotations

import asyncio
from typing import Any

Health = dict[str, Any]
"""`ok`, `error`."""


class HealthBoard:
    """Questions and answers, by slot."""

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Future[Health]] = {}
        self._changed = asyncio.Condition()

    async def ask(self, slot: str) -> Health:
        """What the slot's healthcheck says; who asks while it is asked already gets the same answer. Waits as long as it takes."""
        answer = self._asked.get(slot)
        if answer is None:
            answer = self._asked[slot] = asyncio.get_running_loop().create_future()
            async with self._changed:
                self._changed.notify_all()
        return await asyncio.shield(answer)

    async def wait(self, slot: str) -> None:
        """By the slot: until it is asked."""
        async with self._changed:
            await self._changed.wait_for(lambda: slot in self._asked)

    async def say(self, slot: str, health: Health) -> None:
        """By the slot: what was asked for."""
        answer = self._asked.pop(slot, None)
        if answer is not None and not answer.done():
            answer.set_result(health)

    async def drop(self, slot: str) -> None:
        """By the front end: that slot's process is gone; who still waits hears it."""
        await self.say(slot, {"ok": False, "error": "the process of the slot is gone"})


def verdict(said: object) -> Health:
    """What a healthcheck that returned means: True or nothing is well."""
    return {"ok": True, "error": ""} if said is None or said else {"ok": False, "error": "the healthcheck returned False"}
