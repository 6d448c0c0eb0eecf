"""An event loop that reads its process's mailbox itself: no other thread has to wake it for each answer.

For processes that live in an event loop and make many small calls there. The loop must not be blocked for long: nobody else reads for
callbacks meanwhile (who waits in `get` does for himself, as ever).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from soma.actors.inbox import Inbox


def attend(inbox: Inbox, descriptor: int, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Let the running loop read the inbox; to be called in it.

    Args:
        descriptor: of the mailbox: readable, once, when something has come; -1 if it has none.

    Returns:
        What ends it; to be called in the loop too, or after it was closed. Does nothing if there was nothing to begin: without a
        descriptor, or where another loop reads already.
    """
    def look() -> None:
        try:
            loop.call_soon_threadsafe(inbox.read_now)
        except RuntimeError:
            return  # the loop is closed, without a word

    if descriptor < 0 or not inbox.attend(look):
        return lambda: None
    own = os.dup(descriptor)  # so that the loop never watches a descriptor that was closed, or given to another
    loop.add_reader(own, inbox.read_now)

    def leave() -> None:
        nonlocal own
        if own >= 0:
            if not loop.is_closed():
                loop.remove_reader(own)
            os.close(own)
            own = -1
            inbox.attend(None)

    return leave
